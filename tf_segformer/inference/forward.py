"""A Keras model as a plain function from one array to another, on any backend, for images of any size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def forward_function(model: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Wraps the inference pass of a model.

    On TensorFlow it is one graph with open sizes, so that a folder of images of many sizes is traced once. The other
    backends run Keras' own prediction step (JAX compiles it for each new size).

    Args:
        model: Keras model from (B, H, W, C) float32 to one output, or to a dictionary with "logits".

    Returns:
        A function from pixel values (B, H, W, C) float32 to float32 logits.
    """
    import keras

    run = _tensorflow_graph(model) if keras.backend.backend() == "tensorflow" else model.predict_on_batch

    def forward(pixel_values: np.ndarray) -> np.ndarray:
        outputs = run(np.ascontiguousarray(pixel_values, dtype=np.float32))
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs
        return np.asarray(logits, dtype=np.float32)

    return forward


def _tensorflow_graph(model: Any) -> Callable[[np.ndarray], Any]:
    """One traced graph for the shape that the model declares, which leaves sizes open where the model does."""
    import tensorflow as tf

    from tf_segformer.ops.tracing import share_traces

    def infer(pixel_values: Any) -> Any:
        with share_traces(len(model.weights)):
            return model(pixel_values, training=False)

    return tf.function(infer, input_signature=[tf.TensorSpec(model.inputs[0].shape, tf.float32)], autograph=False)
