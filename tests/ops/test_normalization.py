"""Layer norm and dense layers on tokens: Keras' values and gradients, in the kernels of TensorFlow that are meant."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context

from tf_segformer.modeling.normalization import LayerNormalization
from tf_segformer.ops.dense import apply_to_tokens
from tf_segformer.ops.tracing import trace_for

SHAPE = (2, 5, 7, 12)


@pytest.fixture
def maps():
    return tf.constant(np.random.default_rng(0).normal(3, 2, SHAPE).astype("float32"))


def pair(**options):
    """Our layer and Keras' own with the same random weights."""
    layers = LayerNormalization(epsilon=1e-5, **options), keras.layers.LayerNormalization(epsilon=1e-5, **options)
    values = np.random.default_rng(1).normal(1, 0.5, (2, SHAPE[-1]))
    for layer in layers:
        layer.build(SHAPE)
        layer.set_weights(list(values))
    return layers


def gradients(layer, x, **arguments):
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(layer(x, **arguments) ** 3)
    return tape.gradient(loss, [x, *(weight.value for weight in layer.trainable_weights)])


@pytest.mark.parametrize("device", ["CPU", "GPU"])
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_values_and_gradients_are_those_of_keras(jit_compile, training, device, maps):
    ours, theirs = pair()
    run = tf.function(
        lambda x: (ours(x, training=training), gradients(ours, x, training=training)), jit_compile=jit_compile
    )
    with trace_for(device):
        result, slopes = run(maps)
        pairs = [(result, theirs(maps)), (ours(maps), theirs(maps))]  # in a graph, and operation by operation
    pairs += zip(slopes, gradients(theirs, maps), strict=True)
    for one, expected in pairs:  # sums are taken in another order: some roundings of the largest value
        np.testing.assert_allclose(one, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_layer_norm_is_computed_in_float32(dtype, maps):
    ours, theirs = pair(dtype=dtype)
    run = tf.function(ours)
    assert run(maps).dtype == ours.compute_dtype
    result, expected = (tf.cast(each, "float32").numpy() for each in (run(maps), tf.function(theirs)(maps)))
    last_bit = {"float16": 2**-10, "bfloat16": 2**-7}[ours.compute_dtype]
    np.testing.assert_allclose(result, expected, rtol=last_bit, atol=0)
    assert (result != expected).mean() < 0.01  # where a float32 lay between two


@pytest.mark.parametrize("spec", [[None, None, None, 12], list(SHAPE)], ids=["any size", "fixed size"])
def test_tensorflow_runs_one_kernel_for_inference(spec, maps):
    if not _has_onednn():
        pytest.skip("this TensorFlow has no oneDNN")
    norm, dense = LayerNormalization(), keras.layers.Dense(6)
    run = tf.function(lambda x: apply_to_tokens(dense, norm(tf.nn.relu(x))), input_signature=[tf.TensorSpec(spec)])
    context.enable_run_metadata()  # before the first run, which optimizes the graph
    run(maps)
    metadata = context.export_run_metadata()
    context.disable_run_metadata()
    kinds = {node.op for graph in metadata.function_graphs for node in graph.post_optimization_graph.node}
    assert "_MklLayerNorm" in kinds and not kinds & {"Mean", "Rsqrt", "FusedBatchNormV3"}
    assert not kinds & {"AddV2", "BiasAdd"}


def _has_onednn() -> bool:
    from tensorflow.python.util import _pywrap_util_port

    return _pywrap_util_port.IsMklEnabled()
