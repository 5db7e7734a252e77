"""Configuration, image processor and outputs as programs written for transformers 4 expect them."""

from __future__ import annotations

import dataclasses
import json
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import optree

from tf_segformer import configuration
from tf_segformer.hub import HubOptions
from tf_segformer.imaging import processor, transforms

_FLAGS = {
    "output_hidden_states": False,
    "output_attentions": False,
    "return_dict": True,
    "reshape_last_stage": True,
}
_FIELDS = {each.name for each in dataclasses.fields(configuration.SegformerConfig)}


class SegformerConfig(configuration.SegformerConfig):
    """The configuration of this project, with the habits of transformers' `PretrainedConfig`.

    Args:
        *args: Fields in the order of `tf_segformer.SegformerConfig`.
        **fields: Fields by name; any other name becomes an attribute that is saved with them, such as
            `output_hidden_states`, `output_attentions` and `return_dict`, the defaults of a call's arguments.

    A new `num_labels` renames the classes, new `id2label` sets their number.

    Source: `SegformerConfig` of Hugging Face transformers 4.49 (names and behavior).

    Example:
        >>> config = SegformerConfig(num_labels=3, output_hidden_states=True)
        >>> config.num_labels = 4
        >>> config.id2label[3], config.output_hidden_states, config.use_return_dict
        ('LABEL_3', True, True)
    """

    model_type: ClassVar[str] = "segformer"

    def __init__(self, *args: Any, extra: dict[str, Any] | None = None, **fields: Any) -> None:
        if fields.get("id2label") is not None:
            fields.pop("num_labels", None)  # as in transformers: the names decide
        others = {name: fields.pop(name) for name in list(fields) if name not in _FIELDS}
        fields["extra"] = {**(extra or {}), **others}
        super().__init__(*args, **fields)
        self._complete = True

    @classmethod
    def of(cls, config: configuration.SegformerConfig) -> SegformerConfig:
        """A configuration of this project as one of this module; one of this module is checked and given back.

        Raises:
            ValueError: For fields that were set to what disagrees with the others.
            TypeError: For anything but a configuration.
        """
        if not isinstance(config, configuration.SegformerConfig):
            raise TypeError(f"config={config!r:.80} must be a SegformerConfig; from_pretrained takes names and folders")
        checked = cls(**{name: getattr(config, name) for name in _FIELDS - {"num_labels"}})
        return config if isinstance(config, cls) else checked

    def __getattr__(self, name: str) -> Any:
        extra = vars(self).get("extra", {})
        if name in extra or name in _FLAGS:
            return extra.get(name, _FLAGS.get(name))
        raise AttributeError(f"SegformerConfig has no field {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _FIELDS or "_complete" not in vars(self):
            super().__setattr__(name, value)
        else:
            self.extra[name] = value
        if "_complete" in vars(self) and name == "num_labels" and value != len(self.id2label):
            self.id2label = {index: f"LABEL_{index}" for index in range(value)}
            self.label2id = {label: index for index, label in self.id2label.items()}
        if "_complete" in vars(self) and name == "id2label":
            super().__setattr__("num_labels", len(value))

    @property
    def use_return_dict(self) -> bool:
        """Whether a call gives an object instead of a tuple."""
        return bool(self.return_dict)

    def to_json_string(self) -> str:
        """The text of config.json."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **options: Any) -> SegformerConfig:
        """Reads the config.json of a folder, an embedded model or a Hub repository.

        Args:
            name_or_path: A folder, a config.json, the name of an embedded model or a Hub id "owner/name".
            **options: Fields of `HubOptions`, and fields of the configuration to change.

        Returns:
            A new configuration.

        Raises:
            CheckpointError: Where there is no such file or it is not a SegFormer configuration.

        Example:
            >>> SegformerConfig.from_pretrained("camvid-b0", num_labels=3).num_labels
            3
        """
        hub = HubOptions.pop_from(options)
        config = cls.of(configuration.SegformerConfig.from_pretrained(name_or_path, **vars(hub)))
        changes = {name: options.pop(name) for name in list(options) if name in _FIELDS}
        config = config.replace(**changes) if changes else config  # type: ignore[assignment]
        config.extra.update(options)
        return config


def _register(cls: Any) -> None:
    """Has Keras take a kind of dictionary apart where it takes structures apart."""
    register: Any = optree.register_pytree_node
    register(
        cls,
        lambda each: (tuple(each.values()), tuple(each), tuple(each)),
        lambda keys, values: cls(zip(keys, values, strict=True)),
        namespace="keras",
    )


class BatchFeature(dict):
    """What the image processor gives: `pixel_values` and `labels`, by key and as attributes.

    Example:
        >>> BatchFeature(pixel_values=[1.0]).pixel_values
        [1.0]
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the batch has no {name!r}, only {', '.join(self)}") from None

    @property
    def data(self) -> dict[str, Any]:
        """The same as a plain dictionary."""
        return dict(self)


_register(BatchFeature)


class SegformerImageProcessor(processor.SegformerImageProcessor):
    """The image processor of this project with the arguments and the layout of transformers: channels first.

    Args:
        *args: Fields in the order of `tf_segformer.SegformerImageProcessor`.
        **fields: Fields by name, `reduce_labels` among them; unknown ones are kept and saved.

    Source: `SegformerImageProcessor` of Hugging Face transformers 4.49 (names and behavior).

    Example:
        >>> processor = SegformerImageProcessor(size={"height": 64, "width": 96})
        >>> processor(images=np.zeros((80, 90, 3), np.uint8), return_tensors="np").pixel_values.shape
        (1, 3, 64, 96)
    """

    def __init__(self, *args: Any, extra: dict[str, Any] | None = None, **fields: Any) -> None:
        known = {one.name for one in dataclasses.fields(processor.SegformerImageProcessor)}
        if "reduce_labels" in fields:
            fields["do_reduce_labels"] = fields.pop("reduce_labels")
        others = {name: fields.pop(name) for name in list(fields) if name not in known}
        given = {name: value for name, value in fields.items() if value is not None}  # None stands for the default
        given["extra"] = {**(extra or {}), **others}
        super().__init__(*args, **given)

    def __call__(  # type: ignore[override]
        self, images: Any, segmentation_maps: Any = None, return_tensors: str | None = None, **options: Any
    ) -> BatchFeature:
        """Prepares one image or a batch, and their segmentation maps.

        Args:
            images: A Pillow image, an array or tensor (H, W, C) or (C, H, W), a batch of arrays with one more axis, or
                a list of them; whole numbers in [0, 255], or floats in [0, 1] with `do_rescale=False`.
            segmentation_maps: Class indices for each image: Pillow images or arrays (H, W).
            return_tensors: "tf", "np" or "pt" stack the batch; None leaves lists.
            **options: `data_format` ("channels_first" by default), `input_data_format`, and any field of the
                processor, for this call only.

        Returns:
            `pixel_values` (B, C, H, W) float32, and `labels` (B, H, W) int64 where maps are given.

        Raises:
            ValueError: Something that is not an image, values out of range, or batches that do not fit together.
        """
        layout = _name_of(options.pop("data_format", None) or transforms.CHANNELS_FIRST)
        if options.get("input_data_format") is not None:
            options["input_data_format"] = _name_of(options["input_data_format"])
        arrays = super().__call__(images, segmentation_maps, return_tensors=None, data_format=layout, **options)
        if "labels" in arrays:
            arrays["labels"] = [each.astype(np.int64) for each in arrays["labels"]]
        return BatchFeature({name: processor.collate(each, name, return_tensors) for name, each in arrays.items()})

    preprocess = __call__

    def post_process_semantic_segmentation(
        self, outputs: Any, target_sizes: Sequence[tuple[int, int]] | None = None
    ) -> list[np.ndarray]:
        """Turns logits into class maps: bilinear resize, then the class with the largest logit.

        Args:
            outputs: The model's output, or its logits (B, num_labels, h, w).
            target_sizes: (height, width) for each image; None keeps the size of the logits.

        Returns:
            One class map (H, W) int32 for each image.

        Raises:
            ValueError: Logits without four axes, or another number of target sizes than of images.
        """
        logits = transforms.to_array(getattr(outputs, "logits", outputs))
        if logits.ndim != 4:
            raise ValueError(f"Logits must be (batch, num_labels, height, width), but their shape is {logits.shape}.")
        return super().post_process_semantic_segmentation(np.moveaxis(logits, 1, -1), target_sizes)


SegformerFeatureExtractor = SegformerImageProcessor  # its older name


def _name_of(layout: Any) -> str:
    """The name of a layout, which may be a member of the enumeration of transformers: ChannelDimension.FIRST."""
    name = str(getattr(layout, "value", layout))
    return {"first": transforms.CHANNELS_FIRST, "last": transforms.CHANNELS_LAST}.get(name, name)


class ModelOutput(OrderedDict):
    """The outputs of a call, by key, by index and as attributes; those that were not asked for are left out.

    Example:
        >>> output = TaskOutput(logits=[1.0])
        >>> output.logits, output[0], output["logits"], output.loss, output.to_tuple()
        ([1.0], [1.0], [1.0], None, ([1.0],))
    """

    names: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        _register(cls)

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def __getattr__(self, name: str) -> Any:
        if name in self.names:
            return self.get(name)
        raise AttributeError(f"{type(self).__name__} has {', '.join(self.names)}, but no {name!r}")

    def to_tuple(self) -> tuple[Any, ...]:
        """The outputs that are there, in their order."""
        return tuple(self[name] for name in self)


class EncoderOutput(ModelOutput):
    """What the encoder gives.

    `last_hidden_state` (B, C, H/32, W/32); `hidden_states`, a tuple with one (B, C_i, H_i, W_i) per stage;
    `attentions`, a tuple with one (B, heads, H_i*W_i, reduced) per block.
    """

    names = ("last_hidden_state", "hidden_states", "attentions")


class TaskOutput(ModelOutput):
    """What a model with a head gives.

    `loss` (1,), or (B,) for classification; `logits` (B, num_labels, H/4, W/4), or (B, num_labels) for classification;
    `hidden_states` and `attentions` as of the encoder.
    """

    names = ("loss", "logits", "hidden_states", "attentions")
