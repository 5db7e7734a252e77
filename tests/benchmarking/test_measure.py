"""A model's forms: which there are, how they are measured and compared, and what is said of those that cannot run."""

from __future__ import annotations

import json
from typing import ClassVar

import numpy as np
import pytest
from rich.console import Console

from tf_segformer import SegformerForSemanticSegmentation, SegformerImageProcessor
from tf_segformer.benchmarking import forms, measure, report
from tf_segformer.benchmarking.forms import FORMS, Form, forms_named
from tf_segformer.benchmarking.measure import Row
from tf_segformer.benchmarking.worker import Worker, WorkerError
from tf_segformer.deploy.formats import PRECISIONS

ROWS = [
    Row("saved_model:bfloat16", engine="tensorflow on CPU", bytes=15_000_000, load_seconds=4.0, first_ms=900.0, ms=80.0,
        peak_bytes=600_000_000, agreement=1.0, miou=0.6215),
    Row("onnx:float32", engine="onnxruntime on CPU", bytes=14_900_000, load_seconds=0.5, first_ms=99.0, ms=60.0,
        peak_bytes=300_000_000, agreement=0.9999, miou=float("nan")),
    Row("litert:int8", skipped="litert needs ai_edge_litert: pip install 'tf_segformer[litert]'"),
]  # fmt: skip


class StandIn:
    """A worker whose class maps are those of the checkpoint, but for the first row in a form that is not."""

    started: ClassVar[list] = []

    def __init__(self, folder, engine, size, batch_size):
        if engine == "litert":
            raise WorkerError("no such delegate")
        self.engine, self.facts = engine, {"engine": engine or "tensorflow", "device": "CPU", "seconds": 0.5}
        StandIn.started.append((engine, size, batch_size))

    def run(self):
        return 0.25 if self.engine else 0.5

    def ask(self, do, images="", class_maps=""):
        if do == "segment":
            for path in sorted(measure.Path(images).glob("*.npy")):
                class_map = np.load(path)[..., 0] % 4
                class_map[0] = class_map[0] if not self.engine else 0
                np.save(measure.Path(class_maps) / path.name, class_map)
        return {"seconds": 0.1, "peak": 7}

    def close(self):
        pass


@pytest.fixture
def stand_ins(monkeypatch):
    StandIn.started = []
    monkeypatch.setattr(measure, "Worker", StandIn)
    monkeypatch.setattr(
        measure, "time_in_turns", lambda runs, rounds: {key: [run()] * rounds for key, run in runs.items()}
    )


def written(form, model, folder, processor, size, calibration):
    if form.format == "onnx":
        raise ImportError("onnxruntime needs onnxruntime:\npip install 'tf_segformer[onnx]'")
    return 1000 + len(list(calibration))


def test_there_is_a_form_for_every_format_and_precision():
    assert FORMS[0].key == "checkpoint:float32"
    for name in ("saved_model", "onnx", "openvino", "litert"):
        assert {form.precision for form in FORMS if form.format == name} == set(PRECISIONS[name])


def test_forms_are_named_by_format_or_key_and_the_checkpoint_comes_first():
    keys = [form.key for form in forms_named(["litert:int8", "onnx"])]
    assert keys[0] == "checkpoint:float32" and "litert:int8" in keys and "litert:float32" not in keys
    assert any(key.startswith("onnx:") for key in keys)
    with pytest.raises(ValueError, match="unknown forms: tensorrt; choose from checkpoint, saved_model"):
        forms_named(["tensorrt", "onnx"])


def test_every_form_gets_a_row_and_those_that_cannot_run_their_reason(stand_ins, monkeypatch, small_config):
    monkeypatch.setattr(measure, "write_form", written)
    model = SegformerForSemanticSegmentation(small_config.replace(num_labels=4))
    image = np.tile(np.uint8([[[1], [2], [3]]]), (5, 2, 3))
    label = np.where(np.arange(6) < 5, image[..., 0] % 4, 255)
    chosen = forms_named(["saved_model:float32", "onnx:float32", "litert:float32"])
    rows = measure.benchmark(
        model,
        SegformerImageProcessor(),
        [(image, label), (image, None)],
        forms=chosen,
        size=(32, 64),
        batch_size=2,
        runs=3,
    )
    by_key = {row.form: row for row in rows}
    assert [row.form for row in rows] == [form.key for form in chosen]
    assert by_key["onnx:float32"].skipped == "onnxruntime needs onnxruntime: pip install 'tf_segformer[onnx]'"
    assert by_key["litert:float32"].skipped == "no such delegate"
    assert StandIn.started == [("", (32, 64), 2), ("tensorflow", (32, 64), 2)]
    checkpoint, saved = by_key["checkpoint:float32"], by_key["saved_model:float32"]
    assert (checkpoint.ms, checkpoint.agreement, checkpoint.miou) == (500, 1.0, 1.0)
    assert (saved.ms, saved.first_ms, saved.peak_bytes, saved.bytes) == (250, 250, 7, 1002)
    assert saved.agreement == 0.8, "one row of five is of another class"
    assert saved.miou < 1


def test_without_a_checkpoint_to_compare_with_nothing_is_measured(stand_ins, monkeypatch, small_config):
    def fail(*_):
        raise WorkerError("no memory")

    monkeypatch.setattr(measure, "write_form", fail)
    model = SegformerForSemanticSegmentation(small_config)
    with pytest.raises(WorkerError, match="no memory"):
        measure.benchmark(model, SegformerImageProcessor(), forms=FORMS[:2])
    with pytest.raises(ValueError, match="runs=0"):
        measure.benchmark(model, SegformerImageProcessor(), runs=0)
    with pytest.raises(ValueError, match="no image"):
        measure.benchmark(model, SegformerImageProcessor(), [])


def test_what_is_not_installed_is_named_with_its_extra(monkeypatch, tmp_path, small_config):
    monkeypatch.setitem(forms._ENGINES, "onnx", ("onnxruntime", "no_such_module", "onnx"))
    with pytest.raises(ImportError, match=r"pip install 'tf_segformer\[onnx\]'"):
        forms.write_form(Form("onnx", "float32"), None, tmp_path, SegformerImageProcessor(), (32, 32), [])


def test_a_worker_that_fails_says_why(tmp_path):
    with pytest.raises(WorkerError, match="StopIteration"):
        Worker(tmp_path, "", (32, 32), 1)


def test_the_table_has_the_fastest_form_first_and_reasons_are_lines(capsys):
    Console(width=80).print(report.table_of(ROWS, "camvid-b0"))
    printed = capsys.readouterr().out
    assert printed.index("onnx:float32") < printed.index("saved_model:bfloat16") and "litert" not in printed
    assert report.reasons_of(ROWS) == [f"litert:int8: {ROWS[2].skipped}"]
    assert "…" not in printed, "columns are cut"
    assert "0.75" in printed and "62.15" in printed and "99.99" in printed and "14.9" in printed


def test_json_has_what_was_measured_and_no_nan():
    content = json.loads(json.dumps(report.as_json(ROWS), allow_nan=False))
    assert content[1]["miou"] is None and content[1]["ms"] == 60.0
    assert set(content[2]) == {"form", "skipped"}


def test_the_plot_is_a_png_of_the_measured_forms(tmp_path):
    path = report.save_plot(ROWS, tmp_path / "plot.png", "camvid-b0, 480x360")
    assert path.read_bytes().startswith(b"\x89PNG") and [each.name for each in tmp_path.iterdir()] == ["plot.png"]


@pytest.mark.slow
def test_a_small_model_is_measured_in_every_installed_form_of_its_own_process(small_config):
    for module in ("onnx", "onnxruntime"):
        pytest.importorskip(module)
    model = SegformerForSemanticSegmentation(small_config)
    chosen = forms_named(["onnx:float32"])
    rows = measure.benchmark(model, SegformerImageProcessor(), forms=chosen, size=(32, 64), batch_size=2, runs=2)
    for row in rows:
        assert row.skipped is None and row.agreement > 0.999 and row.miou is None
        assert min(row.ms, row.first_ms, row.load_seconds) > 0 and row.peak_bytes > 50e6 and row.bytes > 1e4
    assert [row.engine for row in rows] == ["tensorflow on CPU", "onnxruntime on CPU"]
