"""What `imaging.values` computes, in TensorFlow operations: the range of bands, an image's own mean and deviation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf


def as_values(image: tf.Tensor, value_type: str | None) -> tf.Tensor:
    """An image of bands as it is computed with: uint8 as it is, other types as float32.

    Args:
        image: (H, W, C).
        value_type: The type that its values must have; None for any.

    Returns:
        (H, W, C).

    Raises:
        ValueError: Another type.

    Example:
        >>> as_values(tf.zeros((2, 2, 5), tf.uint16), None).dtype.name
        'float32'
    """
    if value_type is not None and image.dtype.name != value_type:
        raise ValueError(f"The image holds {image.dtype.name}, but value_type of the processor is {value_type}.")
    return image if image.dtype == tf.uint8 else tf.cast(image, tf.float32)


def percentile_range(image: tf.Tensor, percentiles: Sequence[float]) -> tf.Tensor:
    """The values of each band below which percentages of its pixels lie, bit for bit as in NumPy.

    Args:
        image: (H, W, C).
        percentiles: (low, high) in percent.

    Returns:
        (C, 2) float64, low < high.

    Example:
        >>> percentile_range(tf.range(5.0)[None, :, None], (0, 50)).numpy().tolist()
        [[0.0, 2.0]]
    """
    channels = image.shape[-1]
    bands = tf.transpose(tf.reshape(tf.cast(image, tf.float32), [-1, channels]))
    ordered = tf.cast(tf.sort(bands, axis=1), tf.float64)  # (C, N)
    last = tf.shape(ordered)[1] - 1
    places = tf.constant(np.asarray(percentiles, np.float64) / 100) * tf.cast(last, tf.float64)
    below = tf.cast(tf.floor(places), tf.int32)
    above = tf.minimum(below + 1, last)
    first, second = tf.gather(ordered, below, axis=1), tf.gather(ordered, above, axis=1)
    low, high = tf.unstack(first + (second - first) * (places - tf.cast(below, tf.float64)), axis=1)
    return never_empty(tf.stack([low, high], axis=-1))


def never_empty(pairs: tf.Tensor) -> tf.Tensor:
    """Ranges in which low < high also where a band has one value.

    Args:
        pairs: (C, 2) float64.

    Returns:
        (C, 2) float64.

    Example:
        >>> never_empty(tf.constant([[7.0, 7.0]])).numpy().tolist()
        [[7.0, 14.0]]
    """
    low, high = tf.unstack(pairs, axis=-1)
    return tf.stack([low, tf.where(high > low, high, low + tf.maximum(tf.ones_like(low), tf.abs(low)))], axis=-1)


def range_of(image: tf.Tensor, processor: Any) -> tf.Tensor | None:
    """The range by which the processor scales an image.

    Args:
        image: (H, W, C).
        processor: A `SegformerImageProcessor`.

    Returns:
        (C, 2) float64, or None where it scales by `rescale_factor` or not at all.

    Raises:
        ValueError: Another number of ranges than of bands.
    """
    if processor.value_percentiles is not None:
        return percentile_range(image, processor.value_percentiles)
    if processor.value_range is None:
        return None
    return tf.constant(np.broadcast_to(per_band("value_range", processor.value_range, image), (image.shape[-1], 2)))


def scale_to_range(image: tf.Tensor, pairs: tf.Tensor) -> tf.Tensor:
    """Clips to a range and scales it to 0..1, in float64, rounded once.

    Args:
        image: (H, W, C).
        pairs: (C, 2) float64.

    Returns:
        (H, W, C) float32.

    Example:
        >>> scale_to_range(tf.constant([[[500, 2000]]]), tf.constant([[0, 1000]] * 2, tf.float64)).numpy().tolist()
        [[[0.5, 1.0]]]
    """
    low, high = tf.unstack(pairs, axis=-1)
    above = tf.clip_by_value(tf.cast(image, tf.float64), low, high) - low
    # A plain division by a constant would be rewritten as a product with its inverse, and be rounded otherwise.
    return tf.cast(tf.math.divide_no_nan(above, high - low), tf.float32)


def mean_and_std(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and standard deviation over all bands of an image; the latter at least 1 / sqrt(H W).

    Args:
        image: (H, W, C).

    Returns:
        Two scalars, float64.

    Example:
        >>> [float(each) for each in mean_and_std(tf.constant([[[1.0], [3.0]]]))]
        [2.0, 1.0]
    """
    values = tf.cast(image, tf.float64)
    pixels = tf.cast(tf.shape(image)[0] * tf.shape(image)[1], tf.float64)
    return tf.reduce_mean(values), tf.maximum(tf.math.reduce_std(values), 1 / tf.sqrt(pixels))


def per_band(name: str, values: Any, image: tf.Tensor) -> np.ndarray:
    """A field of the processor as an array that broadcasts over the bands of an image.

    Args:
        name: The field, for the message.
        values: One value, or one for each band.
        image: (H, W, C).

    Returns:
        float64.

    Raises:
        ValueError: Another number of values than of bands.
    """
    channels = image.shape[-1]
    if isinstance(values, list) and (name != "value_range" or np.ndim(values) == 2) and len(values) != channels:
        raise ValueError(f"{name} has {len(values)} values, but the image has {channels} channels.")
    return np.asarray(values, np.float64)
