import numpy as np
import pytest
import tensorflow as tf

from tf_segformer import SegformerForImageClassification, SegformerForSemanticSegmentation
from tf_segformer.deploy.network import InferenceNetwork


def disturb_batch_norms(model):
    """Moving averages that do something."""
    random = np.random.default_rng(0)
    for weight in model.decode_head.weights:
        if "norm" in weight.path:
            weight.assign(random.uniform(0.5, 2, weight.shape))


@pytest.mark.parametrize("head", ["segformer", "mmseg"])
def test_the_network_equals_the_segmenter(small_config, pixel_values, head):
    model = SegformerForSemanticSegmentation(small_config.replace(initializer_range=0.2, decode_head_type=head))
    disturb_batch_norms(model)
    np.testing.assert_allclose(InferenceNetwork(model)(pixel_values), model(pixel_values), rtol=0, atol=2e-5)


def test_the_network_equals_the_classifier(small_config, pixel_values):
    model = SegformerForImageClassification(small_config.replace(initializer_range=0.2))
    np.testing.assert_allclose(InferenceNetwork(model)(pixel_values), model(pixel_values), rtol=0, atol=2e-5)


def test_the_decode_head_is_folded(small_config):
    network = InferenceNetwork(SegformerForSemanticSegmentation(small_config))
    graph = network.call.get_concrete_function().graph.as_graph_def()
    nodes = [node.name for node in graph.node] + [
        node.name for function in graph.library.function for node in function.node_def
    ]
    assert any("layer_norm" in name for name in nodes)
    assert not any("batch_norm" in name or "decode_head" in name for name in nodes)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 2e-3), ("bfloat16", 2e-2)])  # of the rounded weights
def test_weights_in_half_precision(small_config, pixel_values, dtype, tolerance):
    model = SegformerForSemanticSegmentation(small_config.replace(initializer_range=0.2))
    network = InferenceNetwork(model, dtype)
    assert {variable.dtype for variable in network.stored} == {tf.as_dtype(dtype)}
    expected = np.asarray(model(pixel_values))
    difference = np.abs(network(pixel_values) - expected).max() / np.abs(expected).max()
    assert 0 < difference < tolerance


def test_a_mixed_precision_model_keeps_its_policy(small_config, pixel_values):
    model = SegformerForSemanticSegmentation(small_config.replace(initializer_range=0.2), dtype="mixed_bfloat16")
    expected = np.asarray(model(pixel_values))
    logits = InferenceNetwork(model)(pixel_values)
    assert logits.dtype == tf.float32
    np.testing.assert_allclose(logits, expected, rtol=0, atol=0.05 * np.abs(expected).max())  # bfloat16: 8 bits
