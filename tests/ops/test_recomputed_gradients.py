"""Gradients that keep only the input: the same numbers, in every precision and under XLA."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tf_segformer.modeling.layers import MixFeedForward
from tf_segformer.ops.recomputed_gradients import gelu_dense_recomputed, layer_norm_recomputed

VALUES = np.linspace(-6, 6, 481, dtype="float32").reshape(13, 37)


def value_and_gradients(function, *inputs):
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        result = function(*inputs)
        loss = tf.reduce_sum(tf.cast(result, "float32") ** 2)
    return [result, *tape.gradient(loss, inputs)]


@pytest.fixture
def gelu_inputs():
    rng = np.random.default_rng(0)
    return [tf.constant(each, "float32") for each in (VALUES, rng.normal(size=(37, 5)), rng.normal(size=5))]


def gelu_dense(matrix, kernel, bias):
    return tf.nn.gelu(matrix, approximate=False) @ kernel + bias


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_gelu_and_its_gradients_are_those_of_tensorflow(gelu_inputs, jit_compile):
    run = tf.function(lambda *inputs: value_and_gradients(gelu_dense_recomputed, *inputs), jit_compile=jit_compile)
    for ours, theirs in zip(run(*gelu_inputs), value_and_gradients(gelu_dense, *gelu_inputs), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6 * np.abs(theirs).max())


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_layer_norm_and_its_gradients_are_those_of_the_definition(jit_compile):
    rng = np.random.default_rng(0)
    inputs = [tf.constant(rng.normal(2, 3, shape).astype("float32")) for shape in ((13, 37), (37,), (37,))]

    def definition(matrix, gamma, beta):
        mean, variance = tf.nn.moments(matrix, axes=[-1], keepdims=True)
        return (matrix - mean) / tf.sqrt(variance + 1e-3) * gamma + beta

    run = tf.function(
        lambda *inputs: value_and_gradients(lambda *each: layer_norm_recomputed(*each, 1e-3), *inputs),
        jit_compile=jit_compile,
    )
    for ours, theirs in zip(run(*inputs), value_and_gradients(definition, *inputs), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=3e-6 * np.abs(theirs).max())


def test_half_precision_keeps_its_type(gelu_inputs):
    results = value_and_gradients(gelu_dense_recomputed, *(tf.cast(each, tf.bfloat16) for each in gelu_inputs))
    assert {each.dtype for each in results} == {tf.bfloat16}


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_training_and_inference_compute_the_same(activation):
    layer = MixFeedForward(8, activation=activation, initializer_range=0.5)
    x = np.random.default_rng(0).standard_normal((2, 5, 7, 8)).astype("float32")
    np.testing.assert_allclose(layer(x, training=True), layer(x), rtol=0, atol=2e-6)
