"""The recipe's augmentations as TensorFlow functions: the same seed gives the same result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

_CROP_TRIES = 10
_CHANCE = 0.5
_COLORS = 3


@dataclass(frozen=True)
class Augmentation:
    """The random changes of each training example.

    Args:
        crop_size: (height, width) of the training crop, pixels.
        base_size: (short, long) sides into which the image is fitted before the random ratio, as mmsegmentation's
            `scale=(2048, 512)`; None keeps the image's own size.
        scale_range: Lowest and highest ratio of the random resize.
        max_class_ratio: A crop in which one class covers more than this fraction of the labelled pixels is sampled
            again, up to 10 times; 1.0 takes the first.
        flip: Flip half of the images left to right.
        brightness: Largest shift, levels of 0..255, which are the data's own range (see `data.levels`).
        contrast: Contrast is scaled by 1 - contrast .. 1 + contrast.
        saturation: Saturation is scaled by 1 - saturation .. 1 + saturation; of images of three bands alone.
        hue: Largest shift, in OpenCV's half degrees (180 to the circle); of images of three bands alone.

    Source: Xie et al. 2021, section 4.1; distortion after Liu et al. 2016 (SSD), section 3.6.

    Example:
        >>> Augmentation(crop_size=(512, 512), base_size=(512, 2048)).scale_range
        (0.5, 2.0)
    """

    crop_size: tuple[int, int]
    base_size: tuple[int, int] | None = None
    scale_range: tuple[float, float] = (0.5, 2.0)
    max_class_ratio: float = 0.75
    flip: bool = True
    brightness: float = 32.0
    contrast: float = 0.5
    saturation: float = 0.5
    hue: float = 18.0


def augment(image: Any, labels: Any, seed: Any, settings: Augmentation, ignore_index: int) -> tuple[Any, Any]:
    """Resize, crop, flip and distort one example; normalization and padding follow.

    Args:
        image: (H, W, C) uint8 or float32, 0..255.
        labels: (H, W) int32.
        seed: (2,) int32 or int64.
        settings: The ranges.
        ignore_index: Label that the largest fraction of a class does not count.

    Returns:
        The image (h, w, C), float32 in 0..255, and its labels (h, w), at most `crop_size`.

    Example:
        >>> settings = Augmentation(crop_size=(8, 8))
        >>> image, labels = augment(tf.zeros((9, 9, 3)), tf.zeros((9, 9), tf.int32), (0, 1), settings, 255)
    """
    seeds = tf.random.split(seed, 4)
    new_size = random_size(tf.shape(labels), seeds[0], settings.scale_range, settings.base_size)
    labels = tf.image.resize(labels[..., None], new_size, method="nearest")[..., 0]
    begin, size = random_window(labels, seeds[1], settings.crop_size, settings.max_class_ratio, ignore_index)
    labels = tf.slice(labels, begin, size)
    image = resized_window(image, new_size, begin, size)
    if settings.flip:
        image, labels = random_flip(image, labels, seeds[2])
    return photometric_distortion(image, seeds[3], settings), labels


def random_size(
    size: Any, seed: Any, scale_range: tuple[float, float], base_size: tuple[int, int] | None = None
) -> Any:
    """Height and width after the random resize: one ratio for both sides.

    Args:
        size: (2,) int32, height and width.
        seed: (2,) integers.
        scale_range: Lowest and highest ratio.
        base_size: (short, long) sides that the image is fitted into at ratio 1; None for its own size.

    Returns:
        (2,) int32.

    Example:
        >>> random_size((4, 6), (0, 1), (2.0, 2.0)).numpy().tolist()
        [8, 12]
    """
    size = tf.cast(size, tf.float32)
    ratio = tf.random.stateless_uniform((), seed, *scale_range)
    if base_size is not None:
        ratio *= tf.minimum(min(base_size) / tf.reduce_min(size), max(base_size) / tf.reduce_max(size))
    return tf.maximum(tf.cast(tf.floor(size * ratio + 0.5), tf.int32), 1)


def random_window(
    labels: Any, seed: Any, crop_size: tuple[int, int], max_class_ratio: float, ignore_index: int
) -> tuple[Any, Any]:
    """Samples a crop, again up to 10 times while one class covers too much of it.

    Args:
        labels: (H, W) int32.
        seed: (2,) integers.
        crop_size: (height, width); a smaller image keeps its side.
        max_class_ratio: Largest fraction of the labelled pixels that one class may have, in (0, 1].
        ignore_index: Label that is not counted.

    Returns:
        Offset (2,) and size (2,) of the window, int32.

    Example:
        >>> random_window(tf.zeros((9, 9), tf.int32), (0, 1), (4, 5), 1.0, 255)[1].numpy().tolist()
        [4, 5]
    """
    size = tf.minimum(tf.shape(labels), tf.constant(crop_size, tf.int32))
    choices = tf.cast(tf.shape(labels) - size + 1, tf.float32)
    offsets = tf.cast(tf.random.stateless_uniform((_CROP_TRIES, 2), seed) * choices, tf.int32)

    def one_class_dominates(attempt: Any) -> Any:
        window = tf.slice(labels, offsets[attempt], size)
        window = window[window != ignore_index]
        largest = tf.reduce_max(tf.concat([tf.math.bincount(window), [0]], axis=0))
        return tf.cast(largest, tf.float32) > max_class_ratio * tf.cast(tf.size(window), tf.float32)

    def try_again(attempt: Any) -> Any:
        return tf.logical_and(attempt < _CROP_TRIES - 1, one_class_dominates(attempt))

    (attempt,) = tf.while_loop(try_again, lambda attempt: [attempt + 1], [tf.constant(0)])
    return offsets[attempt], size


def resized_window(image: Any, new_size: Any, begin: Any, size: Any) -> Any:
    """A window of the bilinearly resized (antialiased) image, computed without the rest of it.

    Args:
        image: (H, W, C) uint8 or float32.
        new_size: (2,) int32, height and width of the whole resized image.
        begin: (2,) int32, offset of the window in it.
        size: (2,) int32, height and width of the window.

    Returns:
        (height, width, C) float32, equal to `tf.image.resize(image, new_size, antialias=True)` cut to the window.

    Example:
        >>> resized_window(tf.zeros((4, 4, 3)), (8, 8), (2, 2), (5, 6)).shape
        TensorShape([5, 6, 3])
    """
    window = tf.raw_ops.ScaleAndTranslate(
        images=tf.cast(image, tf.float32)[None],
        size=size,
        scale=tf.cast(new_size, tf.float32) / tf.cast(tf.shape(image)[:2], tf.float32),
        translation=-tf.cast(begin, tf.float32),
        kernel_type="triangle",
        antialias=True,
    )
    return window[0]


def random_flip(image: Any, labels: Any, seed: Any) -> tuple[Any, Any]:
    """Flips image and labels left to right with probability one half.

    Args:
        image: (H, W, C).
        labels: (H, W).
        seed: (2,) int32.

    Returns:
        Both, flipped or not.

    Example:
        >>> image, labels = random_flip(tf.zeros((2, 2, 3)), tf.zeros((2, 2), tf.int32), (0, 1))
    """
    flips = tf.random.stateless_uniform((), seed) < _CHANCE
    return tf.cond(flips, lambda: (image[:, ::-1], labels[:, ::-1]), lambda: (image, labels))


def photometric_distortion(image: Any, seed: Any, settings: Augmentation) -> Any:
    """Brightness, contrast (before or after the colors), saturation and hue, each with probability one half.

    Other bands than three have no colors: their brightness and contrast change, all bands alike.

    Args:
        image: (H, W, C) float32, 0..255.
        seed: (2,) int32.
        settings: The ranges; a range of 0 changes nothing.

    Returns:
        The image, float32 in 0..255.

    Example:
        >>> photometric_distortion(tf.zeros((2, 2, 3)), (0, 1), Augmentation(crop_size=(2, 2))).shape
        TensorShape([2, 2, 3])
    """
    chances = tf.random.stateless_uniform((5,), tf.random.experimental.stateless_fold_in(seed, 0))
    amounts = tf.random.stateless_uniform((4,), tf.random.experimental.stateless_fold_in(seed, 1), -1.0, 1.0)
    used = tf.cast(chances < _CHANCE, tf.float32)
    shift = used[0] * amounts[0] * settings.brightness
    contrast = 1.0 + used[1] * amounts[1] * settings.contrast
    saturation = 1.0 + used[2] * amounts[2] * settings.saturation
    hue = used[3] * amounts[3] * settings.hue / 180.0
    contrast_first = used[4] > 0

    image = _levels(image + shift)
    image = _levels(image * tf.where(contrast_first, contrast, 1.0))
    if image.shape[-1] == _COLORS:
        image = tf.cond(used[2] + used[3] > 0, lambda: _shift_colors(image, saturation, hue), lambda: image)
    return _levels(image * tf.where(contrast_first, 1.0, contrast))


def _shift_colors(image: Any, saturation: Any, hue: Any) -> Any:
    """Scales the saturation and rotates the hue (1 is the full circle) of an image in 0..255."""
    channels = tf.image.rgb_to_hsv(image / 255.0)
    rotated = tf.math.floormod(channels[..., 0] + hue, 1.0)
    scaled = tf.clip_by_value(channels[..., 1] * saturation, 0.0, 1.0)
    return tf.image.hsv_to_rgb(tf.stack([rotated, scaled, channels[..., 2]], axis=-1)) * 255.0


def _levels(image: Any) -> Any:
    """Clips to the levels of an 8-bit image."""
    return tf.clip_by_value(image, 0.0, 255.0)
