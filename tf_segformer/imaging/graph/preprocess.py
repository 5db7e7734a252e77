"""From decoded images to pixel values in TensorFlow operations, bit for bit as the processor."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tf_segformer.imaging.graph.resize import resize_like_pillow
from tf_segformer.imaging.processor import SegformerImageProcessor


def preprocess(image: tf.Tensor, processor: SegformerImageProcessor) -> tf.Tensor:
    """Resizes, rescales and normalizes as the processor does, bit for bit.

    Args:
        image: (H, W, 3) uint8, as from `decode_image`.
        processor: Its fields become constants of the graph.

    Returns:
        (height, width, 3) float32: the processor's pixel values, channels last.

    Raises:
        ValueError: An image that is not (H, W, 3) uint8, or a processor that turns images by their EXIF tag (pixels
            carry none: export one with `apply_exif_orientation=False` and turn the images beforehand).

    Example:
        >>> preprocess(tf.zeros((40, 60, 3), tf.uint8), SegformerImageProcessor(size=32)).shape
        TensorShape([32, 32, 3])
    """
    if image.dtype != tf.uint8 or image.shape.rank != 3 or image.shape[-1] != 3:
        raise ValueError(f"The image must be (H, W, 3) uint8, but is {image.shape} {image.dtype.name}.")
    if processor.apply_exif_orientation:
        raise ValueError("apply_exif_orientation=True cannot run in the graph: turn the images beforehand.")
    if processor.do_resize:
        image = resize_like_pillow(image, *processor.target_size, processor.resample)
    with tf.device("CPU:0"):  # whose divisions are rounded as NumPy's
        return _rescale_and_normalize(image, processor)


def _rescale_and_normalize(image: tf.Tensor, processor: SegformerImageProcessor) -> tf.Tensor:
    """(H, W, 3) uint8 -> the processor's float32 values: by arithmetic where it gives the same bits, or by a table."""
    table = _value_table(processor)
    divisor, mean, std = _constants(processor)
    arithmetic = (np.arange(256, dtype=np.float32)[:, None] / divisor - mean) / std
    if arithmetic.tobytes() != table.tobytes():
        return tf.gather(tf.constant(table.ravel()), tf.cast(image, tf.int32) * 3 + tf.range(3))
    shape = tf.shape(image)
    values = tf.reshape(tf.cast(image, tf.float32), [shape[0], -1])
    divisor, mean, std = (tf.tile(tf.constant(each), shape[1:2]) for each in (divisor, mean, std))
    # A plain division by a constant would be rewritten as a product with its inverse, and be rounded otherwise.
    values = tf.math.divide_no_nan(tf.math.divide_no_nan(values, divisor) - mean, std)
    return tf.reshape(values, shape)


def _constants(processor: SegformerImageProcessor) -> np.ndarray:
    """Divisor, mean and standard deviation (3, 3) float32, one column per channel; 1, 0 and 1 where switched off."""
    divisor = 1 / processor.rescale_factor if processor.do_rescale and processor.rescale_factor else 1
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else (0, 1)
    return np.stack([np.broadcast_to(np.asarray(each, np.float32), 3) for each in (divisor, mean, std)])


def _value_table(processor: SegformerImageProcessor) -> np.ndarray:
    """The processor's result (256, 3) float32 for each 8-bit value of each channel."""
    values = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=-1)  # (256, 1, 3)
    return processor.rescale_and_normalize(values)[:, 0].astype(np.float32)
