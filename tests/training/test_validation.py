"""Validation during training: large images through windows, labels that do not fit by name."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.training.runs import PROCESSOR, make_model, splits
from tests.training.scenes import write_dataset
from tf_segformer import SegmentationPredictor
from tf_segformer.errors import DatasetError
from tf_segformer.evaluation.evaluate import evaluate
from tf_segformer.inference import windows
from tf_segformer.training import validation
from tf_segformer.training.validation import Validation


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "scenes", train=6, val=2)


@pytest.mark.parametrize("most_pixels", [64 * 64, 1])
def test_validation_names_labels_that_do_not_fit(tmp_path, monkeypatch, most_pixels):
    monkeypatch.setattr(validation, "MOST_PIXELS", most_pixels)
    scenes = write_dataset(tmp_path / "scenes", train=1, val=1)
    Image.new("L", (64, 64), 9).save(scenes / "val/labels/000.png")
    validate = Validation(make_model(), splits(scenes)[1], PROCESSOR)
    with pytest.raises(DatasetError, match=r"000\.png"):
        validate()
    Image.new("L", (60, 64)).save(scenes / "val/labels/000.png")
    with pytest.raises(DatasetError, match=r"000\.png: the label map is 60x64 pixels, its image 64x64"):
        validate()


def test_large_images_are_validated_through_windows(scenes, monkeypatch):
    model, data = make_model(), splits(scenes)[1]
    for name, value in (("MOST_PIXELS", 64 * 64 - 1), ("_WINDOW", 32), ("_STRIDE", 24)):
        monkeypatch.setattr(validation, name, value)
    monkeypatch.setattr(windows, "CHUNK_BYTES", 64 * 4 * 4 * 10)  # ten rows
    metrics = Validation(model, data, PROCESSOR)()
    predictor = SegmentationPredictor(model, PROCESSOR, "slide", window=32, stride=24, blend="cosine", progress=False)
    expected = evaluate(predictor, data)
    np.testing.assert_array_equal(metrics["confusion_matrix"], expected["confusion_matrix"])
    losses = []
    for example in data:
        pixels, labels = np.asarray(example.read_image()), example.read_labels()
        logits = predictor.window_logits((64, 64), lambda box: pixels[box[0] :, box[1] :][: box[2], : box[3]])  # noqa: B023
        losses.append(float(model.loss(labels[None], logits.rows(0, 64)[None])))
    assert metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert metrics["examples"][0][0].shape == (32, 32, 3)  # every other row and column
    monkeypatch.setattr(validation, "MOST_PIXELS", 64 * 64)
    assert (Validation(model, data, PROCESSOR)()["confusion_matrix"] != expected["confusion_matrix"]).any()
