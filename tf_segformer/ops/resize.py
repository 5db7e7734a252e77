"""Bilinear resizing of feature maps and its gradient, equal on every backend, in every precision and under XLA."""

from __future__ import annotations

from typing import Any

from keras import ops

from tf_segformer.ops import tracing


def resize_bilinear(x: Any, height: Any, width: Any) -> Any:
    """Bilinear resize (half-pixel centres, no antialiasing), equal to torch's `interpolate` at every size.

    TensorFlow's own kernel is several times faster than anything made of other operations, forward and backward, and
    right; only XLA's version of it is wrong for some sizes (5 to 9, 33 to 65), and its gradient in half precision.
    There, and on the other backends, two products with small matrices do the same.

    Args:
        x: Feature maps (B, H, W, C), any floating dtype.
        height: Height of the result in pixels, an int or a scalar tensor.
        width: Width of the result in pixels, likewise.

    Returns:
        float32 tensor (B, height, width, C).

    Example:
        >>> tuple(resize_bilinear(ops.ones((1, 2, 3, 4)), 8, 12).shape)
        (1, 8, 12, 4)
    """
    x = ops.cast(x, "float32")
    if tracing.runs_tensorflow_kernels():
        import tensorflow as tf  # keras.ops.image.resize takes no size that is known only when the graph runs

        return tf.image.resize(x, (height, width))
    batch, rows, columns, channels = ops.shape(x)
    x = ops.reshape(x, (batch, rows, columns * channels))
    x = ops.matmul(interpolation_matrix(height, rows), x)  # (B, height, W*C)
    x = ops.reshape(x, (batch * height, columns, channels))
    x = ops.matmul(interpolation_matrix(width, columns), x)  # (B*height, width, C)
    return ops.reshape(x, (batch, height, width, channels))


def resize_bilinear_gradient(upstream: Any, height: Any, width: Any) -> Any:
    """The gradient by a map of something whose gradient by the resized map is known: the transpose of the resize.

    Args:
        upstream: Gradient by the result of `resize_bilinear`, (B, H, W, C).
        height: Height of the map that was resized, an int or a scalar tensor.
        width: Its width, likewise.

    Returns:
        float32 tensor (B, height, width, C).

    Example:
        >>> float(resize_bilinear_gradient(ops.ones((1, 8, 12, 1)), 2, 3)[0, 0, 0, 0])
        16.0
    """
    upstream = ops.cast(upstream, "float32")
    batch, rows, columns, channels = ops.shape(upstream)
    if tracing.runs_tensorflow_kernels():
        import tensorflow as tf

        original = tf.zeros((batch, height, width, channels))  # the kernel looks at its shape alone
        return tf.raw_ops.ResizeBilinearGrad(grads=upstream, original_image=original, half_pixel_centers=True)
    upstream = ops.reshape(upstream, (batch * rows, columns, channels))
    upstream = ops.matmul(ops.transpose(interpolation_matrix(columns, width)), upstream)  # (B*H, width, C)
    upstream = ops.reshape(upstream, (batch, rows, width * channels))
    upstream = ops.matmul(ops.transpose(interpolation_matrix(rows, height)), upstream)  # (B, height, width*C)
    return ops.reshape(upstream, (batch, height, width, channels))


def interpolation_matrix(size_out: Any, size_in: Any) -> Any:
    """The matrix of bilinear (half-pixel) interpolation along one axis.

    Args:
        size_out: Length after resizing, an int or a scalar tensor.
        size_in: Length before resizing, likewise.

    Returns:
        float32 matrix (size_out, size_in) whose rows sum to one.

    Example:
        >>> tuple(interpolation_matrix(4, 2).shape)
        (4, 2)
    """
    ratio = ops.cast(size_in, "float32") / ops.cast(size_out, "float32")
    source = (ops.cast(ops.arange(size_out), "float32") + 0.5) * ratio - 0.5  # (size_out,)
    source = ops.clip(source, 0.0, ops.cast(size_in, "float32") - 1.0)
    columns = ops.cast(ops.arange(size_in), "float32")  # (size_in,)
    return ops.relu(1.0 - ops.abs(source[:, None] - columns[None, :]))
