"""A Keras model as a plain function from one array to another, on any backend, for images of any size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def forward_function(model: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Wraps the inference pass of a model.

    On TensorFlow it is one graph with open sizes, so that a folder of images of many sizes is traced once. JAX compiles
    it for each new size, and torch runs Keras' own prediction step.

    Args:
        model: Keras model from (B, H, W, C) float32 to one output, or to a dictionary with "logits".

    Returns:
        A function from pixel values (B, H, W, C) float32 to float32 logits.
    """
    import keras

    make = {"tensorflow": _tensorflow_graph, "jax": jax_function}.get(keras.backend.backend())
    run = make(model) if make else model.predict_on_batch

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


def jax_function(model: Any) -> Callable[[Any], Any]:
    """The inference pass of a model, compiled by JAX for one device of this process, with the weights of each call.

    `predict_on_batch` shares a batch among all devices of a distribution, and takes the weights away from a `fit` in
    whose callback it is called.

    Args:
        model: Keras model.

    Returns:
        A function from pixel values (B, H, W, C) to the outputs of the model.
    """
    import jax

    def infer(trainable: list[Any], others: list[Any], pixel_values: Any) -> Any:
        return model.stateless_call(trainable, others, pixel_values, training=False)[0]

    compiled = jax.jit(infer)

    def run(pixel_values: Any) -> Any:
        weights = model.trainable_variables, model.non_trainable_variables
        return compiled(*([each.value.addressable_data(0) for each in group] for group in weights), pixel_values)

    return run
