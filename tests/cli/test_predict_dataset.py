"""`tf-segformer predict-dataset`: exit codes, what it prints, and that it goes on where it stopped."""

from __future__ import annotations

import json

import pytest

from tf_segformer.cli import predict_dataset as command

pytest.importorskip("pyarrow")


@pytest.fixture
def model_is_loaded_once(monkeypatch):
    from tf_segformer.batch.model import ModelSource

    loaded = []
    load = ModelSource.predictor

    def predictor(self, *arguments):
        loaded[:] = loaded or [load(self, *arguments)]
        return loaded[0]

    monkeypatch.setattr(ModelSource, "predictor", predictor)


def test_rows_are_written_and_counted(run, checkpoint, image, tmp_path, model_is_loaded_once):
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


def test_wrong_calls_are_one_line(run, checkpoint, image, tmp_path):
    assert "give INPUT and the folder OUTPUT" in run("predict-dataset", tmp_path).err
    missing = run("predict-dataset", tmp_path / "nothing", tmp_path / "out", "--workers", 0)
    assert missing.code == 2 and missing.err.startswith("tf-segformer: ") and "no such file" in missing.err
    image(tmp_path / "a.png")
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
