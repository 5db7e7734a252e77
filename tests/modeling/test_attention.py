"""Attention in blocks of queries: the same numbers and gradients, less memory."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tf_segformer import SegformerForSemanticSegmentation
from tf_segformer.modeling import attention
from tf_segformer.modeling.attention import EfficientSelfAttention, attend
from tf_segformer.ops.portability import export_mode


def random_inputs(num_queries=37, num_keys=11, heads=2, width=4):
    generator = np.random.default_rng(0)
    shapes = [(3, num_queries, heads, width), (3, num_keys, heads, width), (3, num_keys, heads, width)]
    return [tf.constant(generator.standard_normal(shape).astype("float32")) for shape in shapes]


def definition(query, key, value):
    scores = np.einsum("bnhd,bmhd->bhnm", query, key) / np.sqrt(query.shape[-1])
    exponentials = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("bhnm,bmhd->bnhd", exponentials / exponentials.sum(-1, keepdims=True), value)


# one query a block, blocks that do not divide the queries, one block
@pytest.mark.parametrize("max_scores", [1, 10 * 22, 37 * 22])
@pytest.mark.parametrize("dynamic", [False, True])
def test_blocks_change_nothing(max_scores, dynamic):
    inputs = random_inputs()
    function = tf.function(lambda *inputs: attend(*inputs, max_scores=max_scores))
    if dynamic:
        function = function.get_concrete_function(*[tf.TensorSpec((None, None, 2, 4)) for _ in inputs])
    np.testing.assert_allclose(function(*inputs), definition(*map(np.asarray, inputs)), rtol=0, atol=1e-6)


def test_graphs_for_other_engines_have_no_loop():
    with export_mode():
        function = tf.function(lambda *inputs: attend(*inputs, max_scores=1)).get_concrete_function(*random_inputs())
    assert not {operation.type for operation in function.graph.get_operations()} & {"While", "StatelessWhile"}
    np.testing.assert_allclose(function(*random_inputs()), definition(*map(np.asarray, random_inputs())), atol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_gradients_through_blocks_are_those_at_once(jit_compile):
    inputs = random_inputs()

    def gradients(max_scores):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = tf.reduce_sum(attend(*inputs, max_scores=max_scores) ** 2)
        return tape.gradient(loss, inputs)

    at_once = tf.function(lambda: gradients(37 * 22))()
    in_blocks = tf.function(lambda: gradients(10 * 22), jit_compile=jit_compile)()
    for ours, theirs in zip(in_blocks, at_once, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_a_model_gives_the_same_in_blocks(small_config, pixel_values, monkeypatch):
    model = SegformerForSemanticSegmentation(small_config.replace(initializer_range=0.2))
    at_once = model(pixel_values).numpy()
    monkeypatch.setattr(attention, "MAX_SCORES", 50)
    taken = []
    in_blocks = attention._attend_in_blocks
    monkeypatch.setattr(attention, "_attend_in_blocks", lambda *inputs: taken.append(1) or in_blocks(*inputs))
    np.testing.assert_allclose(model(pixel_values), at_once, rtol=0, atol=2e-6 * np.abs(at_once).max())
    assert taken


def test_probabilities_that_are_asked_for_are_those_that_were_used():
    layer = EfficientSelfAttention(8, num_heads=2, sequence_reduction=2, initializer_range=0.5)
    x = np.random.default_rng(0).standard_normal((2, 6, 10, 8)).astype("float32")
    outputs, probabilities = layer(x, return_attention=True)
    assert probabilities.shape == (2, 2, 60, 15)
    np.testing.assert_allclose(layer(x), outputs, rtol=0, atol=1e-6)


def test_dropout_of_probabilities_acts_in_training_alone():
    layer = EfficientSelfAttention(8, num_heads=2, dropout=0.5, initializer_range=0.5)
    x = np.random.default_rng(0).standard_normal((2, 6, 10, 8)).astype("float32")
    np.testing.assert_array_equal(layer(x), layer(x, training=False))
    assert np.abs(layer(x, training=True) - layer(x)).max() > 1e-3


def test_heads_must_divide_the_channels():
    with pytest.raises(ValueError, match="hidden_size=10 is not divisible by num_heads=3"):
        EfficientSelfAttention(10, num_heads=3)
