"""Damaged and hostile files of annotation tools: named, and without cost in memory or time."""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import pytest

from tests.data.layout_writers import (
    SIDE,
    as_polygon,
    coco_content,
    coco_written_as,
    save,
    squares,
    write_labelme,
    write_text,
    write_yolo,
)
from tf_segformer.data.check import check_dataset
from tf_segformer.data.datasets import find_dataset
from tf_segformer.data.layouts import coco
from tf_segformer.errors import DatasetError, ImageError


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("labels/train/0.txt", "0 0.5 0.5 0.2 0.2", "boxes are no segmentation"),
        ("labels/train/0.txt", "9 0 0 1 0 1 1", "no object of 0 to 2"),
        ("labels/train/0.txt", "0 0 nan 1 0 1 1", "holds no numbers"),
        ("data.yaml", "names: [", "no readable YAML"),
        ("data.yaml", "a: &a {b: 1}\nnames: [*a]", "it has aliases"),  # nested ones make gigabytes
        ("data.yaml", "[" * 5000, "no readable YAML"),
    ],
)
def test_bad_yolo_files_are_named(tmp_path, file, text, message):
    write_yolo(tmp_path)
    write_text(tmp_path / file, text)
    with pytest.raises((DatasetError, ImageError), match=message):
        next(iter(find_dataset("yolo", tmp_path))).read_labels()


def test_bad_labelme_and_coco_files_are_named(tmp_path):
    write_labelme(tmp_path)
    path = tmp_path / "0.json"
    content = json.loads(path.read_text())
    for change, message in (
        ({"imageHeight": 10**9}, "no usable imageWidth"),
        ({"shapes": [{"label": "ant", "points": [[0, 0], [1, 1]]}]}, "needs three points"),
        ({"shapes": [{"label": "ant", "points": [["x", 0]], "shape_type": "polygon"}]}, "cannot be read"),
        ({"shapes": [{"label": "ant", "points": [[0, 0]], "shape_type": "point"}]}, "a point has no area"),
    ):
        path.write_text(json.dumps({**content, **change}))
        report = check_dataset(tmp_path, raise_on_problems=False)
        assert re.search(message, str(report.all_problems)), report
    path.write_text("{")
    with pytest.raises(DatasetError, match=r"0\.json: no readable annotations"):
        find_dataset(root=tmp_path)


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (64, 300)])
@pytest.mark.parametrize("compressed", [True, False])
def test_run_lengths_of_coco_are_read_as_pycocotools_reads_them(shape, compressed):
    mask = pytest.importorskip("pycocotools.mask")
    for seed, threshold in enumerate((0.0, 0.02, 0.5, 0.98, 1.0)):
        values = np.random.default_rng(seed).random(shape)
        pixels = np.repeat(values, 2, axis=0) < threshold
        encoded = mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
        text = encoded["counts"].decode()
        counts = text if compressed else coco._decompressed(text).tolist()
        found = coco._decode_runs({"size": encoded["size"], "counts": counts}, *pixels.shape)
        np.testing.assert_array_equal(found, mask.decode(encoded).astype(bool))
        np.testing.assert_array_equal(found, pixels)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        # At the first three pycocotools 2.0.11 writes beyond its memory, at the fourth it returns what lay there.
        ({"size": [SIDE, SIDE], "counts": "o" * 400}, "damaged"),
        ({"size": [SIDE, SIDE], "counts": [0, 0, 0, 2**32 - 1] * 50}, "of another size"),
        ([[0, 0, 9e5, 9e5, 0, 9e5, 9e5, 0] * 400], "outline of more than"),
        ({"size": [SIDE, SIDE], "counts": [3]}, "of another size"),
        ({"size": [SIDE, SIDE], "counts": [-5, SIDE * SIDE + 5]}, "whole numbers from 0"),
        ([[0, 0, 1e300, 0, 5, 5]], "far outside"),
        ([[0, 0, 1, 1, 1]], "no list of pairs"),
        ([[1, 1, 9, 9, 1, 9]] + [[0, 0, 2e5, 0, 0, 1]] * 60, "together longer"),
    ],
)
def test_hostile_objects_of_coco_cost_no_memory_and_no_process(tmp_path, segmentation, message):
    coco_written_as("a.json", ".", ("",), lambda box: (segmentation, 1))(tmp_path)
    with pytest.raises(ImageError, match=message):
        next(iter(find_dataset("coco", tmp_path))).read_labels()


@pytest.mark.parametrize(
    "shape",
    [
        {"shape_type": "circle", "points": [[0, 0], [1e9, 0]]},  # hours of Pillow's steps
        {"points": [[0, 0], [1e12, 0], [0, 1e12]]},
        {"points": [[10**400, 0], [1, 0], [0, 1]]},
    ],
)
def test_shapes_far_outside_of_the_image_are_rejected_at_once(tmp_path, shape):
    write_labelme(tmp_path)
    path = tmp_path / "0.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "shapes": [{"label": "ant", **shape}]}))
    with pytest.raises(ImageError, match="cannot be"):
        find_dataset("labelme", tmp_path).read_labels(path, tmp_path / "0.png")


def test_lists_and_annotations_do_not_lead_out_of_the_folder(tmp_path):
    content = coco_content(0, as_polygon)
    content["images"][0]["file_name"] = "../../secret.png"
    write_text(tmp_path / "a.json", json.dumps(content))
    with pytest.raises(DatasetError, match="leads out"):
        find_dataset(root=tmp_path)


@pytest.mark.parametrize(
    ("write", "module", "extra"),
    [
        (lambda root: write_text(root / "a.json", json.dumps(coco_content(0, as_polygon))), "pycocotools", "coco"),
        (None, "datasets", "datasets"),
    ],
    ids=["coco", "datasets"],
)
def test_a_missing_extra_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch, write, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    if write is not None:
        write(tmp_path)
        save(tmp_path / "0.png", squares()[0])
        save(tmp_path / "1.png", squares()[0])
    with pytest.raises(ImportError, match=rf"pip install 'tf_segformer\[{extra}\]'"):
        check_dataset(tmp_path if write is not None else "hf://owner/name")
