"""`tf-segformer check`: its JSON, its exit code, its previews; what `train` needs no word about."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tests.training.scenes import write_dataset


@pytest.fixture
def scenes(tmp_path):
    return write_dataset(tmp_path / "scenes", train=3, val=2)


def test_a_good_folder_is_described_and_previewed(run, scenes, tmp_path):
    outcome = run("check", scenes, "--previews", 2, "-o", tmp_path / "previews", "--json")
    assert outcome.code == 0
    report = json.loads(outcome.out)
    assert (report["kind"], report["splits"]["val"]["images"]) == ("folder", 2)
    assert sorted(path.name for path in (tmp_path / "previews").iterdir()) == ["00000-000.png", "00001-001.png"]
    text = run("check", scenes, "--class-names", "sky,ground,house,sun")
    assert text.code == 0
    assert "folder/train: 3 images, 4 classes" in text.out


def test_a_folder_that_cannot_be_trained_ends_with_2_and_says_why(run, scenes):
    (scenes / "val/labels/001.png").unlink()
    outcome = run("check", scenes, "--json")
    assert outcome.code == 2
    (problem,) = json.loads(outcome.out)["problems"]
    assert "001.png" in problem["examples"][0]
    for path in scenes.rglob("*.png"):
        path.unlink()
    outcome = run("check", scenes, "--json")
    assert outcome.code == 2
    report = json.loads(outcome.out)
    assert set(report) == {"kind", "class_names", "splits", "channels", "dtype", "problems", "warnings"}
    (problem,) = report["problems"]
    assert set(problem) == {"kind", "count", "examples", "remedy"}  # as those of a dataset that was found
    assert "no images for the split 'train'" in problem["examples"][0]


def test_a_map_merges_classes(run, scenes, tmp_path):
    (tmp_path / "map.json").write_text(json.dumps({"up": [0, 3], "house": 2}))
    report = json.loads(run("check", scenes, "--map", tmp_path / "map.json", "--json").out)
    labels = np.stack([np.asarray(Image.open(path)) for path in sorted((scenes / "train/labels").iterdir())])
    train = report["splits"]["train"]
    assert report["class_names"] == ["up", "house"]
    assert train["ignored_fraction"] == pytest.approx((labels == 1).mean())
    assert train["class_fractions"]["house"] == pytest.approx((labels == 2).sum() / (labels != 1).sum())
