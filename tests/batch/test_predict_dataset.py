"""A dataset in, one row per image out, whatever holds the images and wherever an earlier run stopped."""

from __future__ import annotations

import io
import json
import tarfile

import keras
import numpy as np
import pytest
from PIL import Image

parquet = pytest.importorskip("pyarrow.parquet")
pa = pytest.importorskip("pyarrow")
fsspec = pytest.importorskip("fsspec")

from tf_segformer import (  # noqa: E402
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    SegmentationPredictor,
    export_saved_model,
)
from tf_segformer.batch import outputs, run, segment  # noqa: E402
from tf_segformer.batch.run import predict_dataset  # noqa: E402
from tf_segformer.errors import CheckpointError, DatasetError  # noqa: E402


@pytest.fixture(scope="module")
def model(checkpoint):
    return checkpoint()


@pytest.fixture(scope="module")
def photos(tmp_path_factory, write_images):
    return write_images(tmp_path_factory.mktemp("input") / "photos", 7, broken={3})


@pytest.fixture
def predict(model, monkeypatch):
    """Runs in this process with a predictor that is loaded once."""
    predictor = model_predictor(model)
    monkeypatch.setattr(run.ModelSource, "predictor", lambda *arguments: predictor)
    return lambda *arguments, **options: predict_dataset(*arguments, model, workers=0, **options)


cache: dict = {}


def model_predictor(model):
    if model not in cache:
        loaded = SegformerForSemanticSegmentation.from_pretrained(model)
        processor = SegformerImageProcessor.from_pretrained(model)
        cache[model] = SegmentationPredictor(loaded, processor, batch_size=16, progress=False)
    return cache[model]


def rows(folder) -> list[dict]:
    files, root = fsspec.core.url_to_fs(str(folder))
    parts = sorted(path for path in files.ls(root, detail=False) if path.endswith(".parquet"))
    return [row for part in parts for row in parquet.read_table(io.BytesIO(files.cat_file(part))).to_pylist()]


def ids(folder) -> list[str]:
    return [row["id"] for row in rows(folder)]


def test_every_image_has_one_row_with_what_the_predictor_gives(photos, predict, model, tmp_path):
    done = predict(photos, tmp_path / "out", masks=True, images_per_shard=3)
    assert (done.images, done.failed, done.shards, done.all_images) == (7, 1, 3, 7)
    found = rows(tmp_path / "out")
    assert [row["id"] for row in found] == [f"{number:04d}.png" for number in range(7)]
    assert [row["status"] for row in found] == ["ok"] * 3 + ["broken"] + ["ok"] * 3
    assert "truncated or damaged" in found[3]["error"]
    assert found[3]["class_fractions"] is None and found[3]["mask"] is None
    whole = [row for row in found if row["status"] == "ok"]
    for row, result in zip(whole, model_predictor(model)([photos / row["id"] for row in whole]), strict=True):
        mask = np.asarray(Image.open(io.BytesIO(row["mask"])))
        assert (row["height"], row["width"]) == mask.shape == result.class_map.shape
        np.testing.assert_array_equal(mask, result.class_map)
        assert dict(row["class_fractions"]) == result.class_fractions


def test_the_next_run_does_no_finished_shard_again(photos, predict, tmp_path, monkeypatch):
    out = tmp_path / "out"
    predict(photos, out, images_per_shard=2)
    before = rows(out)
    (out / "part-000001.parquet").unlink()
    segmented = []
    original = run.segment_shard

    def noted(shard, *rest):
        segmented.append(shard.number)
        return original(shard, *rest)

    monkeypatch.setattr(run, "segment_shard", noted)
    done = predict(photos, out, images_per_shard=2)
    assert segmented == [1]
    assert rows(out) == before
    assert (done.images, done.failed, done.earlier_images, done.earlier_shards) == (7, 1, 5, 3)
    assert predict(photos, out, images_per_shard=2).seconds == 0 and segmented == [1]


def test_a_writer_that_is_killed_leaves_no_part_of_a_file(photos, predict, tmp_path, monkeypatch):
    def killed(files, path, value):
        with files.open(path, "wb") as file:
            file.write(value[: len(value) // 2])
        raise KeyboardInterrupt

    out = tmp_path / "out"
    predict(photos, out, images_per_shard=4)
    before = rows(out)
    (out / "part-000000.parquet").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(fsspec.implementations.local.LocalFileSystem, "pipe_file", killed)
        with pytest.raises(KeyboardInterrupt):
            predict(photos, out, images_per_shard=4)
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "part-000001.parquet"]
    predict(photos, out, images_per_shard=4)
    assert rows(out) == before


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"masks": True}, "masks 'parquet' instead of None|masks None instead of 'parquet'"),
        ({"images_per_shard": 3}, "images_per_shard 2 instead of 3"),
        ({"mode": "whole"}, r"options \{\} instead of \{'mode': 'whole'\}"),
    ],
)
def test_results_of_other_settings_are_not_mixed(photos, predict, tmp_path, change, reason):
    predict(photos, tmp_path / "out", images_per_shard=2)
    with pytest.raises(DatasetError, match=reason):
        predict(photos, tmp_path / "out", **{"images_per_shard": 2, **change})


def test_results_of_another_model_or_input_are_not_mixed(photos, predict, checkpoint, tmp_path):
    predict(photos, tmp_path / "out")
    with pytest.raises(DatasetError, match="other settings: model"):
        predict_dataset(photos, tmp_path / "out", checkpoint(seed=1), workers=0)
    with pytest.raises(DatasetError, match="other settings: input"):
        predict(photos / "0000.png", tmp_path / "out")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(DatasetError, match=r"holds files, but no manifest.json"):
        predict(photos, tmp_path / "other")


def test_a_worker_whose_checkpoint_is_another_one_stops(model):
    with pytest.raises(CheckpointError, match="other weights or settings"):
        run.ModelSource(str(model)).predictor("0" * 64, 1)


def test_an_engine_for_exported_models_does_not_run_a_checkpoint(model):
    with pytest.raises(ValueError, match="engine='onnxruntime' runs what export wrote"):
        run.ModelSource(str(model), engine="onnxruntime").open()


def test_masks_as_files_are_named_in_the_table(photos, predict, tmp_path):
    out = tmp_path / "out"
    predict(photos, out, format="png", images_per_shard=4)
    found = rows(out)
    assert found[5]["mask_path"] == "masks/000001/000001_0005.png.png"
    assert found[3]["mask_path"] is None
    assert len(list(out.glob("masks/*/*.png"))) == 6
    with Image.open(out / found[5]["mask_path"]) as mask:
        assert mask.size == (found[5]["width"], found[5]["height"])


def test_inputs_of_every_kind_give_the_same_rows(photos, predict, tmp_path):
    predict(photos, tmp_path / "out", masks=True)
    expected = [{**row, "id": None} for row in rows(tmp_path / "out")]
    images = [path.read_bytes() for path in sorted(photos.iterdir())]
    for name, (source, first_id) in inputs_of(images, photos, tmp_path).items():
        out = f"memory://{tmp_path.name}/{name}"
        predict(source, out, masks=True)
        found = rows(out)
        assert found[0]["id"] == first_id, name
        assert [{**row, "id": None} for row in found] == expected, name


def inputs_of(images, photos, folder) -> dict[str, tuple[str, str]]:
    """The same images in all the forms in which they may come, and the id of the first."""
    import tensorflow as tf

    memory = f"memory://{folder.name}-in"
    files = fsspec.filesystem("memory")
    for number, image in enumerate(images):
        files.pipe_file(f"{memory}/deep/{number:04d}.png", image)
    (folder / "list.txt").write_text("".join(f"{path}\n" for path in sorted(photos.iterdir())))
    bytes_of = pa.table({"image": images, "key": [f"k{number}" for number in range(7)], "other": [b""] * 7})
    parquet.write_table(bytes_of, folder / "bytes.parquet", row_group_size=3)
    cells = [{"bytes": image, "path": None} for image in images]
    parquet.write_table(pa.table({"image": cells}), folder / "cells.parquet")
    paths = pa.table({"path": [str(path) for path in sorted(photos.iterdir())]})
    parquet.write_table(paths, folder / "paths.parquet")
    with tarfile.open(folder / "shard.tar", "w") as archive, tf.io.TFRecordWriter(str(folder / "a.tfrecord")) as writer:
        for number, image in enumerate(images):
            for ending, content in ((".png", image), (".seg.png", b"labels"), (".json", b"{}")):
                member = tarfile.TarInfo(f"{number:04d}{ending}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
            feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[image]))
            features = tf.train.Features(feature={"image/encoded": feature})
            writer.write(tf.train.Example(features=features).SerializeToString())
    files.put_file(str(folder / "shard.tar"), f"{memory}.tar")
    return {
        "memory": (memory, "deep/0000.png"),
        "glob": (f"{photos}/*.png", "0000.png"),
        "list": (str(folder / "list.txt"), str(photos / "0000.png")),
        "bytes": (str(folder / "bytes.parquet"), "k0"),
        "cells": (str(folder / "cells.parquet"), "cells.parquet#0"),
        "paths": (str(folder / "paths.parquet"), str(photos / "0000.png")),
        "webdataset": (f"{memory}.tar", f"{folder.name}-in.tar/0000.png"),
        "tfrecord": (str(folder / "a.tfrecord"), "a.tfrecord#0"),
    }


def test_files_of_many_images_that_are_damaged_keep_what_comes_before(photos, predict, tmp_path):
    images = [path.read_bytes() for path in sorted(photos.iterdir())]
    inputs_of(images, photos, tmp_path)
    tar, records = ((tmp_path / name).read_bytes() for name in ("shard.tar", "a.tfrecord"))
    petabyte = (2**50).to_bytes(8, "little") + bytes.fromhex(
        "1d703049"
    )  # TensorFlow would ask for it and end the process
    for name, content in {
        "half.tar": tar[: len(tar) // 2],
        "half.tfrecord": records[: len(records) // 2],
        "claim.tfrecord": records + petabyte,
    }.items():
        path = tmp_path / name
        path.write_bytes(content)
        predict(path, tmp_path / f"out-{name}")
        found = rows(tmp_path / f"out-{name}")
        assert [row["status"] for row in found[:2]] == ["ok", "ok"]
        assert found[-1]["status"] == "unreadable" and "damaged from here on" in found[-1]["error"]
    (tmp_path / "bytes.parquet").write_bytes(b"PAR1")
    with pytest.raises(DatasetError, match="not a Parquet file"):
        predict(tmp_path / "bytes.parquet", tmp_path / "out")


def test_what_cannot_be_had_says_so(predict, tmp_path, photos, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    (tmp_path / "list.txt").write_text(f"{photos}/0000.png\nmissing.png\nmemory://nowhere/b.png\n")
    done = predict(tmp_path / "list.txt", tmp_path / "out")
    by_id = {row["id"]: row for row in rows(tmp_path / "out")}
    assert (done.images, done.failed) == (3, 2)
    assert by_id["missing.png"]["status"] == by_id["memory://nowhere/b.png"]["status"] == "unreadable"
    assert "FileNotFoundError" in by_id["missing.png"]["error"]
    with pytest.raises(DatasetError, match=r"none of the columns id, status, .* is known to hold images"):
        predict(tmp_path / "out", tmp_path / "other")
    with pytest.raises(DatasetError, match="holds no image"):
        predict(photos, photos)
    with pytest.raises(DatasetError, match="no such file"):
        predict(tmp_path / "nothing", tmp_path / "other")


def test_batches_hold_images_of_one_size_within_the_bound(predict, photos, tmp_path, model, monkeypatch):
    predictor, seen = model_predictor(model), []
    original = type(predictor).__call__

    def noted(self, images):
        seen.append([image.shape for image in images])
        return original(self, images)

    monkeypatch.setattr(type(predictor), "__call__", noted)
    monkeypatch.setattr(predictor, "mode", "whole")
    predict(photos, tmp_path / "out", batch_pixels=64 * 64, mode="whole")
    assert sorted(map(len, seen)) == [1, 1, 2, 2]
    assert all(len(set(shapes)) == 1 for shapes in seen)
    seen.clear()
    monkeypatch.setattr(segment, "_MOST_WAITING_PIXELS", 1)
    predict(photos, tmp_path / "other", mode="whole")
    assert [len(shapes) for shapes in seen] == [1] * 6


def test_images_of_other_bands_are_read_as_the_predictor_reads_them(predict, tmp_path, monkeypatch):
    network = keras.Sequential([keras.Input((None, None, 5)), keras.layers.Conv2D(3, 4, strides=4)])
    processor = SegformerImageProcessor(size=32, image_mean=[0.5] * 5, image_std=[0.25] * 5)
    predictor = SegmentationPredictor(network, processor, progress=False)
    monkeypatch.setattr(run.ModelSource, "predictor", lambda *arguments: predictor)
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 30, 5), dtype=np.uint8)
    np.save(tmp_path / "0.npy", images[0])
    np.save(tmp_path / "1.npy", images[1, ..., :4])
    np.save(tmp_path / "2.npy", images[2].astype(np.uint16) * 9)
    (tmp_path / "list.txt").write_text("0.npy\n1.npy\n2.npy\n")
    predict(tmp_path / "list.txt", tmp_path / "out", masks=True)
    found = rows(tmp_path / "out")
    assert [row["status"] for row in found] == ["ok", "broken", "broken"]
    assert "5 channels" in found[1]["error"] and "values reach" in found[2]["error"]
    (result,) = predictor([tmp_path / "0.npy"])
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(found[0]["mask"]))), result.class_map)


def test_the_manifest_names_the_classes(photos, predict, tmp_path):
    predict(photos, tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / outputs.MANIFEST).read_text())
    assert manifest["classes"] == {"0": "meadow", "1": "sky", "2": "house"}
    assert len(manifest["settings"]["model"]) == 64


def test_progress_counts_images_as_they_are_done(photos, predict, tmp_path):
    states: list[run.Progress] = []
    predict(photos, tmp_path / "out", images_per_shard=2, batch_size=1, progress=states.append)
    assert [state.images for state in states if state.shards == 0][:3] == [0, 1, 2]
    assert states[-1].images == states[-1].all_images == 7
    assert states[-1].remaining_seconds == 0
    assert states[-1].images_per_second == pytest.approx(7 / states[-1].seconds)


@pytest.mark.slow
def test_an_exported_model_gives_the_rows_of_its_checkpoint(photos, model, tmp_path):
    loaded = SegformerForSemanticSegmentation.from_pretrained(model)
    export_saved_model(loaded, tmp_path / "exported", SegformerImageProcessor.from_pretrained(model))
    predict_dataset(photos, tmp_path / "a", model, workers=0)
    predict_dataset(photos, tmp_path / "b", tmp_path / "exported", workers=0)
    for one, other in zip(rows(tmp_path / "a"), rows(tmp_path / "b"), strict=True):
        assert (one["id"], one["status"]) == (other["id"], other["status"])
        assert dict(one["class_fractions"] or []) == pytest.approx(dict(other["class_fractions"] or []), abs=1e-3)
    with pytest.raises(DatasetError, match="other settings: model"):
        predict_dataset(photos, tmp_path / "a", tmp_path / "exported", workers=0)
    (weights,) = (tmp_path / "exported").glob("1/variables/*.data*")
    before = run.ModelSource(str(tmp_path / "exported")).open().fingerprint()
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert run.ModelSource(str(tmp_path / "exported")).open().fingerprint() != before
