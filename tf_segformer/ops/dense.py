"""Dense layers on tokens, and GELU followed by one, whose gradient keeps the input alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tf_segformer.ops import tracing


def apply_to_tokens(function: Callable[[Any], Any], x: Any) -> Any:
    """Applies a function of the channels, such as a dense layer, to a feature map as to a matrix of tokens.

    Of a matrix, TensorFlow adds the bias within the product; of a map, it goes over the result once more.

    Args:
        function: (N, C) to (N, D).
        x: (..., C).

    Returns:
        (..., D).

    Example:
        >>> tuple(apply_to_tokens(keras.layers.Dense(8), ops.ones((1, 4, 6, 3))).shape)
        (1, 4, 6, 8)
    """
    if len(x.shape) == 2:
        return function(x)
    outputs = function(ops.reshape(x, (-1, x.shape[-1])))
    return ops.reshape(outputs, (*ops.shape(x)[:-1], ops.shape(outputs)[-1]))


def gelu(x: Any) -> Any:
    """GELU by the error function, spelled so that every export format has its operators.

    Args:
        x: Floating point tensor of any shape.

    Returns:
        Tensor of the same shape and dtype.

    Source: Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415.

    Example:
        >>> round(float(gelu(ops.array(1.0))), 4)
        0.8413
    """
    if tracing.exporting():  # LiteRT has no error function, but knows GELU in this form
        return 0.5 * x * (1.0 + ops.erf(x * math.sqrt(0.5)))
    return x * (0.5 + 0.5 * ops.erf(x * math.sqrt(0.5)))  # one new tensor instead of two


def gelu_dense(tokens: Any, dense: keras.layers.Dense, *, training: bool = False) -> Any:
    """A dense layer of the GELU of tokens: `dense(gelu(tokens))`.

    Args:
        tokens: (N, C), of a floating dtype.
        dense: Built for C channels, with a bias and without an activation.
        training: Whether gradients follow.

    Returns:
        (N, D).

    Example:
        >>> tuple(gelu_dense(ops.ones((6, 3)), keras.layers.Dense(8)).shape)
        (6, 8)
    """
    if training and tracing.tuned_for_cpu() and dense.quantization_mode is None:
        return _gelu_dense_recomputed(tokens, dense.kernel, dense.bias)
    return dense(gelu(tokens))


def _gelu_dense_recomputed(tokens: Any, kernel: Any, bias: Any) -> Any:
    """Keeps its input alone for the gradient, which computes GELU again; TensorFlow would keep several maps more."""
    import tensorflow as tf

    @tf.custom_gradient
    def product(x: Any, half_kernel: Any, bias: Any) -> Any:
        def twice_below(scaled: Any) -> Any:
            """Twice the part of a normal distribution that lies below x, of which x * sqrt(1/2) is given."""
            return 1 + tf.math.erf(scaled)

        def gradient(upstream: Any) -> tuple[Any, Any, Any]:
            # Without the wait TensorFlow would keep `below` until here, not to compute it twice
            with tf.control_dependencies([upstream]):
                recomputed = tf.identity(x)
            scaled = recomputed * math.sqrt(0.5)
            below = twice_below(scaled)
            twice_density = tf.exp(0.5 * math.log(2 / math.pi) - tf.square(scaled))
            dkernel = tf.matmul(recomputed * below, upstream, transpose_a=True)
            dx = tf.matmul(upstream, half_kernel, transpose_b=True) * (below + recomputed * twice_density)
            return dx, dkernel, tf.reduce_sum(upstream, axis=0)

        return tf.nn.bias_add(tf.matmul(x * twice_below(x * math.sqrt(0.5)), half_kernel), bias), gradient

    kernel, bias = (tf.cast(tf.convert_to_tensor(weight), tokens.dtype) for weight in (kernel, bias))
    return product(tokens, 0.5 * kernel, bias)  # GELU's half is taken where numbers are few
