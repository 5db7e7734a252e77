"""`tf-segformer evaluate`: the scores are those of the images, and a bad dataset is rejected by name."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from PIL import Image

from tests.reference import image_size
from tf_segformer.evaluation.confusion import confusion_matrix, metrics_from_confusion
from tf_segformer.imaging.processor import SegformerImageProcessor
from tf_segformer.inference.predictor import SegmentationPredictor
from tf_segformer.modeling.models import SegformerForSemanticSegmentation


@pytest.fixture
def pairs(image, tmp_path):
    """A folder with images/ and labels/ of three images; some pixels are ignored."""
    folder = tmp_path / "data"
    (folder / "labels").mkdir(parents=True)
    for index in range(3):
        image(folder / "images" / f"{index}.png", seed=index)
        labels = np.random.default_rng(index).choice([0, 1, 2, 255], size=(50, 70)).astype(np.uint8)
        Image.fromarray(labels).save(folder / "labels" / f"{index}.png")
    return folder


def _expected(checkpoint, pairs, count, **options) -> np.ndarray:
    model = SegformerForSemanticSegmentation.from_pretrained(checkpoint())
    processor = SegformerImageProcessor.from_pretrained(checkpoint())
    paths = sorted((pairs / "images").iterdir())[:count]
    results = SegmentationPredictor(model, processor, **options)(paths)
    targets = [np.asarray(Image.open(pairs / "labels" / path.name)) for path in paths]
    return sum(confusion_matrix(target, each.class_map, 3) for target, each in zip(targets, results, strict=True))


@pytest.mark.parametrize(("options", "count"), [((), 3), (("--limit", "2", "--mode", "whole"), 2)], ids=str)
def test_scores_are_those_of_the_images(run, checkpoint, pairs, tmp_path, options, count):
    outcome = run("evaluate", checkpoint(), pairs, "-o", tmp_path / "out", "--json", *options)
    assert (outcome.code, outcome.err) == (0, "")
    report = json.loads(outcome.out)
    expected = _expected(checkpoint, pairs, count, mode="whole" if options else "resize")
    written = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    np.testing.assert_array_equal(written["confusion_matrix"], expected)
    assert report["images"] == count
    scores = metrics_from_confusion(expected)
    for name in ("mIoU", "mAcc", "aAcc", "fwIoU"):
        assert report[name] == pytest.approx(scores[name], abs=1e-6)
    assert [row["name"] for row in report["classes"]] == ["meadow", "sky", "house"]
    assert image_size(tmp_path / "out" / "confusion_matrix.png")[0] > 100


def test_table_lists_every_class_and_score(run, checkpoint, pairs, tmp_path):
    outcome = run("evaluate", checkpoint(), pairs, "-o", tmp_path / "out", "--comparisons", "2")
    for word in ("meadow", "sky", "house", "mIoU", "mAcc", "aAcc", "fwIoU"):
        assert word in outcome.out
    drawn = sorted(path.name for path in (tmp_path / "out").glob("*_comparison.png"))
    assert drawn == ["0_comparison.png", "1_comparison.png"]


def test_class_that_is_nowhere_is_null(run, checkpoint, pairs, tmp_path):
    for path in (pairs / "labels").iterdir():
        Image.new("L", (70, 50), 255).save(path)
    report = json.loads(run("evaluate", checkpoint(), pairs, "-o", tmp_path / "out", "--json").out)
    assert report["mIoU"] is None
    assert all(row["IoU"] is None and row["pixels"] == 0 for row in report["classes"])


def test_layout_of_a_known_dataset_is_told_from_its_folders(run, checkpoint, pairs, tmp_path):
    (pairs / "annotations" / "validation").mkdir(parents=True)
    (pairs / "images" / "validation").mkdir()
    for index in range(2):
        (pairs / "images" / f"{index}.png").rename(pairs / "images" / "validation" / f"{index}.jpg")
        (pairs / "labels" / f"{index}.png").rename(pairs / "annotations" / "validation" / f"{index}.png")
    outcome = run("evaluate", checkpoint(), pairs, "-o", tmp_path / "out")
    assert outcome.code == 2
    assert "ade20k has 150 classes, the model 3" in outcome.err


def _wrong_label(pairs):
    Image.new("L", (70, 50), 3).save(pairs / "labels" / "1.png")


def _wrong_size(pairs):
    Image.new("L", (50, 70), 1).save(pairs / "labels" / "1.png")


def _missing_map(pairs):
    (pairs / "labels" / "1.png").unlink()


def _broken_image(pairs):
    (pairs / "images" / "1.png").write_bytes(b"")


@pytest.mark.parametrize("damage", [_wrong_label, _wrong_size, _missing_map, _broken_image])
def test_bad_dataset_is_named_in_one_line(run, checkpoint, pairs, tmp_path, damage):
    damage(pairs)
    outcome = run("evaluate", checkpoint(), pairs, "-o", tmp_path / "out")
    assert outcome.code == 2
    assert "1.png" in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_missing_dataset_is_one_line(run, checkpoint, tmp_path):
    outcome = run("evaluate", checkpoint(), tmp_path / "nowhere")
    assert outcome.code == 2
    assert "nowhere" in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_class_of_another_name_is_a_warning_of_one_line(run, checkpoint, pairs, tmp_path):
    (pairs / "classes.txt").write_text("meadow\nsky\nbarn\n")
    with pytest.warns(UserWarning, match="1 of 3 classes have other names .* such as 'barn' and 'house'") as caught:
        outcome = run("evaluate", checkpoint(), pairs, "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    warning = caught[0]
    line = warnings.formatwarning(warning.message, warning.category, warning.filename, warning.lineno)
    assert line.startswith("tf-segformer: warning: 1 of 3") and line.count("\n") == 1


def test_warnings_of_others_keep_their_place(run):
    assert run("doctor").code == 0
    assert warnings.formatwarning("old", DeprecationWarning, "file.py", 7) == "file.py:7: DeprecationWarning: old\n"
