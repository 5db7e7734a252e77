"""Rejects what a model cannot take for images and weights of classes, in words that say what to do instead."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras

from tf_segformer.configuration import SegformerConfig

_LAYOUTS = {  # name, shape, and how the other layout is transposed to it; by "are channels first"
    False: ("last", "(batch, height, width, {})", (0, 2, 3, 1)),
    True: ("first", "(batch, {}, height, width)", (0, 3, 1, 2)),
}


def check_config(config: Any) -> None:
    """Rejects anything but a `SegformerConfig`, such as the name of a variant.

    Raises:
        TypeError: With the calls that were probably meant.
    """
    if not isinstance(config, SegformerConfig):
        raise TypeError(
            f"config={config!r:.80} must be a SegformerConfig, such as SegformerConfig.from_variant('b0'); "
            "a model with its weights comes from from_pretrained"
        )


def check_pixel_values(pixel_values: Any, num_channels: int, channels_first: bool = False) -> None:
    """Rejects images of another layout or type than (B, H, W, C) floats; looks at shape and dtype alone.

    Args:
        pixel_values: What the model was called with: array, tensor or symbolic tensor.
        num_channels: Channels that the model takes.
        channels_first: Whether the layout is (B, C, H, W) instead.

    Raises:
        ValueError: With the remedy.
    """
    shape = getattr(pixel_values, "shape", None)
    if shape is None or not hasattr(pixel_values, "dtype"):
        raise ValueError(
            f"the model takes an array or tensor of pixel values, not {type(pixel_values).__name__}: "
            "SegformerImageProcessor makes them from images"
        )
    if getattr(shape, "rank", 4) is None:  # tf.data after a numpy_function
        return
    shape = tuple(shape)
    here, there = (1, -1) if channels_first else (-1, 1)
    name, layout, order = _LAYOUTS[channels_first]
    if len(shape) != 4:
        hint = "; pixel_values[None] makes a batch of one image" if len(shape) == 3 else ""
        raise ValueError(f"pixel_values must be {layout.format('channels')}, but their shape is {shape}{hint}")
    if shape[here] not in (num_channels, None):
        hint = (
            f"; these have their channels {_LAYOUTS[not channels_first][0]}: transpose them to {order}, or let "
            "SegformerImageProcessor do it"
            if shape[there] == num_channels
            else ""
        )
        raise ValueError(
            f"pixel_values must be {layout.format(num_channels)}, channels {name}, but their shape is {shape}{hint}"
        )
    dtype = keras.backend.standardize_dtype(pixel_values.dtype)
    if "int" in dtype or dtype == "bool":
        raise ValueError(
            f"pixel_values are {dtype}: the model takes normalized floats, which SegformerImageProcessor makes from "
            "images of 0 to 255"
        )


class PixelLabelsMixin:
    """`fit` and `train_on_batch` of a model with one label per pixel, to which weights of classes come by the loss."""

    def fit(self, *args: Any, **options: Any) -> Any:
        """Trains the model as every Keras model; with `class_weight`, raises ValueError."""
        _check_class_weight(super().fit, args, options)  # type: ignore[misc]
        return super().fit(*args, **options)  # type: ignore[misc]

    def train_on_batch(self, *args: Any, **options: Any) -> Any:
        """Runs one step as every Keras model; with `class_weight`, raises ValueError."""
        _check_class_weight(super().train_on_batch, args, options)  # type: ignore[misc]
        return super().train_on_batch(*args, **options)  # type: ignore[misc]


def _check_class_weight(method: Callable[..., Any], args: Any, options: dict[str, Any]) -> None:
    """Rejects `class_weight` among the arguments of a method, given by position or by name."""
    class_weight = inspect.signature(method).bind(*args, **options).arguments.get("class_weight")
    if class_weight is not None:
        raise ValueError(
            f"class_weight={class_weight!r:.80}: Keras takes one class per image, not one per pixel; give the "
            "weights to the loss, SegmentationLoss(class_weights=[...]), one number per class, or those of the pixels "
            "as sample_weight (B, H, W)"
        )
