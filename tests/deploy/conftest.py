"""Small exported models, images of any kind, and what Python makes of them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_segformer import (
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    export_saved_model,
)
from tf_segformer.imaging.files import open_image

LABELS = {0: "meadow", 1: "sky", 2: "house", 3: "straße", 4: "tree"}
CLASSES = {"segmentation": SegformerForSemanticSegmentation, "classification": SegformerForImageClassification}


class Exported(NamedTuple):
    """A model, its processor, and the folder of its exported version."""

    model: keras.Model
    processor: SegformerImageProcessor
    version: Path

    def logits(self, encoded: bytes) -> np.ndarray:
        """What Python computes from an image file: (h, w, K) or (K,)."""
        return np.asarray(self.model(self.processor(open_image(encoded))["pixel_values"]))[0]

    def class_map(self, encoded: bytes) -> np.ndarray:
        """What Python makes of an image file: (H, W)."""
        size = open_image(encoded).size[::-1]
        return self.processor.post_process_semantic_segmentation(self.logits(encoded)[None], [size])[0]


class Segformer(NamedTuple):
    """A small model and its processor."""

    model: keras.Model
    processor: SegformerImageProcessor


@pytest.fixture(scope="session")
def segformers():
    """Gives a small model of one task; it stays for the session."""

    @cache
    def make(task: str = "segmentation") -> Segformer:
        keras.utils.set_random_seed(1)
        config = SegformerConfig(
            depths=(1, 1, 1, 1),
            hidden_sizes=(8, 16, 20, 32),
            decoder_hidden_size=16,
            id2label=LABELS,
            initializer_range=0.2,
        )
        return Segformer(CLASSES[task](config), SegformerImageProcessor(size=64))

    return make


@pytest.fixture(scope="session")
def exported(segformers, tmp_path_factory):
    """Gives an exported model of one task; it stays for the session."""

    @cache
    def make(task: str = "segmentation") -> Exported:
        model, processor = segformers(task)
        return Exported(model, processor, export_saved_model(model, tmp_path_factory.mktemp(task), processor))

    return make


@cache
def signatures(version: Path):
    """The signatures of an exported version, loaded once for all tests of a file."""
    return tf.saved_model.load(str(version)).signatures


@pytest.fixture(scope="module", autouse=True)
def loaded_models_are_forgotten():
    """What a file of tests loaded does not stay in memory."""
    yield
    signatures.cache_clear()
