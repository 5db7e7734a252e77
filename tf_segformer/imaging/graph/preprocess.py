"""From decoded images to pixel values in TensorFlow operations, bit for bit as the processor."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tf_segformer.imaging.graph import values
from tf_segformer.imaging.graph.resize import resize_like_pillow
from tf_segformer.imaging.processor import SegformerImageProcessor


def preprocess(image: tf.Tensor, processor: SegformerImageProcessor) -> tf.Tensor:
    """Resizes, rescales and normalizes as the processor does, bit for bit.

    With `normalization="per_image"`, mean and deviation are sums in another order than NumPy's: values differ by at
    most 1e-6 of the deviation.

    Args:
        image: (H, W, C): uint8, as from `decode_image`; also uint16, int16 or float32 where the processor has one of
            the fields for bands.
        processor: Its fields become constants of the graph.

    Returns:
        (height, width, C) float32: the processor's pixel values, channels last.

    Raises:
        ValueError: An image of another type or number of channels than the processor's, or a processor that turns
            images by their EXIF tag (pixels carry none: export one with `apply_exif_orientation=False` and turn the
            images beforehand).

    Example:
        >>> preprocess(tf.zeros((40, 60, 3), tf.uint8), SegformerImageProcessor(size=32)).shape
        TensorShape([32, 32, 3])
    """
    if image.shape.rank != 3 or image.shape[-1] is None:
        raise ValueError(f"The image must be (H, W, C), but is {image.shape}.")
    if processor.apply_exif_orientation:
        raise ValueError("apply_exif_orientation=True cannot run in the graph: turn the images beforehand.")
    if processor.keeps_values:
        image = values.as_values(image, processor.value_type)
    elif image.dtype != tf.uint8:
        raise ValueError(
            f"The image must be uint8 for this processor, which has no value_range, not {image.dtype.name}."
        )
    if processor.do_resize:
        image = resize_like_pillow(image, *processor.target_size, processor.resample)
    with tf.device("CPU:0"):  # whose divisions are rounded as NumPy's
        return _scale_bands(image, processor) if processor.keeps_values else _rescale_and_normalize(image, processor)


def _scale_bands(image: tf.Tensor, processor: SegformerImageProcessor) -> tf.Tensor:
    """(H, W, C) of values of any type -> the processor's float32 values."""
    pairs = values.range_of(image, processor)
    if pairs is not None:
        image = values.scale_to_range(image, pairs)
    elif processor.do_rescale:
        image = tf.cast(tf.cast(image, tf.float64) * processor.rescale_factor, tf.float32)
    if not processor.do_normalize:
        return tf.cast(image, tf.float32)
    mean, std = (
        values.mean_and_std(image)
        if processor.normalization
        else (values.per_band(name, getattr(processor, name), image) for name in ("image_mean", "image_std"))
    )
    return tf.math.divide_no_nan(tf.cast(image, tf.float32) - tf.cast(mean, tf.float32), tf.cast(std, tf.float32))


def _rescale_and_normalize(image: tf.Tensor, processor: SegformerImageProcessor) -> tf.Tensor:
    """(H, W, C) uint8 -> the processor's float32 values: by arithmetic where it gives the same bits, or by a table."""
    channels = image.shape[-1]
    table = _value_table(processor, channels)
    divisor, mean, std = _constants(processor, channels)
    arithmetic = (np.arange(256, dtype=np.float32)[:, None] / divisor - mean) / std
    if arithmetic.tobytes() != table.tobytes():
        return tf.gather(tf.constant(table.ravel()), tf.cast(image, tf.int32) * channels + tf.range(channels))
    shape = tf.shape(image)
    lines = tf.reshape(tf.cast(image, tf.float32), [shape[0], -1])
    divisor, mean, std = (tf.tile(tf.constant(each), shape[1:2]) for each in (divisor, mean, std))
    # A plain division by a constant would be rewritten as a product with its inverse, and be rounded otherwise.
    lines = tf.math.divide_no_nan(tf.math.divide_no_nan(lines, divisor) - mean, std)
    return tf.reshape(lines, shape)


def _constants(processor: SegformerImageProcessor, channels: int) -> np.ndarray:
    """Divisor, mean and standard deviation (3, C) float32, one column per channel; 1, 0 and 1 where switched off."""
    divisor = 1 / processor.rescale_factor if processor.do_rescale and processor.rescale_factor else 1
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else (0, 1)
    return np.stack([np.broadcast_to(np.asarray(each, np.float32), channels) for each in (divisor, mean, std)])


def _value_table(processor: SegformerImageProcessor, channels: int) -> np.ndarray:
    """The processor's result (256, C) float32 for each 8-bit value of each channel."""
    levels = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], channels, axis=-1)  # (256, 1, C)
    return processor.rescale_and_normalize(levels)[:, 0].astype(np.float32)
