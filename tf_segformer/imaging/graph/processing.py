"""From encoded bytes to pixel values and from logits to images in TensorFlow operations, for a SavedModel."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tf_segformer.imaging.files import MAX_PIXELS
from tf_segformer.imaging.graph.chunks import axis_of, boundary_blocks, resolve_blocks
from tf_segformer.imaging.graph.resize import resize_like_pillow
from tf_segformer.imaging.labels import IGNORED_COLOR
from tf_segformer.imaging.processor import SegformerImageProcessor

_PNG_SIGNATURE = (0x89, 0x50, 0x4E, 0x47, 0x0D, 0x0A, 0x1A, 0x0A)
_JPEG_SIGNATURE = (0xFF, 0xD8, 0xFF)
_HEADER_BYTES = 24  # of a PNG: signature, length and name of the first chunk, width, height


def encoded_image_size(encoded: tf.Tensor) -> tf.Tensor:
    """Reads height and width from the header of a JPEG or PNG file; no pixel is decoded.

    Args:
        encoded: Scalar string with the bytes of the file.

    Returns:
        (2,) int32: height and width.

    Raises:
        tf.errors.InvalidArgumentError: When it runs, for anything that is neither JPEG nor PNG.

    Example:
        >>> encoded_image_size(tf.io.encode_png(tf.zeros((4, 6, 3), tf.uint8))).numpy().tolist()
        [4, 6]
    """
    header = _header(encoded)
    with tf.control_dependencies([_assert_known_format(header)]):
        return tf.cond(
            _starts_with(header, _PNG_SIGNATURE),
            lambda: tf.stack([_big_endian(header[20:24]), _big_endian(header[16:20])]),
            lambda: tf.image.extract_jpeg_shape(encoded)[:2],
        )


def decode_image(encoded: tf.Tensor, *, max_pixels: int = MAX_PIXELS) -> tf.Tensor:
    """Decodes a JPEG or PNG file to 8-bit RGB, equal to `imaging.files.open_image` on every byte.

    JPEG: baseline and progressive, grayscale, YCbCr with any subsampling, RGB, CMYK. PNG: grayscale, palette and RGB,
    with and without alpha (dropped), 1 to 16 bits (the upper 8), interlaced. EXIF orientation is ignored. Rejectd when
    it runs: other formats, damaged or truncated files, 12-bit and arithmetic-coded JPEG, more than `max_pixels`.

    Args:
        encoded: Scalar string with the bytes of the file.
        max_pixels: Largest height times width; checked in the header, before anything is decoded.

    Returns:
        (H, W, 3) uint8.

    Raises:
        tf.errors.InvalidArgumentError: When it runs, for what is rejected.

    Example:
        >>> decode_image(tf.io.encode_png(tf.zeros((4, 6, 1), tf.uint8))).shape
        TensorShape([4, 6, 3])
    """
    size = tf.cast(encoded_image_size(encoded), tf.int64)
    fits = tf.debugging.Assert(
        (tf.reduce_min(size) >= 1) & (size[0] * size[1] <= max_pixels),
        [f"The image is empty or has more than max_pixels={max_pixels} pixels: height and width are", size],
    )
    with tf.control_dependencies([fits]):
        image = tf.cond(
            _starts_with(_header(encoded), _PNG_SIGNATURE),
            lambda: tf.io.decode_png(encoded, channels=3),
            lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"),
        )
    return tf.ensure_shape(image, [None, None, 3])


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


def preprocess_encoded(
    encoded: tf.Tensor, processor: SegformerImageProcessor, *, max_pixels: int = MAX_PIXELS
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes and prepares a batch of JPEG and PNG files of any sizes.

    Args:
        encoded: (B,) strings with the bytes of the files.
        processor: As in `preprocess`; must resize, so that the images fit in one batch.
        max_pixels: As in `decode_image`.

    Returns:
        Pixel values (B, height, width, 3) float32, and the images' own sizes (B, 2) int32: height and width.

    Raises:
        ValueError: A processor with `do_resize=False`.
        tf.errors.InvalidArgumentError: When it runs, for files that `decode_image` rejects.

    Example:
        >>> files = tf.io.encode_png(tf.zeros((4, 6, 3), tf.uint8))[None]
        >>> pixel_values, sizes = preprocess_encoded(files, SegformerImageProcessor(size=32))
        >>> pixel_values.shape, sizes.numpy().tolist()
        (TensorShape([1, 32, 32, 3]), [[4, 6]])
    """
    if not processor.do_resize:
        raise ValueError("Images of any sizes make one batch only with do_resize=True.")

    def prepare(one: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = decode_image(one, max_pixels=max_pixels)
        return preprocess(image, processor), tf.shape(image)[:2]

    height, width = processor.target_size
    signature = (tf.TensorSpec([height, width, 3], tf.float32), tf.TensorSpec([2], tf.int32))
    return tf.map_fn(prepare, encoded, fn_output_signature=signature)


def class_map_from_logits(logits: tf.Tensor, target_size: tf.Tensor | tuple[int, int]) -> tf.Tensor:
    """Resizes logits bilinearly and takes the class with the largest one, without holding the resized logits.

    Only the pixels along the boundaries of classes are interpolated, some blocks at a time.

    Args:
        logits: (h, w, num_labels), any floating type.
        target_size: Height and width of the class map, ints or an int32 tensor (2,).

    Returns:
        Class map (height, width), int32, equal to that of `imaging.postprocess` but for ties.

    Example:
        >>> class_map_from_logits(tf.eye(4)[None], (2, 8)).numpy().tolist()[0]
        [0, 0, 1, 1, 2, 2, 3, 3]
    """
    logits = tf.cast(logits, tf.float32)
    num_labels = tf.shape(logits)[2]
    rows, columns = axis_of(tf.shape(logits)[0], target_size[0]), axis_of(tf.shape(logits)[1], target_size[1])
    winners = tf.argmax(logits, axis=-1, output_type=tf.int32)  # (h, w)
    mixed = boundary_blocks(winners, rows, columns)  # (blocks down, blocks across)

    # A table of blocks: one filled with each class, then the mixed ones, and one more: a list of none has no shape.
    places = tf.concat([tf.cast(tf.where(mixed), tf.int32), [[0, 0]]], axis=0)
    filled = tf.broadcast_to(tf.range(num_labels)[:, None, None], [num_labels, columns.length, rows.length])
    table = tf.concat([filled, resolve_blocks(logits, rows, columns, places)], axis=0)  # (blocks, Q, P)
    order = tf.reshape(tf.cumsum(tf.cast(tf.reshape(mixed, [-1]), tf.int32)), tf.shape(mixed)) - 1
    plain = tf.gather(tf.gather(winners, rows.low), columns.low, axis=1)
    which = tf.transpose(tf.where(mixed, num_labels + order, plain))  # (blocks across, blocks down)

    # Whole columns of blocks are copied to the pixels across, turned over, and so are the rows.
    lines = tf.gather(which, columns.block) * columns.length + columns.offset[:, None]  # (width, blocks down)
    turned = tf.reshape(tf.gather(tf.reshape(table, [-1, rows.length]), lines), [target_size[1], -1])
    return tf.gather(tf.transpose(turned), rows.block * rows.length + rows.offset)


def colorize(class_map: tf.Tensor, palette: np.ndarray) -> tf.Tensor:
    """Paints each pixel in its class's color; indices outside the palette become black.

    Args:
        class_map: (..., H, W), int32.
        palette: Colors (K, 3), uint8, as from `labels.palette_for`.

    Returns:
        (..., H, W, 3) uint8.

    Example:
        >>> colorize(tf.constant([[0]]), np.array([[1, 2, 3]], np.uint8)).numpy().tolist()
        [[[1, 2, 3]]]
    """
    count = len(palette)
    table = tf.constant(np.concatenate([palette, [IGNORED_COLOR]]).astype(np.uint8))
    known = (class_map >= 0) & (class_map < count)
    return tf.gather(table, tf.where(known, class_map, count))


def encode_png(class_map: tf.Tensor) -> tf.Tensor:
    """Encodes a class map as a grayscale PNG of 8 bits, or 16 where an index is above 255.

    Args:
        class_map: (H, W) integers in [0, 65535].

    Returns:
        Scalar string with the bytes of the file.

    Example:
        >>> tf.io.decode_png(encode_png(tf.constant([[3, 7]]))).numpy().tolist()
        [[[3], [7]]]
    """
    image = class_map[..., None]
    return tf.cond(
        tf.reduce_max(image) <= 255,
        lambda: tf.io.encode_png(tf.cast(image, tf.uint8)),
        lambda: tf.io.encode_png(tf.cast(image, tf.uint16)),
    )


def _header(encoded: tf.Tensor) -> tf.Tensor:
    """First bytes of a file as int32, filled up with zeros."""
    padded = tf.strings.join([tf.strings.substr(encoded, 0, _HEADER_BYTES), "\0" * _HEADER_BYTES])
    header = tf.io.decode_raw(tf.strings.substr(padded, 0, _HEADER_BYTES), tf.uint8)
    return tf.cast(tf.ensure_shape(header, [_HEADER_BYTES]), tf.int32)


def _starts_with(header: tf.Tensor, signature: tuple[int, ...]) -> tf.Tensor:
    """Tells whether a file begins with these bytes."""
    return tf.reduce_all(header[: len(signature)] == tf.constant(signature))


def _assert_known_format(header: tf.Tensor) -> tf.Operation:
    """Rejects files that are neither JPEG nor PNG."""
    known = _starts_with(header, _PNG_SIGNATURE) | _starts_with(header, _JPEG_SIGNATURE)
    return tf.debugging.Assert(known, ["The bytes are neither a JPEG nor a PNG file; they begin with", header[:8]])


def _big_endian(four_bytes: tf.Tensor) -> tf.Tensor:
    """Reads a number of four bytes; PNG allows at most 2**31 - 1."""
    return tf.reduce_sum(tf.bitwise.left_shift(four_bytes, [24, 16, 8, 0]))


def _rescale_and_normalize(image: tf.Tensor, processor: SegformerImageProcessor) -> tf.Tensor:
    """Turns (H, W, 3) uint8 to the processor's float32 values: by arithmetic where it has the same bits, or a table."""
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
    """Divisor, mean and standard deviation (3, 3) float32, a column for each channel; 1, 0 and 1 where switched off."""
    divisor = 1 / processor.rescale_factor if processor.do_rescale and processor.rescale_factor else 1
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else (0, 1)
    return np.stack([np.broadcast_to(np.asarray(each, np.float32), 3) for each in (divisor, mean, std)])


def _value_table(processor: SegformerImageProcessor) -> np.ndarray:
    """The processor's result (256, 3) float32 for each 8-bit value of each channel."""
    values = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=-1)  # (256, 1, 3)
    return processor.rescale_and_normalize(values)[:, 0].astype(np.float32)
