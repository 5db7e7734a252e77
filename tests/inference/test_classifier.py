"""`classify` names the most probable classes of each image, in order, and keeps what cannot be read."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from PIL import Image

from tests.inference.definitions import softmax
from tf_segformer import SegformerImageProcessor
from tf_segformer.errors import ImageError
from tf_segformer.inference.classifier import classify

LABELS = {0: "cat", 1: "dog", 2: "house", 3: "tree"}


@pytest.fixture
def model():
    class Config:
        id2label, num_channels = LABELS, 3

    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(inputs)))
    model.config = Config
    return model


def test_the_most_probable_classes_come_first(model):
    processor = SegformerImageProcessor(size=32)
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), dtype=np.uint8)
    results = list(classify(model, processor, images, top_k=3))
    assert [(result.index, result.source) for result in results] == [(0, None), (1, None), (2, None)]
    for result, image in zip(results, images, strict=True):
        expected = softmax(np.asarray(model(processor(image)["pixel_values"]))[0].astype(np.float64))
        order = np.argsort(-expected)[:3]
        assert list(result.probabilities) == [LABELS[index] for index in order]
        np.testing.assert_allclose(list(result.probabilities.values()), expected[order], atol=1e-6)


def test_unreadable_files_are_skipped_or_raised(model, tmp_path):
    paths = [tmp_path / "good.png", tmp_path / "bad.png"]
    Image.new("RGB", (30, 20)).save(paths[0])
    paths[1].write_bytes(b"")
    processor = SegformerImageProcessor(size=32)
    results = classify(model, processor, paths, on_error="skip")
    assert [result.source for result in results] == [str(paths[0])]
    assert [(failure.index, failure.source) for failure in results.failures] == [(1, str(paths[1]))]
    with pytest.raises(ImageError, match=r"bad\.png"):
        list(classify(model, processor, paths))
    with pytest.raises(ValueError, match="on_error='stop'"):
        classify(model, processor, paths, on_error="stop")
