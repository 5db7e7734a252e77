"""The levels 0..255 in which images of any type are augmented, and the way from there to pixel values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tf_segformer.imaging.graph import values
from tf_segformer.imaging.processor import SegformerImageProcessor


def to_levels(image: Any, processor: SegformerImageProcessor) -> tuple[Any, Callable[[Any], Any]]:
    """An image in the range that augmentation works in.

    Args:
        image: (H, W, C) of the type that the processor takes.
        processor: The model's; `do_resize` is the augmentation's here.

    Returns:
        The image in 0..255, where 0 and 255 are the ends of the processor's `value_range`, of the image's own
        percentiles or, without either, of each band's values (8-bit values stay as they are); and a function from
        levels to pixel values, by the mean and deviation of the whole image where the processor says so.

    Raises:
        ValueError: An image of another type or number of bands than the processor's.

    Example:
        >>> processor = SegformerImageProcessor(value_range=(0, 1000), image_mean=0.5, image_std=0.5)
        >>> levels, finish = to_levels(tf.fill((1, 1, 4), 200.0), processor)
        >>> float(levels[0, 0, 0]), round(float(finish(levels)[0, 0, 0]), 4)
        (51.0, -0.6)
    """
    if not processor.keeps_values:
        if image.dtype != tf.uint8:
            raise ValueError(f"The processor has no value_range for {image.dtype.name}: see check --statistics")
        return image, _by_constants(image, processor)
    image = values.as_values(image, processor.value_type)
    scaling = values.range_of(image, processor)
    pairs = scaling
    if pairs is None:
        full = tf.constant([[0.0, 255.0]] * image.shape[-1], tf.float64)
        pairs = full if image.dtype == tf.uint8 else _own_range(image)
    unit = values.scale_to_range(image, pairs)
    low, high = tf.unstack(tf.cast(pairs, tf.float32), axis=-1)
    factor = processor.rescale_factor if processor.do_rescale else 1.0

    def scaled(unit: Any) -> Any:
        return unit if scaling is not None else (unit * (high - low) + low) * np.float32(factor)

    if not processor.do_normalize:
        return unit * 255, lambda levels: scaled(levels / 255)
    if processor.normalization:
        mean, std = (tf.cast(each, tf.float32) for each in values.mean_and_std(scaled(unit)))
    else:
        mean, std = (
            tf.constant(values.per_band(name, getattr(processor, name), image), tf.float32)
            for name in ("image_mean", "image_std")
        )
    return unit * 255, lambda levels: (scaled(levels / 255) - mean) / std


def _by_constants(image: Any, processor: SegformerImageProcessor) -> Callable[[Any], Any]:
    """From 8-bit values to pixel values."""
    scale = np.float32(processor.rescale_factor if processor.do_rescale else 1.0)
    if not processor.do_normalize:
        return lambda levels: levels * scale
    mean, std = (
        np.broadcast_to(values.per_band(name, getattr(processor, name), image), image.shape[-1:]).astype(np.float32)
        for name in ("image_mean", "image_std")
    )
    return lambda levels: (levels * scale - mean) / std


def _own_range(image: Any) -> Any:
    """The lowest and highest value of each band, (C, 2) float64."""
    ends = [tf.cast(reduce(image, axis=[0, 1]), tf.float64) for reduce in (tf.reduce_min, tf.reduce_max)]
    return values.never_empty(tf.stack(ends, axis=-1))
