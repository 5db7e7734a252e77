"""Attention in chunks of queries: the definition's values and gradients, less memory."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tensorflow as tf

from tf_segformer.ops import attention as module
from tf_segformer.ops.attention import attend, attention, attention_probabilities
from tf_segformer.ops.tracing import export_mode, trace_for


def random_inputs(num_queries=37, num_keys=11, heads=2, width=4):
    generator = np.random.default_rng(0)
    shapes = [(3, num_queries, heads, width), (3, num_keys, heads, width), (3, num_keys, heads, width)]
    return [tf.constant(generator.standard_normal(shape).astype("float32")) for shape in shapes]


def definition(query, key, value):
    product = np.einsum("bnhd,bmhd->bhnm", query, key) / np.sqrt(query.shape[-1])
    exponentials = np.exp(product - product.max(-1, keepdims=True))
    return np.einsum("bhnm,bmhd->bnhd", exponentials / exponentials.sum(-1, keepdims=True), value)


def gradients(*inputs):
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = tf.reduce_sum(attention(*inputs, training=True) ** 2)
    return tape.gradient(loss, inputs)


# one query a chunk, chunks that do not divide the queries, one chunk
@pytest.mark.parametrize("max_elements", [1, 10 * 22, 37 * 22])
@pytest.mark.parametrize("dynamic", [False, True], ids=["known sizes", "open sizes"])
@pytest.mark.parametrize("heads", [1, 2])
def test_chunks_have_the_values_of_the_definition(max_elements, dynamic, heads, monkeypatch):
    monkeypatch.setattr(module, "MAX_ELEMENTS", max_elements)
    inputs = random_inputs(heads=heads, width=8 // heads)
    function = tf.function(attention)
    if dynamic:
        function = function.get_concrete_function(*[tf.TensorSpec((None, None, heads, 8 // heads)) for _ in inputs])
    np.testing.assert_allclose(function(*inputs), definition(*map(np.asarray, inputs)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("max_elements", [10 * 22, 37 * 22], ids=["chunks", "at once"])
@pytest.mark.parametrize("dynamic", [False, True], ids=["known sizes", "open sizes"])
def test_recomputed_gradients_are_those_of_the_plain_form(max_elements, dynamic, jit_compile, monkeypatch):
    monkeypatch.setattr(module, "MAX_ELEMENTS", max_elements)
    inputs = random_inputs()
    with trace_for("GPU"):
        plain = gradients(*inputs)
    signature = [tf.TensorSpec((None, None, 2, 4)) for _ in inputs] if dynamic else None
    function = tf.function(gradients, jit_compile=jit_compile, input_signature=signature)
    for ours, theirs in zip(function(*inputs), plain, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tuned", [True, False])
def test_chunks_are_taken_where_tensorflow_computes_on_a_cpu_alone(tuned, monkeypatch):
    monkeypatch.setattr(module, "MAX_ELEMENTS", 1)
    with trace_for("CPU" if tuned else "GPU"):
        graph = tf.function(attention).get_concrete_function(*random_inputs()).graph
    loops = {operation.type for operation in graph.get_operations()} & {"While", "StatelessWhile"}
    assert bool(loops) is tuned


def test_graphs_for_other_engines_have_no_loop(monkeypatch):
    monkeypatch.setattr(module, "MAX_ELEMENTS", 1)
    with export_mode():
        function = tf.function(attention).get_concrete_function(*random_inputs())
    assert not {operation.type for operation in function.graph.get_operations()} & {"While", "StatelessWhile"}
    np.testing.assert_allclose(function(*random_inputs()), definition(*map(np.asarray, random_inputs())), atol=1e-6)


def test_probabilities_and_their_mean_are_attention():
    query, key, value = random_inputs()
    probabilities = attention_probabilities(query, key)
    assert probabilities.shape == (3, 2, 37, 11)
    np.testing.assert_allclose(np.sum(probabilities, -1), 1, atol=1e-6)
    np.testing.assert_allclose(attend(probabilities, value), attention(query, key, value), rtol=0, atol=1e-6)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_rounds_the_inputs_and_the_results_alone(dtype, training):
    inputs = [tf.cast(each, dtype) for each in random_inputs()]
    expected = definition(*[tf.cast(each, "float32").numpy() for each in inputs])
    result = attention(*inputs, training=training)
    assert result.dtype == dtype
    rounding = {"float16": 2e-3, "bfloat16": 1.6e-2}[dtype]  # the product, the probabilities and the result: each once
    np.testing.assert_allclose(tf.cast(result, "float32"), expected, rtol=0, atol=rounding * np.abs(expected).max())


def test_one_key_has_all_the_attention():
    query, key, value = random_inputs(num_keys=1)
    np.testing.assert_allclose(attention(query, key, value), np.repeat(value, 37, axis=1), atol=1e-6)


def test_training_on_a_cpu_keeps_no_probabilities_for_the_gradient():
    """Its gradient is one of our own; inference, which has none, takes the definition as it is."""
    for training in (True, False):
        function = tf.function(functools.partial(attention, training=training))
        graph = function.get_concrete_function(*random_inputs()).graph
        assert ("IdentityN" in {operation.type for operation in graph.get_operations()}) is training
