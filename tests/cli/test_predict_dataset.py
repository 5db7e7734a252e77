"""`tf-segformer predict-dataset`: exit codes, what it prints, and that it goes on where it stopped."""

from __future__ import annotations

import json

import keras
import pytest

from tf_segformer.batch import run as batch
from tf_segformer.cli import predict_dataset as command

parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def model_is_loaded_once(monkeypatch):
    from tf_segformer.batch.model import ModelSource

    loaded = []
    load = ModelSource.predictor

    def predictor(self, *arguments):
        loaded[:] = loaded or [load(self, *arguments)]
        return loaded[0]

    monkeypatch.setattr(ModelSource, "predictor", predictor)


def test_rows_are_written_and_counted(run, checkpoint, image, tmp_path, model_is_loaded_once, monkeypatch):
    monkeypatch.setattr(command, "_SECONDS_BETWEEN_LINES", 3600)  # a busy machine would print one
    photos, out = tmp_path / "photos", tmp_path / "out"
    for number in range(3):
        image(photos / f"{number}.png", number)
    arguments = ("predict-dataset", photos, out, "--model", checkpoint(), "--workers", 0, "--masks")
    done = run(*arguments)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{out}: 3 images in 1 files; ") and "images per second" in done.out
    assert run(*arguments).out == f"{out}: 3 images in 1 files; 3 images were done before\n"
    (photos / "broken.png").write_bytes(b"")
    mixed = run(*arguments)
    assert mixed.code == 2 and "holds results of other settings: input" in mixed.err
    partly = run("predict-dataset", photos, tmp_path / "new", "--model", checkpoint(), "--workers", 0, "--json")
    assert partly.code == 1
    counted = json.loads(partly.out)
    assert (counted["images"], counted["failed"], counted["shards"]) == (4, 1, 1)
    alone = run("predict-dataset", photos / "broken.png", tmp_path / "b", "--model", checkpoint(), "--workers", 0)
    assert alone.code == 2 and "1 of them failed" in alone.out


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_engine_gives_the_rows_of_keras_from_what_the_processor_prepares(
    run, checkpoint, image, tmp_path, monkeypatch, engine
):
    pytest.importorskip(engine)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for number in range(3):
        image(tmp_path / "photos" / f"{number}.png", number)
    rows, opened = [], []
    load = batch.ModelSource.predictor
    monkeypatch.setattr(batch.ModelSource, "predictor", lambda *given: opened.append(load(*given)) or opened[-1])
    for name, options in {"keras": (), "engine": ("--engine", engine)}.items():
        arguments = ("predict-dataset", tmp_path / "photos", tmp_path / name, "--model", checkpoint(), "--workers", 0)
        assert run(*arguments, *options).code == 0
        rows.append(parquet.read_table(tmp_path / name / "part-000000.parquet").to_pylist())
    assert [predictor.engine.name for predictor in opened] == [keras.backend.backend(), engine]
    assert opened[0].processor.to_dict() == opened[1].processor.to_dict()
    for expected, row in zip(*rows, strict=True):
        assert row["id"] == expected["id"]
        assert dict(row["class_fractions"]) == pytest.approx(dict(expected["class_fractions"]), abs=1e-3)


def test_wrong_calls_are_one_line(run, checkpoint, image, tmp_path):
    assert "give INPUT and the folder OUTPUT" in run("predict-dataset", tmp_path).err
    missing = run("predict-dataset", tmp_path / "nothing", tmp_path / "out", "--workers", 0)
    assert missing.code == 2 and missing.err.startswith("tf-segformer: ") and "no such file" in missing.err
    image(tmp_path / "a.png")
    unknown = run("predict-dataset", tmp_path, tmp_path / "out", "--engine", "litert", "--precision", "bfloat16")
    assert unknown.code == 2 and "not for --engine litert" in unknown.err
    task = run("predict-dataset", tmp_path, tmp_path / "out", "--model", checkpoint("classification"), "--workers", 0)
    assert task.code == 2 and "needs one for segmentation" in task.err


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (
            {"images": 300, "failed": 3, "shards": 3, "all_shards": 10, "all_images": 1000, "seconds": 20.0},
            "300 of 1000 images, 3 of 10 shards, 15.0 images per second, 0:00:47 remaining, 3 failed",
        ),
        (
            {"images": 50, "failed": 0, "shards": 1, "all_shards": 5, "all_images": None, "seconds": 1000.0},
            "50 images, 1 of 5 shards, 0.1 images per second, 1:06:40 remaining",
        ),
        (
            {"images": 0, "failed": 0, "shards": 0, "all_shards": 5, "all_images": None},
            "0 images, 0 of 5 shards, 0.0 images per second",
        ),
    ],
)
def test_progress_says_speed_and_remaining_time(state, expected):
    from tf_segformer.batch.run import Progress

    assert command._describe(Progress(**state)) == expected


def test_lines_are_written_every_half_minute(monkeypatch, capsys):
    from tf_segformer.batch.run import Progress

    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    write = command._line_writer()
    for second in range(0, 91, 10):
        now[0] = float(second)
        write(Progress(second, 0, 0, 1, 100, seconds=float(second)))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" of ")[0] for line in lines] == ["tf-segformer: 30", "tf-segformer: 60", "tf-segformer: 90"]
