"""Decodes JPEG and PNG files in TensorFlow operations, as Pillow does; a broken one can give a status, not an error."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tf_segformer.imaging import files

OK = "OK"
_INVALID = "INVALID_ARGUMENT: "

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_SIGNATURE = b"\xff\xd8\xff"
_UNKNOWN_FORMAT = "the bytes are neither a JPEG nor a PNG file"


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
    is_png = _starts_with(encoded, _PNG_SIGNATURE)
    known = tf.debugging.Assert(is_png | _starts_with(encoded, _JPEG_SIGNATURE), [_UNKNOWN_FORMAT])
    with tf.control_dependencies([known]):
        return tf.cond(is_png, lambda: _png_size(encoded), lambda: tf.image.extract_jpeg_shape(encoded)[:2])


def decode_image(encoded: tf.Tensor, *, max_pixels: int = files.MAX_PIXELS) -> tf.Tensor:
    """Decodes a JPEG or PNG file to 8-bit RGB, equal to `imaging.files.open_image` on every byte.

    JPEG: baseline and progressive, grayscale, YCbCr with any subsampling, RGB, CMYK. PNG: grayscale, palette and RGB,
    with and without alpha (dropped), 1 to 16 bits (the upper 8), interlaced. EXIF orientation is ignored. Invalid when
    it runs: other formats, damaged or truncated files, 12-bit and arithmetic-coded JPEG, more than `max_pixels`.

    Args:
        encoded: Scalar string with the bytes of the file.
        max_pixels: Largest height times width; checked in the header, before anything is decoded.

    Returns:
        (H, W, 3) uint8.

    Raises:
        tf.errors.InvalidArgumentError: When it runs, for an invalid file.

    Example:
        >>> decode_image(tf.io.encode_png(tf.zeros((4, 6, 1), tf.uint8))).shape
        TensorShape([4, 6, 3])
    """
    fits = _assert_size(encoded, max_pixels)
    with tf.control_dependencies([fits]):
        image = tf.cond(
            _starts_with(encoded, _PNG_SIGNATURE),
            lambda: tf.io.decode_png(encoded, channels=3),
            # the default transform is faster, and up to 7 levels off Pillow's
            lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"),
        )
    return tf.ensure_shape(image, [None, None, 3])


def decode_labels(encoded: tf.Tensor, *, max_pixels: int = files.MAX_PIXELS) -> tf.Tensor:
    """Decodes an 8-bit grayscale PNG file of class indices.

    Args:
        encoded: Scalar string with the bytes of the file.
        max_pixels: Largest height times width; checked in the header, before anything is decoded.

    Returns:
        (H, W) int32.

    Raises:
        tf.errors.InvalidArgumentError: When it runs, for an invalid file; other formats, which TensorFlow's decoder of
            PNG files would take, among them.

    Example:
        >>> decode_labels(tf.io.encode_png(tf.zeros((4, 6, 1), tf.uint8))).shape
        TensorShape([4, 6])
    """
    is_png = tf.debugging.Assert(_starts_with(encoded, _PNG_SIGNATURE), ["the labels are no PNG file"])
    with tf.control_dependencies([is_png, _assert_size(encoded, max_pixels)]):
        return tf.cast(tf.io.decode_png(encoded, channels=1)[..., 0], tf.int32)


def safe_decode_image(encoded: tf.Tensor, max_pixels: int = files.MAX_PIXELS) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes a JPEG or PNG file as `decode_image`, or says why not: an invalid file does not stop its batch.

    The size is read from the header first; an image above `max_pixels` is never decoded.

    Args:
        encoded: Scalar string with any bytes.
        max_pixels: Largest height times width.

    Returns:
        The image (H, W, 3) uint8, (0, 0, 3) where it is invalid; and its status: "OK", or "INVALID_ARGUMENT: " and
        the reason.

    Example:
        >>> image, status = safe_decode_image(tf.constant("no image"))
        >>> image.shape, status.numpy()[:17]
        (TensorShape([0, 0, 3]), b'INVALID_ARGUMENT:')
    """
    no_image = tf.zeros([0, 0, 3], tf.uint8)
    size = _or_default(encoded_image_size, encoded, tf.zeros([2], tf.int32))  # of a JPEG, only if its header is whole
    height, width = tf.unstack(tf.cast(size, tf.int64))
    known = _starts_with(encoded, _PNG_SIGNATURE) | _starts_with(encoded, _JPEG_SIGNATURE)
    too_large = tf.strings.format(f"height and width {{}} make more than max_pixels={max_pixels} pixels", size)
    problem = tf.constant("")
    for applies, reason in (  # the last one that applies is reported
        (height * width > max_pixels, too_large),
        (tf.minimum(height, width) < 1, "the image has no pixels, or its header is truncated or damaged"),
        (~known, _UNKNOWN_FORMAT),
        (tf.strings.length(encoded) == 0, "the file is empty (0 bytes)"),
    ):
        problem = tf.where(applies, reason, problem)
    image = tf.cond(
        problem == "",
        lambda: _or_default(lambda one: decode_image(one, max_pixels=max_pixels), encoded, no_image),
        lambda: no_image,
    )
    image = tf.ensure_shape(image, [None, None, 3])
    undecoded = (problem == "") & (tf.size(image) == 0)
    problem = tf.where(undecoded, "the file is truncated or damaged, or of a kind that is not decoded", problem)
    return image, tf.where(problem == "", OK, _INVALID + problem)


def _assert_size(encoded: tf.Tensor, max_pixels: int) -> tf.Operation:
    """Fails when it runs for an image that its header calls empty or larger."""
    size = tf.cast(encoded_image_size(encoded), tf.int64)
    return tf.debugging.Assert(
        (tf.reduce_min(size) >= 1) & (size[0] * size[1] <= max_pixels),
        [f"The image is empty or has more than max_pixels={max_pixels} pixels: height and width are", size],
    )


def _starts_with(encoded: tf.Tensor, signature: bytes) -> tf.Tensor:
    """Whether a file begins with these bytes."""
    return tf.strings.substr(encoded, 0, len(signature)) == signature


def _png_size(encoded: tf.Tensor) -> tf.Tensor:
    """Height and width of a PNG file, (2,) int32; zero where the file ends before them."""
    # signature (8), length and name of the first chunk (4 each), width and height (4 each, big-endian)
    header = tf.strings.join([tf.strings.substr(encoded, 0, 24), "\0" * 24])
    octets = tf.io.decode_raw(tf.strings.substr(header, 16, 8), tf.uint8)
    octets = tf.reshape(tf.cast(octets, tf.int32), [2, 4])
    # PNG allows at most 2**31 - 1; a larger number is negative here, and the image counts as empty
    return tf.reverse(tf.reduce_sum(tf.bitwise.left_shift(octets, [24, 16, 8, 0]), axis=1), axis=[0])


def _or_default(function: Callable[[tf.Tensor], tf.Tensor], argument: tf.Tensor, default: tf.Tensor) -> tf.Tensor:
    """Runs a function in the graph and gives the default where it fails.

    TensorFlow's graphs have no exceptions, but a dataset may skip the elements that fail: this one has the result as
    its first element if there is one, and the default after it.
    """
    results = tf.data.Dataset.from_tensors(argument).map(function).ignore_errors(log_warning=False)
    return results.concatenate(tf.data.Dataset.from_tensors(default)).take(1).get_single_element()
