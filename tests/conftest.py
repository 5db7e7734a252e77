"""What all tests share: quiet TensorFlow, two threads, fixed seeds, small models."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest

from tf_segformer import SegformerConfig


@pytest.fixture(autouse=True)
def fixed_seed():
    """Every test draws the same random numbers, whatever ran before it."""
    keras.utils.set_random_seed(0)


@pytest.fixture
def small_config() -> SegformerConfig:
    """An architecture that builds and runs in a moment: four stages, every kind of layer."""
    return SegformerConfig(
        depths=(1, 2, 1, 1),
        hidden_sizes=(8, 16, 24, 32),
        num_attention_heads=(1, 2, 3, 4),
        decoder_hidden_size=24,
        num_labels=5,
    )


@pytest.fixture
def pixel_values() -> np.ndarray:
    """Two normalized images, neither square nor divisible by 32."""
    return np.random.default_rng(0).standard_normal((2, 65, 97, 3)).astype("float32")
