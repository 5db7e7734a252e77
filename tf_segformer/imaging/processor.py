"""SegformerImageProcessor: images and segmentation maps to the model's arrays, and logits back to class maps."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from tf_segformer.errors import CheckpointError
from tf_segformer.imaging import fields as checked
from tf_segformer.imaging import transforms, values
from tf_segformer.imaging.bands import as_bands, stored_bands
from tf_segformer.imaging.batches import as_list, collate
from tf_segformer.imaging.postprocess import class_map_from_logits
from tf_segformer.io import read_json, write_json

CONFIG_NAME = "preprocessor_config.json"

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_NEAREST = int(Image.Resampling.NEAREST)
_OLD_SPELLINGS = {"reduce_labels": "do_reduce_labels"}
_OWN_FIELDS = ("apply_exif_orientation", *checked.BAND_FIELDS)
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
        value_type: Type of the values of bands, "uint8", "uint16", "int16" or "float32": others are rejected. With this
            field or the next three, images are more than 8-bit RGB: each band is resized by itself, in float32 as
            Pillow's mode "F" where it is not uint8.
        value_range: (low, high) that is scaled to 0..1, instead of `rescale_factor`, values beyond it being clipped; or
            such a pair for each band.
        value_percentiles: (low, high) in percent: each band of each image by these percentiles of its own.
        normalization: "per_image" normalizes each image by its own mean and standard deviation over all bands, as
            Doodleverse's models need, instead of `image_mean` and `image_std`.
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
    value_type: str | None = None
    value_range: Sequence[float] | Sequence[Sequence[float]] | None = None
    value_percentiles: Sequence[float] | None = None
    normalization: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.size = checked.as_size(self.size)
        self.resample = checked.as_filter(self.resample)
        self.image_mean = checked.as_channel_values("image_mean", self.image_mean, IMAGENET_MEAN)
        self.image_std = checked.as_channel_values("image_std", self.image_std, IMAGENET_STD)
        self.value_range = checked.as_value_range(self.value_range)
        self.value_percentiles = checked.as_percentiles(self.value_percentiles)
        checked.check_fields(self)

    @property
    def keeps_values(self) -> bool:
        """Whether images are more than 8-bit RGB: values of any type are taken as they are."""
        return any(getattr(self, name) not in (None, "uint8") for name in checked.BAND_FIELDS)

    @property
    def num_bands(self) -> int | None:
        """Number of bands that the fields are for; None where one number is for all."""
        return next(iter(checked.band_counts(self).values()), None)

    @property
    def target_size(self) -> tuple[int, int]:
        """Height and width that images are resized to."""
        assert isinstance(self.size, dict)  # since __post_init__
        return self.size["height"], self.size["width"]

    def resize(self, array: np.ndarray, size: tuple[int, int], layout: str = transforms.CHANNELS_LAST) -> np.ndarray:
        """Resizes an image (H, W, C) to (height, width) by `resample`, in its own range where it keeps its values."""
        resize = transforms.resize_bands if self.keeps_values else transforms.resize
        return resize(array, size, self.resample, layout)

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
        fixed = self.with_statistics_of(transforms.change_layout(array, layout, transforms.CHANNELS_LAST))
        assert fixed.image_mean is not None and fixed.image_std is not None  # since __post_init__
        if fixed.value_range is not None:
            array = values.scale_to_range(array, fixed.value_range, layout)
        elif fixed.do_rescale:
            array = transforms.rescale(array, fixed.rescale_factor)
        if fixed.do_normalize:
            array = transforms.normalize(array, fixed.image_mean, fixed.image_std, layout)
        return array

    def with_statistics_of(self, image: np.ndarray) -> SegformerImageProcessor:
        """The processor with an image's own percentiles, mean and deviation as constants, for its parts.

        Args:
            image: (H, W, C).

        Returns:
            A processor without `value_percentiles` and `normalization`; this one where it has neither.

        Example:
            >>> processor = SegformerImageProcessor(value_percentiles=(0, 100), do_normalize=False)
            >>> processor.with_statistics_of(np.array([[[3], [7]]])).value_range
            [[3.0, 7.0]]
        """
        own = values.statistics_fields(image, self)
        return dataclasses.replace(self, **own) if own else self

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
                or a list of them; whole numbers in [0, 255], or floats in [0, 1] with `do_rescale=False`; with the
                fields for bands, values of any type and range.
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
            Fields under the Hub's names, `extra` among them; those that the Hub does not know where they are used.

        Example:
            >>> SegformerImageProcessor().to_dict()["image_processor_type"]
            'SegformerImageProcessor'
        """
        fields = dataclasses.asdict(self)
        extra = fields.pop("extra")
        fields = {name: value for name, value in fields.items() if value or name not in _OWN_FIELDS}
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
        if self.keeps_values:
            array = values.as_values(array, self.value_type)
        elif self.do_rescale and transforms.looks_rescaled(array):
            warnings.warn(
                "It looks like you are trying to rescale already rescaled images. If the input"
                " images have pixel values between 0 and 1, set `do_rescale=False` to avoid rescaling them again.",
                stacklevel=3,
            )
        if self.do_resize:
            array = self.resize(array, self.target_size, layout)
        return transforms.change_layout(self.rescale_and_normalize(array, layout), layout, data_format)

    def _as_channels(self, image: Any, input_data_format: str | None) -> tuple[np.ndarray, str]:
        """Returns an image as an array with channels, and where they are."""
        if isinstance(image, Image.Image):
            if self.apply_exif_orientation:
                image = ImageOps.exif_transpose(image)
            if input_data_format is None:
                return stored_bands(image, self.num_bands, self.keeps_values), transforms.CHANNELS_LAST
        array = transforms.to_array(image)
        if input_data_format is not None:
            return array, input_data_format
        return as_bands(array, self.num_bands, self.keeps_values)

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
