"""GELU and layer norm whose gradients keep their input alone; TensorFlow's keep two or three maps more for each."""

from __future__ import annotations

import math
from typing import Any


def lean_gelu(x: Any) -> Any:
    """GELU by the error function, for training on TensorFlow.

    Args:
        x: Floating point tensor of any shape.

    Returns:
        Tensor of the same shape and dtype.
    """
    import tensorflow as tf

    @tf.custom_gradient
    def gelu(x: Any) -> Any:
        def share(x: Any) -> Any:
            """Of a normal distribution, what lies below x."""
            return 0.5 + 0.5 * tf.math.erf(x * math.sqrt(0.5))

        def gradient(slope: Any) -> Any:
            density = tf.exp(-0.5 * tf.square(x)) / math.sqrt(2 * math.pi)
            return slope * (share(x) + x * density)

        return x * share(x), gradient

    return gelu(x)


def lean_layer_norm(matrix: Any, gamma: Any, beta: Any, epsilon: float) -> Any:
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
