"""Layers of the same form become one function of a TensorFlow graph, each called with its own weights."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_segformer import SegformerForSemanticSegmentation
from tf_segformer.inference.forward import forward_function
from tf_segformer.ops import tracing
from tf_segformer.ops.tracing import (
    export_mode,
    share_traces,
    sharing_traces,
    target_device,
    trace_for,
    traced_once,
    tuned_for_cpu,
)


@pytest.fixture
def model(small_config):
    return SegformerForSemanticSegmentation(
        small_config.replace(depths=(1, 3, 2, 1), initializer_range=0.3, drop_path_rate=0.4)
    )


def graph_of(model, **arguments):
    def trace(pixel_values):
        with share_traces(len(model.weights)):
            return model(pixel_values, **arguments)

    return tf.function(trace, autograph=False).get_concrete_function(tf.TensorSpec((None, None, None, 3)))


def calls(function):
    """Name of the function that each call in a graph is of."""
    nodes = function.graph.as_graph_def().node
    return [node.attr["f"].func.name for node in nodes if node.op in ("PartitionedCall", "StatefulPartitionedCall")]


def test_blocks_of_one_stage_are_calls_of_one_function(model):
    called = calls(graph_of(model, training=False))
    assert len(called) == 7  # the blocks
    assert len(set(called)) == 4  # the stages


@pytest.mark.parametrize(("limit", "stay"), [(10_000, False), (10, True)])
def test_calls_stay_calls_where_they_are_many(model, pixel_values, monkeypatch, limit, stay):
    monkeypatch.setattr(tracing, "MANY_WEIGHTS", limit)
    function = graph_of(model, training=False)
    marked = [each for each in function.graph.as_graph_def().library.function if each.attr["_noinline"].b]
    assert len(marked) == (4 if stay else 0)
    expected = np.asarray(model(pixel_values))
    np.testing.assert_allclose(function(tf.constant(pixel_values)), expected, atol=2e-6 * np.abs(expected).max())


def test_every_call_has_the_weights_of_its_own_layer(model, pixel_values):
    expected = np.asarray(model(pixel_values))
    np.testing.assert_allclose(forward_function(model)(pixel_values), expected, atol=2e-6 * np.abs(expected).max())


def test_weights_that_change_later_are_seen(model, pixel_values):
    forward = forward_function(model)
    before = forward(pixel_values)
    kernel = model.segformer.get_layer("block_1_2").mlp.dense_1.kernel
    kernel.assign(2 * kernel.value)
    expected = np.asarray(model(pixel_values))
    assert np.abs(expected - before).max() > 1e-3
    np.testing.assert_allclose(forward(pixel_values), expected, atol=2e-6 * np.abs(expected).max())


def test_mixed_precision_is_kept(small_config, pixel_values):
    model = SegformerForSemanticSegmentation(small_config.replace(initializer_range=0.3), dtype="mixed_bfloat16")
    expected = np.asarray(model(pixel_values))
    np.testing.assert_allclose(forward_function(model)(pixel_values), expected, atol=0.05 * np.abs(expected).max())


def test_layers_that_differ_are_not_shared(small_config, pixel_values):
    model = SegformerForSemanticSegmentation(small_config.replace(initializer_range=0.3))
    model.segformer.get_layer("block_1_1").arguments["activation"] = "relu"
    model.segformer.get_layer("block_1_1").mlp.activation = "relu"
    expected = np.asarray(model(pixel_values))
    np.testing.assert_allclose(forward_function(model)(pixel_values), expected, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("training", [True, False])
def test_training_and_graphs_for_other_engines_are_traced_in_full(model, training):
    if training:
        function = graph_of(model, training=True)
    else:
        with export_mode():
            function = graph_of(model, training=False)
    assert not calls(function)


def test_it_ends_with_the_context_and_within_a_function():
    assert not sharing_traces()
    seen = []

    class Probe(keras.layers.Layer):
        @traced_once()
        def call(self, x, training=False):
            seen.append(sharing_traces())
            return x

    with share_traces(1):
        assert sharing_traces()
        tf.function(Probe())(tf.ones((1,)))
        assert sharing_traces()
    assert seen == [False]
    assert not sharing_traces()


def test_tuned_forms_are_for_tensorflow_on_a_cpu():
    assert target_device() == "CPU"
    assert tuned_for_cpu()
    with trace_for("GPU"):
        assert not tuned_for_cpu()
        with trace_for("CPU"):
            assert tuned_for_cpu()
    with export_mode():
        assert not tuned_for_cpu()
    assert tuned_for_cpu()


def test_a_visible_gpu_takes_the_plain_forms(monkeypatch):
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: ["/device:GPU:0"] if kind == "GPU" else [])
    assert target_device() == "GPU"
    assert not tuned_for_cpu()


def test_an_unknown_device_is_rejected():
    with pytest.raises(ValueError, match="device='TPU' must be one of CPU, GPU"), trace_for("TPU"):
        pass


def test_a_model_gives_the_same_in_tuned_and_plain_forms(model, pixel_values):
    tuned = np.asarray(graph_of(model, training=False)(tf.constant(pixel_values)))
    with trace_for("GPU"):
        plain = graph_of(model, training=False)(tf.constant(pixel_values))
    np.testing.assert_allclose(tuned, plain, rtol=0, atol=2e-6 * np.abs(tuned).max())
