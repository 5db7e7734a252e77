"""Pillow's resizing of 8-bit and of float32 images in TensorFlow operations, equal to Pillow on every byte.

Pillow computes the weights of a filter in double precision, rounds them to 22-bit fixed point, and runs two passes of
integer sums, across and down, each rounded and clipped to 8 bits. The same integers are summed here. Bands of floats
(its mode "F") are sums in double precision, each pass rounded to single: bit for bit the same where Pillow was built
without fused multiply-add, as for x86, and elsewhere within one unit in the last place. Up to Pillow 12
the pass across comes first; Pillow 13 goes down first where the height shrinks by more than twice as many pixels as
the width. The graph does as the Pillow that is installed when it is built, so that it agrees with the processor.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import PIL
import tensorflow as tf

_FRACTION_BITS = 22  # 32 minus 8 bits of the pixel minus 2 bits for sums beyond the range


class _Filter(NamedTuple):
    """A resampling filter: how far it reaches at scale 1, and its weight at a distance (float64)."""

    support: float
    weight: Callable[[tf.Tensor], tf.Tensor]


def _box(x: tf.Tensor) -> tf.Tensor:
    return tf.cast((x > -0.5) & (x <= 0.5), x.dtype)


def _triangle(x: tf.Tensor) -> tf.Tensor:
    return tf.maximum(1 - tf.abs(x), 0)


_HAMMING = tuple(float(np.float32(share)) for share in (0.54, 0.46))  # Pillow writes them in single precision


def _hamming(x: tf.Tensor) -> tf.Tensor:
    x = tf.abs(x)
    angle = x * math.pi
    window = tf.math.divide_no_nan(tf.sin(angle), angle) * (_HAMMING[0] + _HAMMING[1] * tf.cos(angle))
    return tf.where(x == 0, tf.ones_like(x), tf.where(x < 1, window, tf.zeros_like(x)))


def _cubic(x: tf.Tensor) -> tf.Tensor:
    a = -0.5
    x = tf.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return tf.where(x < 1, near, tf.where(x < 2, far, tf.zeros_like(x)))


def _lanczos(x: tf.Tensor) -> tf.Tensor:
    return tf.where((x >= -3) & (x < 3), _sinc(x) * _sinc(x / 3), tf.zeros_like(x))


def _sinc(x: tf.Tensor) -> tf.Tensor:
    angle = x * math.pi
    return tf.where(x == 0, tf.ones_like(x), tf.math.divide_no_nan(tf.sin(angle), angle))


NEAREST = 0
_FILTERS = {  # by Pillow's number
    1: _Filter(3, _lanczos),
    2: _Filter(1, _triangle),
    3: _Filter(2, _cubic),
    4: _Filter(0.5, _box),
    5: _Filter(1, _hamming),
}


def resize_like_pillow(
    image: tf.Tensor, height: int | tf.Tensor, width: int | tf.Tensor, resample: int = 2
) -> tf.Tensor:
    """Resizes an image to the bytes of `PIL.Image.resize`, each band by itself.

    Args:
        image: (H, W, C) uint8 or float32 without an alpha channel (Pillow multiplies colors by alpha before it
            resizes).
        height: Target height, an int or a scalar int32 tensor.
        width: Target width, likewise.
        resample: Pillow's number of the filter: 0 nearest, 1 Lanczos, 2 bilinear, 3 bicubic, 4 box, 5 Hamming.

    Returns:
        (height, width, C) of the same type.

    Raises:
        ValueError: An unknown filter, or another type.

    Source: the behaviour of Pillow's Resample.c and Geometry.c.

    Example:
        >>> resize_like_pillow(tf.zeros((40, 60, 3), tf.uint8), 20, 30).shape
        TensorShape([20, 30, 3])
    """
    if resample != NEAREST and resample not in _FILTERS:
        raise ValueError(f"resample must be one of Pillow's filters, 0 to 5, but is {resample!r}.")
    if image.dtype not in (tf.uint8, tf.float32):
        raise ValueError(f"The image must be uint8 or float32, but is {image.dtype.name}.")
    channels = image.shape[-1]
    rows, columns = tf.shape(image)[0], tf.shape(image)[1]
    with tf.device("CPU:0"):  # integer sums and double precision: a GPU would gain nothing
        if resample == NEAREST:
            image = tf.gather(image, _nearest(rows, height), axis=0)
            image = tf.gather(image, _nearest(columns, width), axis=1)
        else:
            kernel = _FILTERS[resample]
            image = tf.cond(
                _goes_down_first(rows - height, columns - width),
                lambda: _to_width(_to_height(image, height, kernel), width, kernel),
                lambda: _to_height(_to_width(image, width, kernel), height, kernel),
            )
    fixed = [size if isinstance(size, int) else None for size in (height, width)]
    return tf.ensure_shape(image, [*fixed, channels])


def _goes_down_first(fewer_rows: tf.Tensor, fewer_columns: tf.Tensor) -> tf.Tensor:
    """Whether the installed Pillow resizes the height before the width."""
    if int(PIL.__version__.split(".")[0]) < 13:
        return tf.constant(False)
    return (fewer_rows > 0) & (fewer_rows > 2 * fewer_columns)


def _to_height(image: tf.Tensor, height: int | tf.Tensor, kernel: _Filter) -> tf.Tensor:
    """Resizes (H, W, C) to (height, W, C); an image of this height passes as it is."""
    return tf.cond(tf.equal(tf.shape(image)[0], height), lambda: image, lambda: _resample_rows(image, height, kernel))


def _to_width(image: tf.Tensor, width: int | tf.Tensor, kernel: _Filter) -> tf.Tensor:
    """Resizes (H, W, C) to (H, width, C); transposed, so that whole rows of memory are added here too."""

    def transposed() -> tf.Tensor:
        return tf.transpose(_resample_rows(tf.transpose(image, [1, 0, 2]), width, kernel), [1, 0, 2])

    return tf.cond(tf.equal(tf.shape(image)[1], width), lambda: image, transposed)


def _resample_rows(image: tf.Tensor, target: int | tf.Tensor, kernel: _Filter) -> tf.Tensor:
    """Resizes (H, W, C) to (target, W, C), one tap of the filter at a time."""
    size, other, channels = tf.unstack(tf.shape(image))
    lines = tf.reshape(image, [size, other * channels])
    taps, weights = _weights(size, target, kernel)
    if image.dtype == tf.uint8:
        weights = weights * (1 << _FRACTION_BITS)
        weights = tf.cast(weights + 0.5 * tf.sign(weights), tf.int32)
    start = 1 << (_FRACTION_BITS - 1) if image.dtype == tf.uint8 else 0
    total = tf.fill([target, other * channels], tf.constant(start, weights.dtype))

    def add(tap: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        line = tf.cast(tf.gather(lines, taps[:, tap]), weights.dtype)
        return tap + 1, total + line * weights[:, tap, None]

    def more(tap: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
        return tap < tf.shape(taps)[1]

    _, total = tf.while_loop(more, add, (tf.constant(0), total), parallel_iterations=1)
    if image.dtype == tf.uint8:
        total = tf.clip_by_value(tf.bitwise.right_shift(total, _FRACTION_BITS), 0, 255)
    return tf.reshape(tf.cast(total, image.dtype), [target, other, channels])


def _weights(size: tf.Tensor, target: int | tf.Tensor, kernel: _Filter) -> tuple[tf.Tensor, tf.Tensor]:
    """Source lines and their weights (target, taps) float64; a weight outside the image is zero."""
    scale = tf.cast(size, tf.float64) / tf.cast(target, tf.float64)
    stretch = tf.maximum(scale, 1)  # a filter grows with the step when an image shrinks: no aliasing
    support = kernel.support * stretch
    center = (tf.cast(tf.range(target), tf.float64) + 0.5) * scale
    first = tf.maximum(tf.cast(center - support + 0.5, tf.int32), 0)
    end = tf.minimum(tf.cast(center + support + 0.5, tf.int32), size)
    taps = first[:, None] + tf.range(tf.reduce_max(end - first))
    weights = kernel.weight((tf.cast(taps, tf.float64) - center[:, None] + 0.5) * (1 / stretch))
    weights = tf.where(taps < end[:, None], weights, 0)
    weights /= tf.cumsum(weights, axis=1)[:, -1:]  # summed from the left, as Pillow does
    return tf.minimum(taps, size - 1), weights


def _nearest(size: tf.Tensor, target: int | tf.Tensor) -> tf.Tensor:
    """Source line of each target line; Pillow adds up the step, rounding errors included."""
    step = tf.cast(size, tf.float64) / tf.cast(target, tf.float64)
    steps = tf.concat([[step * 0.5], tf.fill([target - 1], step)], axis=0)
    return tf.minimum(tf.cast(tf.cumsum(steps), tf.int32), size - 1)
