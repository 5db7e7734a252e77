"""GELU, and GELU followed by a dense layer whose gradient computes it again: Keras' values and gradients."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_segformer.ops.dense import apply_to_tokens, gelu, gelu_dense
from tf_segformer.ops.tracing import export_mode, trace_for

TOKENS = np.linspace(-6, 6, 481, dtype="float32").reshape(13, 37)


@pytest.fixture
def dense():
    layer = keras.layers.Dense(5)
    layer.build((None, 37))
    generator = np.random.default_rng(0)
    layer.set_weights([generator.normal(size=(37, 5)), generator.normal(size=5)])
    return layer


def value_and_gradients(tokens, dense, training=True):
    with tf.GradientTape() as tape:
        tape.watch(tokens)
        result = gelu_dense(tokens, dense, training=training)
        loss = tf.reduce_sum(tf.cast(result, "float32") ** 2)
    return [result, *tape.gradient(loss, [tokens, dense.kernel.value, dense.bias.value])]


@pytest.mark.parametrize("mode", ["plain", "for export"])
def test_gelu_is_that_of_tensorflow(mode):
    if mode == "for export":
        with export_mode():
            result = gelu(tf.constant(TOKENS))
    else:
        result = gelu(tf.constant(TOKENS))
    np.testing.assert_allclose(result, tf.nn.gelu(TOKENS, approximate=False), rtol=0, atol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_recomputed_gelu_has_the_values_and_gradients_of_the_plain_form(dense, jit_compile):
    run = tf.function(lambda tokens: value_and_gradients(tokens, dense), jit_compile=jit_compile)
    with trace_for("GPU"):
        plain = value_and_gradients(tf.constant(TOKENS), dense)
    np.testing.assert_allclose(plain[0], dense(tf.nn.gelu(TOKENS, approximate=False)), rtol=0, atol=1e-5)
    for ours, theirs in zip(run(tf.constant(TOKENS)), plain, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6 * np.abs(theirs).max())


def test_training_keeps_the_tokens_alone(dense):
    """What the gradient reads of the first half of the graph, apart from weights, is its input."""
    with tf.GradientTape() as tape:
        tokens = tf.Variable(TOKENS)
        result = gelu_dense(tokens, dense, training=True)
    assert result.shape == (13, 5)
    graph = tf.function(lambda x: value_and_gradients(x, dense)).get_concrete_function(tf.TensorSpec((13, 37))).graph
    erfs = [operation for operation in graph.get_operations() if operation.type == "Erf"]
    assert len(erfs) == 2  # once for the value, once again for the gradient
    assert tape.gradient(result, tokens) is not None


def test_half_precision_keeps_its_type(dense):
    result, dx, *_ = value_and_gradients(tf.cast(TOKENS, tf.bfloat16), dense)
    assert {result.dtype, dx.dtype} == {tf.bfloat16}


def test_a_quantized_layer_is_called_as_a_layer(dense):
    expected = gelu_dense(tf.constant(TOKENS), dense)
    dense.quantize("int8")
    result = gelu_dense(tf.constant(TOKENS), dense, training=True)
    assert 0 < np.abs(result - expected).max() < 0.05 * np.abs(expected).max()


def test_a_map_is_a_matrix_of_tokens(dense):
    feature_map = tf.constant(np.random.default_rng(1).normal(size=(2, 3, 4, 37)).astype("float32"))
    np.testing.assert_allclose(apply_to_tokens(dense, feature_map), dense(feature_map), rtol=0, atol=1e-5)
