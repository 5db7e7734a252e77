"""Decodes images that nobody has checked: a broken one gives a status, never an error that stops its batch."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tf_segformer.imaging.graph.processing import decode_image, encoded_image_size

MAX_PIXELS = 50_000_000
"""Largest height times width that an exported model decodes by default."""

OK = "OK"
_REJECTD = "INVALID_ARGUMENT: "


def safe_decode_image(encoded: tf.Tensor, max_pixels: int = MAX_PIXELS) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes a JPEG or PNG file as `imaging.graph.decode_image`, or says why not.

    The size is read from the header first; an image above `max_pixels` is never decoded.

    Args:
        encoded: Scalar string with any bytes.
        max_pixels: Largest height times width.

    Returns:
        The image (H, W, 3) uint8, (0, 0, 3) where it is rejected; and its status: "OK", or "INVALID_ARGUMENT: " and
        the reason.

    Example:
        >>> image, status = safe_decode_image(tf.constant("no image"))
        >>> image.shape, status.numpy()[:17]
        (TensorShape([0, 0, 3]), b'INVALID_ARGUMENT:')
    """
    no_image = tf.zeros([0, 0, 3], tf.uint8)
    size = _or_default(encoded_image_size, encoded, tf.zeros([2], tf.int32))  # of a JPEG, only if its header is whole
    height, width = tf.unstack(tf.cast(size, tf.int64))
    known = (tf.strings.substr(encoded, 0, 8) == b"\x89PNG\r\n\x1a\n") | (
        tf.strings.substr(encoded, 0, 3) == b"\xff\xd8\xff"
    )
    too_large = tf.strings.format(f"height and width {{}} make more than max_pixels={max_pixels} pixels", size)
    problem = tf.constant("")
    for applies, reason in (  # the last one that applies is told
        (height * width > max_pixels, too_large),
        (tf.minimum(height, width) < 1, "the image has no pixels, or its header is truncated or damaged"),
        (~known, "the bytes are neither a JPEG nor a PNG file"),
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
    return image, tf.where(problem == "", OK, _REJECTD + problem)


def _or_default(function: Callable[[tf.Tensor], tf.Tensor], argument: tf.Tensor, default: tf.Tensor) -> tf.Tensor:
    """Runs a function in the graph and gives the default where it fails.

    TensorFlow's graphs know no exceptions, but a dataset may leave out the elements that fail: this one has the result
    as its first element if there is one, and the default after it.
    """
    results = tf.data.Dataset.from_tensors(argument).map(function).ignore_errors(log_warning=False)
    return results.concatenate(tf.data.Dataset.from_tensors(default)).take(1).get_single_element()
