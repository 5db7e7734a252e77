"""The layer norm of the networks: Keras' own layer, computed by `tf_segformer.ops`."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tf_segformer.ops.normalization import layer_norm


@keras.saving.register_keras_serializable(package="tf_segformer")
class LayerNormalization(keras.layers.LayerNormalization):
    """Keras' layer norm over the last axis, which TensorFlow runs as one kernel for inference.

    Weights, configuration and results are those of `keras.layers.LayerNormalization`. It is a layer, not a function of
    one, because the functional models call it on the feature maps of their stages; its name is Keras' because files of
    Keras name a layer's place after its class.

    Source: Ba et al. 2016, https://arxiv.org/abs/1607.06450.

    Example:
        >>> normalized = LayerNormalization()(keras.ops.array([[[[1.0, 3.0], [2.0, 8.0]]]]))
        >>> keras.ops.convert_to_numpy(normalized).round(2).tolist()
        [[[[-1.0, 1.0], [-1.0, 1.0]]]]
    """

    def call(self, x: Any, training: bool = False) -> Any:
        """Normalizes the channels of every position of (..., C)."""
        normalized = layer_norm(x, self.gamma, self.beta, self.epsilon, training=training)
        return ops.cast(normalized, self.compute_dtype)
