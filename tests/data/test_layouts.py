"""Every layout, made in the form that its tool writes: found by the folder alone, and read pixel for pixel."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.data.layout_writers import (
    COLORS,
    NAMES_OF_KIND,
    OBJECT,
    OBJECTS,
    SIDE,
    UNNAMED,
    as_polygon,
    as_run_lengths,
    coco_content,
    coco_written_as,
    pairs_written_as,
    save,
    scene,
    squares,
    write_brushes,
    write_cvat,
    write_geotiff_pairs,
    write_hub,
    write_label_studio,
    write_labelme,
    write_labelme2voc,
    write_roboflow,
    write_text,
    write_voc,
    write_yolo,
)
from tests.training.scenes import NAMES
from tf_segformer.configuration import SegformerConfig
from tf_segformer.data.augmentation import Augmentation
from tf_segformer.data.check import check_dataset
from tf_segformer.data.datasets import find_dataset
from tf_segformer.data.kinds import detect_kind
from tf_segformer.data.pipeline import training_dataset
from tf_segformer.data.splits import open_splits
from tf_segformer.errors import DatasetError
from tf_segformer.imaging.processor import SegformerImageProcessor
from tf_segformer.modeling.models import SegformerForSemanticSegmentation
from tf_segformer.training.losses import SegmentationLoss
from tf_segformer.training.optimization import create_optimizer

LAYOUTS = {
    "label studio": ("label-studio", write_label_studio, "squares"),
    "split/images": ("folder", pairs_written_as("{split}/images/{n}.png", "{split}/labels/{n}.png"), "scenes"),
    "images/split": ("folder", pairs_written_as("images/{split}/{n}.jpg", "masks/{split}/{n}.png"), "scenes"),
    "valid": ("folder", pairs_written_as("{split}/img/{n}.png", "{split}/gt/{n}.png", ("train", "valid")), "scenes"),
    "flat": ("folder", pairs_written_as("images/{split}{n}.png", "labels/{split}{n}.png"), "scenes"),
    "suffix": ("folder", pairs_written_as("{split}/{n}.jpg", "{split}/{n}_mask.png"), "scenes"),
    "prefix": ("folder", pairs_written_as("img/IMG_{split}{n}.tif", "msk/MSK_{split}{n}.tif"), "scenes"),
    "suffix in folders": ("folder", pairs_written_as("images/{split}{n}.webp", "masks/{split}{n}_label.bmp"), "scenes"),
    "jpeg 2000": ("folder", pairs_written_as("{split}/images/{n}.jp2", "{split}/labels/{n}.tiff"), "scenes"),
    "arrays": ("folder", pairs_written_as("{split}/images/{n}.npy", "{split}/labels/{n}.npz"), "scenes"),
    "bmp": ("folder", pairs_written_as("{split}/images/{n}.bmp", "{split}/labels/{n}.bmp"), "scenes"),
    "geotiff": ("folder", write_geotiff_pairs, "scenes"),
    "ade20k": (
        "ade20k",
        pairs_written_as(
            "images/{split}/ADE_{n}.jpg", "annotations/{split}/ADE_{n}.png", ("training", "validation"),
            np.arange(1, 5, dtype=np.uint8),
        ),
        "scenes",
    ),
    "cityscapes": (
        "cityscapes",
        pairs_written_as(
            "leftImg8bit/{split}/ulm/ulm_{n}_leftImg8bit.png", "gtFine/{split}/ulm/ulm_{n}_gtFine_labelIds.png",
            values=np.array([7, 8, 11, 12], np.uint8),
        ),
        "scenes",
    ),
    "camvid": (
        "camvid",
        pairs_written_as("{split}/images/0001TP_00000{n}.png", "{split}/labels/0001TP_00000{n}.png"),
        "scenes",
    ),
    "cvat": ("cvat", write_cvat, "scenes"),
    "labelme2voc": ("voc", write_labelme2voc, "scenes"),
    "roboflow": ("roboflow", write_roboflow, "scenes"),
    "yolo": ("yolo", write_yolo, "squares"),
    "labelme": ("labelme", write_labelme, "squares"),
    "coco of Roboflow": (
        "coco", coco_written_as("{split}/_annotations.coco.json", "{split}", ("train", "valid"), as_polygon), "squares"
    ),
    "coco of COCO": (
        "coco",
        coco_written_as("annotations/instances_{split}2017.json", "{split}2017", ("train", "val"), as_run_lengths),
        "squares",
    ),
    "coco of CVAT": (
        "coco", coco_written_as("annotations/instances_default.json", "images/default", ("default",), as_polygon),
        "squares",
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_is_found_by_the_folder_alone_and_read_pixel_for_pixel(tmp_path, layout):
    kind, write, content = LAYOUTS[layout]
    write(tmp_path)
    splits = {split: find_dataset(None, tmp_path, split) for split in ("train", "val")}
    assert {dataset.kind for dataset in splits.values()} == {kind} == {detect_kind(tmp_path)}
    names = OBJECTS if content == "squares" else NAMES_OF_KIND.get(kind, NAMES)
    assert splits["train"].class_names == splits["val"].class_names == names
    seen = set()
    for dataset in splits.values():
        for example, files in zip(dataset, dataset.examples, strict=True):
            image, labels = np.asarray(example.read_image()), example.read_labels()
            assert image.shape == (SIDE, SIDE, 3)
            expected = squares()[1] if content == "squares" else closest_labels(image)
            np.testing.assert_array_equal(labels, expected)
            seen.add(files.image)
    assert len(seen) == sum(dataset.size for dataset in splits.values())  # no image in both
    assert check_dataset(tmp_path).can_train


@pytest.fixture(scope="module")
def model():
    """A small network of four classes, traced once for all layouts."""
    config = SegformerConfig(
        depths=(1, 1, 1, 1), hidden_sizes=(8, 8, 16, 16), num_attention_heads=(1, 1, 2, 2), decoder_hidden_size=16,
        num_labels=4,
    )  # fmt: skip
    model = SegformerForSemanticSegmentation(config)
    model.compile(create_optimizer(1e-3, 100), SegmentationLoss())
    return model


PATTERNS = {"images": "a/{split}_{name}/photo.png", "labels": "b/{split}_{name}/truth.png"}
# Every layout with the arguments of `find_dataset` that it needs: first those that are found by the folder alone.
TRAINED = {
    **{layout: (write, {}) for layout, (_, write, _) in LAYOUTS.items()},
    "binary": (
        pairs_written_as("{split}/images/{n}.png", "{split}/masks/{n}.png", values=OBJECT), {}
    ),
    "one-hot": (
        pairs_written_as("{split}/images/{n}.png", "{split}/labels/{n}.npy", values=np.eye(4, dtype=np.uint8)), {}
    ),
    "one-hot, compressed": (
        pairs_written_as("{split}/images/{n}.png", "{split}/labels/{n}.npz", values=np.eye(4, dtype=np.uint8)), {}
    ),
    "voc": (write_voc, {}),
    "colors": (
        pairs_written_as("{split}/images/{n}.png", "{split}/labels/{n}.png", values=COLORS),
        {"palette": COLORS.tolist(), "class_names": NAMES},
    ),
    "patterns": (pairs_written_as("a/{split}_{n}/photo.png", "b/{split}_{n}/truth.png"), PATTERNS),
    "merged classes": (
        pairs_written_as("{split}/images/{n}.png", "{split}/labels/{n}.png"),
        {"class_of_value": {"up": [0, 3], "down": 1}},
    ),
    "label studio brushes": (write_brushes, {}),
    "hugging face": (write_hub, {"root": "hf://{root}"}),
}  # fmt: skip


@pytest.mark.parametrize(
    "layout", [pytest.param(each, marks=pytest.mark.slow if number else ()) for number, each in enumerate(TRAINED)]
)
def test_layout_trains_two_steps(tmp_path, model, layout):
    write, options = TRAINED[layout]
    write(tmp_path)
    root = options.get("root", "{root}").format(root=tmp_path)
    data = find_dataset(**{**options, "root": root})
    processor = SegformerImageProcessor(do_resize=False)
    batches = training_dataset(data, Augmentation((32, 32)), 1, processor=processor, last_step=2)
    before = model.get_weights()
    losses = model.fit(batches, steps_per_epoch=2, shuffle=False, verbose=0).history["loss"]
    assert np.isfinite(losses).all()
    changed = [(new != old).any() for new, old in zip(model.get_weights(), before, strict=True)]
    assert np.mean(changed) > 0.9


def closest_labels(image):
    """The labels of the scene that an image shows."""
    scenes = [scene(10 * number + index) for number in range(2) for index in range(4)]
    return min(scenes, key=lambda each: np.abs(each[0].astype(int) - image).sum())[1]


def test_patterns_find_files_that_no_layout_has(tmp_path):
    pairs_written_as("a/{split}_{n}/photo.png", "b/{split}_{n}/truth.png")(tmp_path)
    train = find_dataset(root=tmp_path, split="train", **PATTERNS)
    assert [each.labels.parent.name for each in train.examples] == [f"train_{index}" for index in range(4)]
    assert check_dataset(train).images == 4
    undivided = {key: value.replace("{split}_", "") for key, value in PATTERNS.items()}
    assert find_dataset(root=tmp_path, split="val", val_fraction=0.5, **undivided).size == 4
    with pytest.raises(DatasetError, match=r"no file matches images='a/\{name\}\.png' \(--images\)"):
        find_dataset(root=tmp_path, images="a/{name}.png", labels="b/{name}.png")
    with pytest.raises(ValueError, match="need each other"):
        find_dataset(root=tmp_path, images="{name}.png")
    with pytest.raises(ValueError, match="must be a path below"):
        find_dataset(root=tmp_path, images="../{name}.png", labels="{name}.png")


def test_one_hot_labels_are_classes_and_zeros_are_ignored(tmp_path):
    image, labels = scene(0)
    save(tmp_path / "train/images/0.png", image)
    one_hot = np.eye(4, dtype=np.uint8)[labels]
    one_hot[0] = 0
    save(tmp_path / "train/labels/0.npy", one_hot)
    (example,) = find_dataset("folder", tmp_path, "train", NAMES)
    labels = labels.astype(np.int32)
    labels[0] = 255
    np.testing.assert_array_equal(example.read_labels(), labels)


def test_brushes_are_read_by_label_studios_own_converter(tmp_path):
    write_brushes(tmp_path)
    tasks, labels = json.loads((tmp_path / "project-1.json").read_text()), squares()[1]
    for example in find_dataset(root=tmp_path):
        np.testing.assert_array_equal(example.read_labels(), labels)
    tasks[0]["annotations"][0]["result"][0]["value"]["rle"][3] ^= 1
    write_text(tmp_path / "project-1.json", json.dumps(tasks))
    report = check_dataset(tmp_path, raise_on_problems=False)
    assert "run lengths of another size" in str(report.all_problems)


def encoded(array):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def test_a_table_of_the_hub_is_a_dataset(tmp_path):
    datasets = pytest.importorskip("datasets")
    scenes = [scene(index) for index in (*range(4), 10)]
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {
        name: [{"bytes": encoded(scene[position]), "path": "a.png"} for scene in scenes]
        for position, name in enumerate(("image", "label"))
    }
    features = {"info": {"features": {name: {"_type": "Image"} for name in columns}}}
    table = arrow.table(columns).replace_schema_metadata({"huggingface": json.dumps(features)})
    (tmp_path / "data").mkdir()
    parquet.write_table(table, tmp_path / "data/train-00000-of-00001.parquet")
    datasets.disable_progress_bars()
    train, val = open_splits(None, f"hf://{tmp_path}", NAMES)
    assert find_dataset(f"hf://{tmp_path}", split="val").size == 1
    assert (train.name, train.size, val.size, train.class_names) == ("huggingface/train", 4, 1, NAMES)
    for example in (*train, *val):
        np.testing.assert_array_equal(example.read_labels(), closest_labels(np.asarray(example.read_image())))
    for seed in (None, 3):
        rows = [train.decode(index) for _, index in train.records(seed, 0, 4)]
        assert len({image.numpy().tobytes() for image, _ in rows}) == 4
        for image, labels in rows:
            np.testing.assert_array_equal(labels, closest_labels(image.numpy()))
    report = check_dataset(f"hf://{tmp_path}", class_of_value={"up": [0, 3], "house": 2})
    assert (report.kind, report.splits["train"].class_names, report.can_train) == ("huggingface", ("up", "house"), True)
    assert check_dataset(f"hf://{tmp_path}").to_dict()["class_names"] == list(UNNAMED)
    with pytest.raises(DatasetError, match=r"hf://.*nowhere: cannot be loaded"):
        open_splits(None, f"hf://{tmp_path}/nowhere")


def test_smaller_objects_of_coco_lie_on_top(tmp_path):
    pytest.importorskip("pycocotools")
    content = coco_content(0, as_polygon)
    content["annotations"] = [
        {"id": 0, "image_id": 0, "category_id": 1, "area": 100, "segmentation": as_polygon((10, 10, 19, 19))[0]},
        {"id": 1, "image_id": 0, "category_id": 2, "area": 900, "segmentation": as_polygon((0, 0, 29, 29))[0]},
    ]
    write_text(tmp_path / "annotations.json", json.dumps(content))
    for name in ("0.png", "1.png"):
        save(tmp_path / name, squares()[0])
    dataset = find_dataset(root=tmp_path, split="val", val_fraction=1.0)
    labels = next(iter(dataset)).read_labels()
    assert (labels[15, 15], labels[5, 5], labels[35, 35]) == (1, 2, 0)
    assert dataset.class_names == ("background", "ant", "bee", "cow")


def test_the_full_ade20k_is_named_with_the_address_of_the_challenge(tmp_path):
    save(tmp_path / "images/ADE/training/street/a.jpg", scene(0)[0])
    save(tmp_path / "images/ADE/training/street/a_seg.png", scene(0)[0])
    for kind in ("ade20k", None):
        with pytest.raises(DatasetError, match=r"full ADE20K.*http://data\.csail\.mit\.edu.*ADEChallengeData2016"):
            find_dataset(kind, tmp_path)


def test_jpeg_labels_are_rejected(tmp_path):
    pairs_written_as("{split}/images/{n}.png", "{split}/labels/{n}.jpg")(tmp_path)
    with pytest.raises(DatasetError, match=r"labels are JPEG files.*export them as PNG"):
        find_dataset(root=tmp_path)


def test_values_that_are_no_indices_ask_for_a_map(tmp_path):
    pairs_written_as("{split}/images/{n}.png", "{split}/labels/{n}.png")(tmp_path)
    for path in tmp_path.glob("*/labels/*"):
        save(path, np.asarray(Image.open(path)) * 80)
    with pytest.raises(DatasetError, match=r"0, 80, 160, 240 are no class indices.*--map"):
        find_dataset(root=tmp_path)
    mapped = find_dataset(root=tmp_path, class_of_value={"sky": 0, "earth": [80, 160], "sun": 240})
    np.testing.assert_array_equal(next(iter(mapped)).read_labels(), np.array([0, 1, 1, 2])[scene(0)[1]])


def test_classes_are_merged_by_value_and_by_name_and_others_are_ignored(tmp_path):
    image = tmp_path / "leftImg8bit/train/ulm/ulm_1_leftImg8bit.png"
    save(image, np.zeros((1, 5, 3), np.uint8))
    save(tmp_path / "gtFine/train/ulm/ulm_1_gtFine_labelIds.png", np.array([[7, 8, 26, 11, 9]], np.uint8))
    groups = {"flat": ["road", "sidewalk", 9], "vehicle": "car"}
    dataset = find_dataset("cityscapes", tmp_path, class_of_value=groups)
    assert dataset.class_names == ("flat", "vehicle")
    assert next(iter(dataset)).read_labels().tolist() == [[0, 0, 1, 255, 0]]
    for wrong, message in (
        ({"flat": ["raod"]}, r"\(--map\): there is no class 'raod'"),
        ({"flat": [300]}, "300 is no label value"),
        ({"a": ["road"], "b": [7]}, "7 belongs to 'a' and to 'b'"),
        ({}, "must be an object"),
    ):
        with pytest.raises(ValueError, match=message):
            find_dataset("cityscapes", tmp_path, class_of_value=wrong)
