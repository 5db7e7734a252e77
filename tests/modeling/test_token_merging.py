"""Models that merge tokens: plain where nothing is lost, each image by itself, on every backend, from and to files."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.other_backends import output_on
from tf_segformer import SegformerConfig, SegformerForSemanticSegmentation
from tf_segformer.modeling.attention import EfficientSelfAttention
from tf_segformer.modeling.base import FeatureShape
from tf_segformer.ops import attention as ops_attention

FRACTIONS = (0.75, 0.5, 0.25, 0.6)
OPTIONS = {"num_heads": 2, "sequence_reduction": 2, "initializer_range": 0.5}


@pytest.fixture
def config(small_config):
    return small_config.replace(initializer_range=0.2, token_merging=FRACTIONS)


@pytest.fixture
def model(config):
    return SegformerForSemanticSegmentation(config)


def attention_pair():
    """A plain and a merging layer of the same weights."""
    layers = [EfficientSelfAttention(8, **OPTIONS, token_merging=fraction) for fraction in (0.0, 0.75)]
    for layer in layers:
        layer.build((None, 8))
    layers[1].set_weights(layers[0].get_weights())
    return layers


def test_equal_neighbors_are_attended_exactly():
    plain, merging = attention_pair()
    small = np.random.default_rng(0).standard_normal((2, 3, 5, 8)).astype("float32")
    tokens = np.repeat(np.repeat(small, 2, axis=1), 2, axis=2).reshape(-1, 8)
    shape = FeatureShape(2, 6, 10)
    # The mean of equal tokens rounds
    np.testing.assert_allclose(merging(tokens, feature_shape=shape), plain(tokens, feature_shape=shape), atol=1e-6)


def test_merged_tokens_get_the_same_and_the_attention_of_their_query():
    tokens = np.random.default_rng(0).standard_normal((120, 8)).astype("float32")
    _, merging = attention_pair()
    outputs, probabilities = merging(tokens, feature_shape=FeatureShape(2, 6, 10), return_attention=True)
    assert probabilities.shape == (2, 2, 60, 15)
    np.testing.assert_allclose(np.sum(probabilities, -1), 1, rtol=0, atol=1e-5)  # float32 sums
    cells = np.reshape(outputs, (2, 3, 2, 5, 2, 8))
    np.testing.assert_array_equal(cells, np.broadcast_to(cells[:, :, :1, :, :1], cells.shape))
    of_cells = np.reshape(probabilities, (2, 2, 3, 2, 5, 2, 15))
    np.testing.assert_array_equal(of_cells, np.broadcast_to(of_cells[:, :, :, :1, :, :1], of_cells.shape))
    np.testing.assert_allclose(merging(tokens, feature_shape=FeatureShape(2, 6, 10)), outputs, rtol=0, atol=1e-6)


def test_it_is_off_by_default_and_changes_the_logits_where_it_is_on(model, config, pixel_values):
    plain = SegformerForSemanticSegmentation(config.replace(token_merging=0.0))
    plain.set_weights(model.get_weights())
    assert not any(layer.attention.token_merging for layer in plain.segformer.layers if hasattr(layer, "attention"))
    logits = plain(pixel_values)
    assert np.abs(model(pixel_values) - logits).max() > 0.01 * np.abs(logits).max()


def test_each_image_is_merged_by_itself(model, pixel_values):
    alone = np.concatenate([model(pixel_values[:1]), model(pixel_values[1:])])
    np.testing.assert_allclose(model(pixel_values), alone, rtol=0, atol=2e-6 * np.abs(alone).max())


@pytest.mark.parametrize("size", [(1, 1), (33, 70)])
def test_open_sizes_and_chunks_have_the_logits_of_known_sizes(model, size, monkeypatch):
    x = np.random.default_rng(1).standard_normal((2, *size, 3)).astype("float32")
    logits = model(x)
    assert logits.shape == (2, -(-size[0] // 4), -(-size[1] // 4), 5)
    monkeypatch.setattr(ops_attention, "MAX_ELEMENTS", 100)
    chunked = tf.function(model, input_signature=[tf.TensorSpec((None, None, None, 3))])(x)
    np.testing.assert_allclose(chunked, logits, rtol=0, atol=3e-6 * np.abs(logits).max())


def test_a_chunk_holds_queries_of_which_there_are_fewer(model, pixel_values, monkeypatch):
    """The memory of attention follows the merged queries: with a limit of theirs no chunk is taken."""
    monkeypatch.setattr(ops_attention, "MAX_ELEMENTS", 300 * 6)  # stage 1: 425 tokens, 113 queries; 6 keys, one head
    monkeypatch.setattr(ops_attention, "_in_chunks", lambda *inputs: pytest.fail("in chunks"))
    model(pixel_values)


@pytest.mark.parametrize("rematerialize", [False, True])
def test_every_weight_is_trained(config, pixel_values, rematerialize):
    model = SegformerForSemanticSegmentation(config, rematerialize=rematerialize)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model(pixel_values, training=True) ** 2)
    for variable, gradient in zip(
        model.trainable_variables, tape.gradient(loss, model.trainable_variables), strict=True
    ):
        assert gradient is not None and np.isfinite(np.asarray(gradient)).all(), variable.path


def test_it_travels_with_a_folder_and_a_keras_file(model, pixel_values, tmp_path):
    model.save_pretrained(tmp_path / "folder")
    model.save(tmp_path / "model.keras")
    logits = model(pixel_values)
    for loaded in (
        SegformerForSemanticSegmentation.from_pretrained(tmp_path / "folder"),
        keras.models.load_model(tmp_path / "model.keras"),
    ):
        assert loaded.config.token_merging == FRACTIONS
        np.testing.assert_array_equal(loaded(pixel_values), logits)


def test_a_checkpoint_takes_it_like_every_field():
    model = SegformerForSemanticSegmentation.from_pretrained("camvid-b0", token_merging=0.65)
    assert model.get_layer("segformer").get_layer("block_2_1").attention.token_merging == 0.65
    assert SegformerConfig.from_pretrained("camvid-b0").token_merging == 0.0


ON_ANOTHER_BACKEND = """
import sys
sys.modules["tensorflow"] = None
import keras, numpy as np
from tf_segformer import SegformerForSemanticSegmentation
assert keras.backend.backend() == sys.argv[1]
model = SegformerForSemanticSegmentation.from_pretrained("FOLDER")
np.save("FOLDER/logits.npy", model.predict(np.load("FOLDER/x.npy"), verbose=0))  # one compilation in JAX
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_other_backends_merge_the_same(backend, model, pixel_values, tmp_path):
    model.save_pretrained(tmp_path)
    np.save(tmp_path / "x.npy", pixel_values)
    output_on(backend, ON_ANOTHER_BACKEND.replace("FOLDER", str(tmp_path)))
    logits = model(pixel_values)
    # another backend adds up in another order
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), logits, rtol=0, atol=1e-5 * np.abs(logits).max())
