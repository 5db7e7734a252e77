"""SegformerImageProcessor: images and segmentation maps to the model's arrays, and logits back to class maps."""

from __future__ import annotations

import dataclasses
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from tf_segformer.errors import CheckpointError
from tf_segformer.imaging import transforms
from tf_segformer.imaging.batches import as_list, collate
from tf_segformer.imaging.files import to_rgb
from tf_segformer.imaging.postprocess import class_map_from_logits
from tf_segformer.io import read_json, write_json

CONFIG_NAME = "preprocessor_config.json"

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_NEAREST = int(Image.Resampling.NEAREST)
_OLD_SPELLINGS = {"reduce_labels": "do_reduce_labels"}
_TYPE_FIELDS = ("image_processor_type", "feature_extractor_type")


@dataclass
class SegformerImageProcessor:
    """Prepares images for SegFormer, bit for bit as the Pillow-based processor of transformers 4.49.

    Everything that processor accepts gives the same bytes here. Beyond it, images that it rejects are taken:
    grayscale, palette, RGBA and 16-bit Pillow images become RGB (see `imaging.files.to_rgb`), and arrays (H, W)
    count as grayscale; pass `input_data_format` to have the channels as they are. One difference: the channels of a
    Pillow image are always its last axis, while the original takes an image 1 or 3 pixels high for channels first.

    Args:
        do_resize: Resize images and segmentation maps to `size`.
        size: Target size: {"height": int, "width": int}, one int for a square, or (height, width).
        resample: Pillow's filter for images: 0 nearest, 1 Lanczos, 2 bilinear, 3 bicubic, 4 box, 5 Hamming.
            Segmentation maps are always resized with nearest.
        do_rescale: Multiply pixel values by `rescale_factor`.
        rescale_factor: Factor, 1/255 for 8-bit images.
        do_normalize: Subtract `image_mean` and divide by `image_std`.
        image_mean: Mean of each channel after rescaling, or one number; None is ImageNet's.
        image_std: Standard deviation of each channel, or one number, not 0; None is ImageNet's.
        do_reduce_labels: Turn label 0 of segmentation maps into 255 (ignored) and lower the others by one (ADE20K).
        apply_exif_orientation: Turn Pillow images as their EXIF tag says. Off by default: the original ignores it.
        extra: Fields of a preprocessor_config.json that this class does not know; written back by `to_dict`.

    Raises:
        ValueError: A field is out of range; the message names it and its value.

    Source: `SegformerImageProcessor` of Hugging Face transformers 4.49 (behaviour and field names).

    Example:
        >>> processor = SegformerImageProcessor(size=64)
        >>> processor(Image.new("RGB", (100, 80)))["pixel_values"].shape
        (1, 64, 64, 3)
    """

    do_resize: bool = True
    size: Mapping[str, int] | int | Sequence[int] = 512
    resample: int = 2
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True
    image_mean: float | Sequence[float] | None = None
    image_std: float | Sequence[float] | None = None
    do_reduce_labels: bool = False
    apply_exif_orientation: bool = False
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.size = _as_size(self.size)
        if self.resample not in list(Image.Resampling):
            known = ", ".join(f"{one.value} {one.name.lower()}" for one in Image.Resampling)
            raise ValueError(f"resample must be one of Pillow's filters ({known}), but is {self.resample!r}.")
        self.resample = int(self.resample)
        if not _is_finite(self.rescale_factor):
            raise ValueError(f"rescale_factor must be a finite number, but is {self.rescale_factor!r}.")
        self.image_mean = _as_channel_values(
            "image_mean", IMAGENET_MEAN if self.image_mean is None else self.image_mean
        )
        self.image_std = _as_channel_values("image_std", IMAGENET_STD if self.image_std is None else self.image_std)
        if np.any(np.equal(self.image_std, 0)):
            raise ValueError(f"image_std must not hold 0, but is {self.image_std!r}.")

    @property
    def target_size(self) -> tuple[int, int]:
        """Height and width that images are resized to."""
        assert isinstance(self.size, dict)  # since __post_init__
        return self.size["height"], self.size["width"]

    def rescale_and_normalize(self, array: np.ndarray, layout: str = transforms.CHANNELS_LAST) -> np.ndarray:
        """Applies `do_rescale` and `do_normalize` to the values of one image of the right size.

        Args:
            array: Image with three axes.
            layout: Where its channels are: "channels_last" or "channels_first".

        Returns:
            float32 array of the same shape; the array itself where both are off.

        Example:
            >>> SegformerImageProcessor(do_normalize=False).rescale_and_normalize(np.full((1, 1, 3), 51)).tolist()
            [[[0.20000000298023224, 0.20000000298023224, 0.20000000298023224]]]
        """
        assert self.image_mean is not None and self.image_std is not None  # since __post_init__
        if self.do_rescale:
            array = transforms.rescale(array, self.rescale_factor)
        if self.do_normalize:
            array = transforms.normalize(array, self.image_mean, self.image_std, layout)
        return array

    def __call__(
        self,
        images: Any,
        segmentation_maps: Any = None,
        *,
        return_tensors: str | None = "np",
        data_format: str = transforms.CHANNELS_LAST,
        input_data_format: str | None = None,
        **overrides: Any,
    ) -> dict[str, Any]:
        """Prepares one image or a batch, and their segmentation maps.

        Args:
            images: A Pillow image, an array or tensor (H, W, C) or (C, H, W), a batch of arrays with one more axis,
                or a list of them; whole numbers in [0, 255], or floats in [0, 1] with `do_rescale=False`.
            segmentation_maps: Class indices for each image: Pillow images or arrays (H, W).
            return_tensors: "np" stacks the batch, "tf", "pt" and "jax" make a tensor of it, None leaves lists, which
                images of different sizes need when `do_resize` is off.
            data_format: Layout of the result: "channels_last" (what the models take) or "channels_first".
            input_data_format: Layout of `images`; None infers it: an axis of 1 or 3 entries, the first one if in doubt.
            **overrides: Any field of the processor, for this call only.

        Returns:
            {"pixel_values": (B, H, W, C), "labels": (B, H, W) int32, where maps are given}. Pixel values are float32;
            with rescaling and normalization off they keep the image's own type.

        Raises:
            ValueError: Something that is not an image, values out of range, or batches that do not fit together.

        Example:
            >>> batch = SegformerImageProcessor(size=32)(np.zeros((2, 40, 50, 3), np.uint8), np.ones((2, 40, 50), int))
            >>> batch["pixel_values"].shape, batch["labels"].shape
            ((2, 32, 32, 3), (2, 32, 32))
        """
        settings = self._with(overrides)
        for name, layout in (("data_format", data_format), ("input_data_format", input_data_format or data_format)):
            if layout not in transforms.LAYOUTS:
                raise ValueError(f"{name} must be one of {', '.join(transforms.LAYOUTS)}, but is {layout!r}.")
        images = as_list(images, axes=3)
        prepared = [settings._prepare_image(image, data_format, input_data_format) for image in images]
        batch = {"pixel_values": prepared}
        if segmentation_maps is not None:
            maps = as_list(segmentation_maps, axes=2)
            if len(maps) != len(images):
                colors = len(images) == 1 and getattr(segmentation_maps, "shape", ())[-1:] == (3,)
                hint = " Turn RGB colors into class indices (H, W) first." if colors else ""
                raise ValueError(f"There are {len(images)} images but {len(maps)} segmentation maps.{hint}")
            batch["labels"] = [settings._prepare_map(labels, input_data_format) for labels in maps]
        return {name: collate(arrays, name, return_tensors) for name, arrays in batch.items()}

    def post_process_semantic_segmentation(
        self, outputs: Any, target_sizes: Sequence[tuple[int, int]] | None = None
    ) -> list[np.ndarray]:
        """Turns logits into class maps: bilinear resize, then the class with the largest logit.

        Args:
            outputs: Logits (B, h, w, num_labels) as array or tensor, or the model's dictionary with "logits".
            target_sizes: (height, width) for each image; None keeps the size of the logits.

        Returns:
            One class map (H, W) int32 for each image.

        Raises:
            ValueError: Logits without four axes, or another number of target sizes than of images.

        Example:
            >>> logits = np.zeros((1, 8, 8, 3), np.float32)
            >>> SegformerImageProcessor().post_process_semantic_segmentation(logits, [(30, 40)])[0].shape
            (30, 40)
        """
        if isinstance(outputs, Mapping) and "logits" not in outputs:
            raise ValueError(f"The outputs hold {', '.join(outputs)}, but no logits: is it a segmentation model?")
        logits = outputs["logits"] if isinstance(outputs, Mapping) else getattr(outputs, "logits", outputs)
        logits = transforms.to_array(logits)
        if logits.ndim != 4:
            raise ValueError(f"Logits must be (batch, height, width, num_labels), but their shape is {logits.shape}.")
        if target_sizes is None:
            target_sizes = [logits.shape[1:3]] * len(logits)
        if len(target_sizes) != len(logits):
            raise ValueError(f"There are {len(logits)} predictions but {len(target_sizes)} target sizes.")
        sizes = [(int(height), int(width)) for height, width in target_sizes]
        return [class_map_from_logits(one, size) for one, size in zip(logits, sizes, strict=True)]

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        **overrides: Any,
    ) -> SegformerImageProcessor:
        """Reads the preprocessor_config.json of a folder, an embedded model or a Hub repository.

        Args:
            name_or_path: Folder, file, name of an embedded model, or Hub id.
            revision: Branch, tag or commit on the Hub.
            token: Access token of the Hub.
            cache_dir: Where downloads are kept.
            local_files_only: Do not go to the network.
            **overrides: Fields that replace those of the file.

        Returns:
            The processor.

        Raises:
            CheckpointError: The file is missing, not JSON, or holds a field out of range.

        Example:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     _ = SegformerImageProcessor(size=640).save_pretrained(folder)
            ...     SegformerImageProcessor.from_pretrained(folder).size
            {'height': 640, 'width': 640}
        """
        from tf_segformer.hub import HubOptions, resolve_file

        path = resolve_file(name_or_path, CONFIG_NAME, HubOptions(revision, token, cache_dir, local_files_only))
        try:
            fields = read_json(path)
            if not isinstance(fields, dict):
                raise ValueError("it holds no JSON object")
            return cls.from_dict({**fields, **overrides})
        except ValueError as error:
            raise CheckpointError(f"{path}: not a usable image processor configuration: {error}") from error

    def save_pretrained(self, folder: str | os.PathLike) -> Path:
        """Writes preprocessor_config.json, which transformers reads too.

        Args:
            folder: Where to write it; made if missing.

        Returns:
            Path of the file.

        Example:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     SegformerImageProcessor().save_pretrained(folder).name
            'preprocessor_config.json'
        """
        return write_json(Path(folder) / CONFIG_NAME, self.to_dict(), sort_keys=True)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> SegformerImageProcessor:
        """Makes a processor of the fields of a preprocessor_config.json.

        Args:
            fields: Its content; old spellings (`reduce_labels`, `feature_extractor_type`, an int `size`) are
                understood, unknown fields are kept in `extra`.

        Returns:
            The processor.

        Raises:
            ValueError: A field is out of range.

        Example:
            >>> SegformerImageProcessor.from_dict({"size": 512, "reduce_labels": True}).do_reduce_labels
            True
        """
        fields = {_OLD_SPELLINGS.get(name, name): value for name, value in fields.items() if name not in _TYPE_FIELDS}
        known = {one.name for one in dataclasses.fields(cls)} - {"extra"}
        given = {name: value for name, value in fields.items() if name in known and value is not None}
        return cls(**given, extra={name: value for name, value in fields.items() if name not in known})

    def to_dict(self) -> dict[str, Any]:
        """Gives the fields as preprocessor_config.json holds them.

        Returns:
            Fields under the Hub's names, `extra` among them; `apply_exif_orientation` only where it is on.

        Example:
            >>> SegformerImageProcessor().to_dict()["image_processor_type"]
            'SegformerImageProcessor'
        """
        fields = dataclasses.asdict(self)
        extra = fields.pop("extra")
        if not fields["apply_exif_orientation"]:
            del fields["apply_exif_orientation"]  # no field of the Hub's
        return {**extra, **fields, "image_processor_type": "SegformerImageProcessor"}

    def _with(self, overrides: Mapping[str, Any]) -> SegformerImageProcessor:
        """Returns a processor with some fields replaced; None keeps a field."""
        named = {_OLD_SPELLINGS.get(name, name): value for name, value in overrides.items() if value is not None}
        unknown = set(named) - {one.name for one in dataclasses.fields(self)}
        if unknown:
            raise TypeError(f"The processor has no field {', '.join(sorted(unknown))}.")
        return dataclasses.replace(self, **named) if named else self

    def _prepare_image(self, image: Any, data_format: str, input_data_format: str | None) -> np.ndarray:
        """Resizes, rescales and normalizes one image."""
        array, layout = self._as_channels(image, input_data_format)
        if array.size == 0:
            raise ValueError(f"The image is empty: its shape is {array.shape}.")
        if self.do_rescale and transforms.looks_rescaled(array):
            warnings.warn(
                "It looks like you are trying to rescale already rescaled images. If the input"
                " images have pixel values between 0 and 1, set `do_rescale=False` to avoid rescaling them again.",
                stacklevel=3,
            )
        if self.do_resize:
            array = transforms.resize(array, self.target_size, self.resample, layout)
        return transforms.change_layout(self.rescale_and_normalize(array, layout), layout, data_format)

    def _as_channels(self, image: Any, input_data_format: str | None) -> tuple[np.ndarray, str]:
        """Returns an image as an array with channels, and where they are."""
        if isinstance(image, Image.Image):
            if self.apply_exif_orientation:
                image = ImageOps.exif_transpose(image)
            if input_data_format is None:
                return np.asarray(to_rgb(image)), transforms.CHANNELS_LAST
        array = transforms.to_array(image)
        if input_data_format is not None:
            return array, input_data_format
        if array.ndim == 2:
            return np.repeat(array[..., None], 3, axis=-1), transforms.CHANNELS_LAST
        return array, transforms.infer_layout(array)

    def _prepare_map(self, labels: Any, input_data_format: str | None) -> np.ndarray:
        """Reduces the labels of one segmentation map and resizes it with nearest."""
        array = transforms.to_array(labels)
        if array.ndim == 2:
            array, layout = array[None], transforms.CHANNELS_FIRST
        else:
            layout = input_data_format or transforms.infer_layout(array, channel_counts=(1,))
        if self.do_reduce_labels:
            array = transforms.reduce_labels(array)
        if self.do_resize:
            array = transforms.resize(array, self.target_size, _NEAREST, layout)
        array = transforms.change_layout(array, layout, transforms.CHANNELS_LAST)
        if array.shape[-1] != 1:
            raise ValueError(f"A segmentation map needs one channel, but its shape is {array.shape}.")
        return array[..., 0].astype(np.int32)


def _as_size(size: Mapping[str, int] | int | Sequence[int]) -> dict[str, int]:
    """Reads every spelling of the target size."""
    if isinstance(size, Integral):
        size = (int(size), int(size))
    if not isinstance(size, Mapping) and isinstance(size, Sequence) and len(size) == 2:
        size = {"height": size[0], "width": size[1]}
    if not isinstance(size, Mapping) or set(size) != {"height", "width"}:
        raise ValueError(f'size must be {{"height": int, "width": int}}, one int or (height, width), but is {size!r}.')
    if not all(isinstance(side, Integral) and side > 0 for side in size.values()):
        raise ValueError(f"size must hold whole numbers of at least 1, but is {dict(size)!r}.")
    return {name: int(size[name]) for name in ("height", "width")}


def _as_channel_values(name: str, values: Any) -> float | list[float]:
    """Reads one number or one number a channel."""
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if _is_finite(values):
        return float(values)
    if isinstance(values, Sequence) and len(values) > 0 and all(map(_is_finite, values)):
        return [float(value) for value in values]
    raise ValueError(f"{name} must be a finite number or a list of them, one a channel, but is {values!r}.")


def _is_finite(value: Any) -> bool:
    """Whether a value is a finite real number."""
    return isinstance(value, Real) and math.isfinite(value)
