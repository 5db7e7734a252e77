"""Dense layer and layer norm over the channels of a map, spelled so that TensorFlow runs each as one kernel.

They have the names of Keras' own layers, since files of Keras name a layer's place after its class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tf_segformer.ops.portability import exporting
from tf_segformer.ops.recomputed_gradients import layer_norm_recomputed


def on_matrix(function: Callable[[Any], Any], x: Any) -> Any:
    """Applies a function of the channels to a map as to a matrix that has a row a position.

    Args:
        function: Matrix (N, C) to matrix (N, D).
        x: Map (..., C), or such a matrix.

    Returns:
        Map (..., D), or matrix (N, D).
    """
    if len(x.shape) == 2:
        return function(x)
    outputs = function(ops.reshape(x, (-1, x.shape[-1])))
    return ops.reshape(outputs, (*ops.shape(x)[:-1], ops.shape(outputs)[-1]))


@keras.saving.register_keras_serializable(package="tf_segformer")
class Dense(keras.layers.Dense):
    """Keras' dense layer over the last axis, as one product with a matrix that has a row a position.

    Of a matrix, TensorFlow adds the bias within the product; of a map, it goes over the result once more.

    Example:
        >>> tuple(Dense(8)(keras.ops.ones((1, 4, 6, 3))).shape)
        (1, 4, 6, 8)
    """

    def call(self, x: Any, training: bool | None = None) -> Any:
        """(..., C) -> (..., units)."""
        product = super().call
        return on_matrix(lambda matrix: product(matrix, training=training), x)


@keras.saving.register_keras_serializable(package="tf_segformer")
class LayerNormalization(keras.layers.LayerNormalization):
    """Keras' layer norm over the last axis, which TensorFlow runs as one kernel for inference.

    Weights, configuration and results are those of `keras.layers.LayerNormalization`, whose spelling TensorFlow runs as
    eleven operations, each a pass over memory.

    Source: Ba et al. 2016, https://arxiv.org/abs/1607.06450.

    Example:
        >>> normalized = LayerNormalization()(keras.ops.array([[[[1.0, 3.0], [2.0, 8.0]]]]))
        >>> keras.ops.convert_to_numpy(normalized).round(2).tolist()
        [[[[-1.0, 1.0], [-1.0, 1.0]]]]
    """

    def call(self, x: Any, training: bool = False) -> Any:
        """Normalizes the channels of every position of (..., C)."""
        if keras.backend.backend() != "tensorflow":  # these have kernels of their own
            return super().call(x)
        one_kernel = not (training or exporting()) and _is_graph(x)
        normalize = _normalize_as_batch_norm if one_kernel else layer_norm_recomputed if training else _normalize
        gamma, beta = ops.cast(self.gamma, "float32"), ops.cast(self.beta, "float32")
        normalized = on_matrix(lambda matrix: normalize(matrix, gamma, beta, self.epsilon), ops.cast(x, "float32"))
        return ops.cast(normalized, self.compute_dtype)


def _is_graph(x: Any) -> bool:
    """Whether operations are drawn into a graph of TensorFlow, not run one by one or traced by Keras."""
    import tensorflow as tf

    return tf.is_tensor(x) and not tf.executing_eagerly()


def _normalize(matrix: Any, gamma: Any, beta: Any, epsilon: float) -> Any:
    """The definition, the variance from what the result needs anyway: fewer passes, a shorter gradient."""
    centered = matrix - ops.mean(matrix, axis=-1, keepdims=True)
    variance = ops.mean(ops.square(centered), axis=-1, keepdims=True)
    return centered * ops.rsqrt(variance + epsilon) * gamma + beta


def _normalize_as_batch_norm(matrix: Any, gamma: Any, beta: Any, epsilon: float) -> Any:
    """The same of a matrix, as a batch norm with a channel for each row: 0.93 x the time of the whole network B0.

    TensorFlow's optimizer knows this form as the layer norm of oneDNN, one kernel that is 2 to 4 times as fast, if it
    acts on a matrix and if scale and offset, ones and zeros, have not become constants before. Placeholders with a
    default hide from the optimizer that the matrix is a reshaped map, and how many rows it has.
    """
    import tensorflow as tf

    hide, channels = tf.compat.v1.placeholder_with_default, matrix.shape[-1]
    matrix = hide(matrix, [None, channels])
    shape = tf.shape(matrix)
    rows = hide(shape[0], [])
    nothing = tf.constant([], tf.float32)
    normalized, *_ = tf.raw_ops.FusedBatchNormV3(
        x=tf.reshape(matrix, [1, rows, channels, 1]),
        scale=tf.fill([rows], 1.0),
        offset=tf.fill([rows], 0.0),
        mean=nothing,
        variance=nothing,
        epsilon=epsilon,
        data_format="NCHW",
        is_training=True,
    )
    return tf.reshape(normalized, shape) * gamma + beta
