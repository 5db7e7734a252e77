"""GELU and layer norm whose gradients keep their input alone; TensorFlow's keep several maps more for each."""

from __future__ import annotations

import math
from typing import Any


def gelu_dense_recomputed(matrix: Any, kernel: Any, bias: Any) -> Any:
    """A dense layer of the GELU (by the error function) of a matrix, for training on TensorFlow.

    Args:
        matrix: (N, C), of a floating dtype.
        kernel: (C, D).
        bias: (D,).

    Returns:
        (N, D) in the dtype of the matrix.
    """
    import tensorflow as tf

    @tf.custom_gradient
    def gelu_dense(x: Any, half_kernel: Any, bias: Any) -> Any:
        def twice_below(scaled: Any) -> Any:
            """Twice the share of a normal distribution that lies below x, of which x * sqrt(1/2) is given."""
            return 1 + tf.math.erf(scaled)

        def gradient(slope: Any) -> tuple[Any, Any, Any]:
            # Without the wait TensorFlow would keep the share until here, not to compute it twice
            with tf.control_dependencies([slope]):
                again = tf.identity(x)
            scaled = again * math.sqrt(0.5)
            share = twice_below(scaled)
            twice_density = tf.exp(0.5 * math.log(2 / math.pi) - tf.square(scaled))
            of_kernel = tf.matmul(again * share, slope, transpose_a=True)
            of_x = tf.matmul(slope, half_kernel, transpose_b=True) * (share + again * twice_density)
            return of_x, of_kernel, tf.reduce_sum(slope, axis=0)

        return tf.nn.bias_add(tf.matmul(x * twice_below(x * math.sqrt(0.5)), half_kernel), bias), gradient

    kernel, bias = (tf.cast(tf.convert_to_tensor(weight), matrix.dtype) for weight in (kernel, bias))
    return gelu_dense(matrix, 0.5 * kernel, bias)  # GELU's half is taken where numbers are few


def layer_norm_recomputed(matrix: Any, gamma: Any, beta: Any, epsilon: float) -> Any:
    """Layer norm of the rows of a float32 matrix, for training on TensorFlow.

    Args:
        matrix: (N, C).
        gamma: Scale (C,).
        beta: Offset (C,).
        epsilon: Added to the variance.

    Returns:
        (N, C).
    """
    import tensorflow as tf

    @tf.custom_gradient
    def layer_norm(matrix: Any, gamma: Any, beta: Any) -> Any:
        mean = tf.reduce_mean(matrix, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.square(matrix - mean), axis=-1, keepdims=True)
        scale = tf.math.rsqrt(variance + epsilon)  # (N, 1)

        def gradient(slope: Any) -> tuple[Any, Any, Any]:
            normalized = (matrix - mean) * scale
            inner = slope * gamma
            of_matrix = inner - tf.reduce_mean(inner, axis=-1, keepdims=True)
            of_matrix -= normalized * tf.reduce_mean(inner * normalized, axis=-1, keepdims=True)
            return of_matrix * scale, tf.reduce_sum(slope * normalized, axis=0), tf.reduce_sum(slope, axis=0)

        return (matrix - mean) * scale * gamma + beta, gradient

    return layer_norm(matrix, gamma, beta)
