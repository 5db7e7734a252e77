"""`tf-segformer benchmark`: the options reach the measurement, and its rows a table, JSON and a plot."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tf_segformer.benchmarking import measure
from tf_segformer.benchmarking.measure import Row
from tf_segformer.benchmarking.worker import WorkerError


@pytest.fixture
def measured(monkeypatch):
    """What the measurement was given; it gives two rows."""
    given = {}

    def benchmark(model, processor, samples, *, progress, **options):
        given.update(options, samples=None if samples is None else list(samples), labels=model.config.num_labels)
        progress("timing")
        return [
            Row("checkpoint:float32", ms=2.0, agreement=1.0, miou=0.5),
            Row("onnx:float32", skipped="not installed"),
        ]

    monkeypatch.setattr(measure, "benchmark", benchmark)
    return given


@pytest.fixture
def photos(image, tmp_path):
    """A folder of three images."""
    for index in range(3):
        image(tmp_path / "photos" / f"{index}.png", seed=index)
    return tmp_path / "photos"


@pytest.fixture
def pairs(photos, tmp_path):
    """A folder with images/ and labels/."""
    (tmp_path / "data" / "labels").mkdir(parents=True)
    photos.rename(tmp_path / "data" / "images")
    for index in range(3):
        labels = np.full((50, 70), index, np.uint8)
        Image.fromarray(labels).save(tmp_path / "data" / "labels" / f"{index}.png")
    return tmp_path / "data"


def test_rows_become_a_table_json_and_a_plot(run, checkpoint, measured, tmp_path):
    options = ("--size", "32,64", "--batch-size", "3", "--runs", "5", "--forms", "onnx:float32")
    outcome = run("benchmark", checkpoint(), "-o", tmp_path / "out", *options)
    assert outcome.code == 0
    assert "checkpoint:float32" in outcome.out and "onnx:float32: not installed" in outcome.out
    assert "agreement on generated images" in outcome.out
    assert [form.key for form in measured["forms"]] == ["checkpoint:float32", "onnx:float32"]
    assert (measured["size"], measured["batch_size"], measured["runs"], measured["samples"]) == ((32, 64), 3, 5, None)
    content = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert content["size"] == [32, 64] and content["forms"][0]["miou"] == 0.5
    assert (tmp_path / "out" / "benchmark.png").read_bytes().startswith(b"\x89PNG")


def test_labelled_images_are_measured_with_their_labels(run, checkpoint, pairs, measured, tmp_path):
    outcome = run("benchmark", checkpoint(), pairs, "-o", tmp_path / "out", "--json", "--limit", "2", "--size", "32")
    assert outcome.code == 0 and json.loads(outcome.out)["data"] == str(pairs)
    assert [(image.shape, int(labels.max())) for image, labels in measured["samples"]] == [
        ((50, 70, 3), 0),
        ((50, 70, 3), 1),
    ]
    assert measured["size"] == (32, 32)


def test_photos_without_labels_are_measured_and_that_is_said(run, checkpoint, photos, measured, tmp_path):
    outcome = run("benchmark", checkpoint(), photos, "-o", tmp_path / "out")
    assert outcome.code == 0 and "for want of labels" in outcome.err
    assert [labels for _, labels in measured["samples"]] == [None] * 3


def test_what_cannot_be_measured_is_one_line(run, checkpoint, measured, monkeypatch, tmp_path):
    outcome = run("benchmark", checkpoint(), tmp_path / "nowhere")
    assert outcome.code == 2 and "nowhere" in outcome.err.splitlines()[-1]
    outcome = run("benchmark", checkpoint(), "--forms", "tensorrt")
    assert outcome.code == 2 and "unknown forms: tensorrt" in outcome.err

    def fail(*_, **__):
        raise WorkerError("out of memory")

    monkeypatch.setattr(measure, "benchmark", fail)
    outcome = run("benchmark", checkpoint())
    assert outcome.code == 2 and outcome.err.splitlines()[-1].endswith("out of memory")
