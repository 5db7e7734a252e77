"""Gradients that keep only the input: the same numbers, in every precision and under XLA."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tf_segformer.modeling.layers import MixFeedForward
from tf_segformer.modeling.lean_gradients import lean_gelu, lean_layer_norm

VALUES = np.linspace(-6, 6, 481, dtype="float32").reshape(13, 37)


def value_and_gradients(function, *inputs):
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        result = function(*inputs)
        loss = tf.reduce_sum(tf.cast(result, "float32") ** 2)
    return [result, *tape.gradient(loss, inputs)]


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_gelu_and_its_gradient_are_those_of_tensorflow(jit_compile):
    x = tf.constant(VALUES)
    run = tf.function(lambda x: value_and_gradients(lean_gelu, x), jit_compile=jit_compile)
    for ours, theirs in zip(run(x), value_and_gradients(lambda x: tf.nn.gelu(x, approximate=False), x), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6 * np.abs(theirs).max())


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_layer_norm_and_its_gradients_are_those_of_the_definition(jit_compile):
    rng = np.random.default_rng(0)
    inputs = [tf.constant(rng.normal(2, 3, shape).astype("float32")) for shape in ((13, 37), (37,), (37,))]

    def definition(matrix, gamma, beta):
        mean, variance = tf.nn.moments(matrix, axes=[-1], keepdims=True)
        return (matrix - mean) / tf.sqrt(variance + 1e-3) * gamma + beta

    run = tf.function(
        lambda *inputs: value_and_gradients(lambda *each: lean_layer_norm(*each, 1e-3), *inputs),
        jit_compile=jit_compile,
    )
    for ours, theirs in zip(run(*inputs), value_and_gradients(definition, *inputs), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=3e-6 * np.abs(theirs).max())


def test_half_precision_keeps_its_type():
    result, gradient = value_and_gradients(lean_gelu, tf.constant(VALUES, tf.bfloat16))
    assert result.dtype == gradient.dtype == tf.bfloat16


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_training_and_inference_compute_the_same(activation):
    layer = MixFeedForward(8, activation=activation, initializer_range=0.5)
    x = np.random.default_rng(0).standard_normal((2, 5, 7, 8)).astype("float32")
    np.testing.assert_allclose(layer(x, training=True), layer(x), rtol=0, atol=2e-6)
