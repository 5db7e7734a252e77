"""Efficient self-attention: its probabilities, its dropout, and attention in chunks within a model."""

from __future__ import annotations

import numpy as np
import pytest

from tf_segformer import SegformerForSemanticSegmentation
from tf_segformer.modeling.attention import EfficientSelfAttention
from tf_segformer.modeling.base import FeatureShape
from tf_segformer.ops import attention as ops_attention

SHAPE = FeatureShape(2, 6, 10)


@pytest.fixture
def tokens():
    return np.random.default_rng(0).standard_normal((120, 8)).astype("float32")


def test_a_model_gives_the_same_in_chunks(small_config, pixel_values, monkeypatch):
    model = SegformerForSemanticSegmentation(small_config.replace(initializer_range=0.2))
    at_once = model(pixel_values).numpy()
    monkeypatch.setattr(ops_attention, "MAX_ELEMENTS", 50)
    taken = []
    in_chunks = ops_attention._in_chunks
    monkeypatch.setattr(ops_attention, "_in_chunks", lambda *inputs: taken.append(1) or in_chunks(*inputs))
    np.testing.assert_allclose(model(pixel_values), at_once, rtol=0, atol=2e-6 * np.abs(at_once).max())
    assert taken


def test_probabilities_that_are_asked_for_are_those_that_were_used(tokens):
    layer = EfficientSelfAttention(8, num_heads=2, sequence_reduction=2, initializer_range=0.5)
    outputs, probabilities = layer(tokens, feature_shape=SHAPE, return_attention=True)
    assert probabilities.shape == (2, 2, 60, 15)
    np.testing.assert_allclose(layer(tokens, feature_shape=SHAPE), outputs, rtol=0, atol=1e-6)


def test_dropout_of_probabilities_acts_in_training_alone(tokens):
    layer = EfficientSelfAttention(8, num_heads=2, dropout=0.5, initializer_range=0.5)
    at_inference = layer(tokens, feature_shape=SHAPE)
    np.testing.assert_array_equal(at_inference, layer(tokens, feature_shape=SHAPE, training=False))
    assert np.abs(layer(tokens, feature_shape=SHAPE, training=True) - at_inference).max() > 1e-3


def test_heads_must_divide_the_channels():
    with pytest.raises(ValueError, match="hidden_size=10 is not divisible by num_heads=3"):
        EfficientSelfAttention(10, num_heads=3)
