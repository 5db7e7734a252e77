"""Every layout, made in the form that its tool writes: found by the folder alone, and read pixel for pixel."""

from __future__ import annotations

import io
import json
import re
import sys

import numpy as np
import pytest
from PIL import Image

from tests.training.scenes import NAMES, make_scene
from tf_segformer.configuration import SegformerConfig
from tf_segformer.data.augmentation import Augmentation
from tf_segformer.data.check import check_dataset
from tf_segformer.data.datasets import find_dataset
from tf_segformer.data.kinds import detect_kind
from tf_segformer.data.layouts import coco
from tf_segformer.data.pipeline import training_dataset
from tf_segformer.data.splits import open_splits
from tf_segformer.errors import DatasetError, ImageError
from tf_segformer.imaging.labels import LABELS
from tf_segformer.imaging.processor import SegformerImageProcessor
from tf_segformer.modeling.models import SegformerForSemanticSegmentation
from tf_segformer.training.losses import SegmentationLoss
from tf_segformer.training.optimization import create_optimizer

COLORS = np.array([[0, 0, 0], [128, 64, 128], [250, 50, 83], [50, 183, 250]], np.uint8)
INDICES = np.arange(4, dtype=np.uint8)
OBJECT = np.array([0, 255, 255, 0], np.uint8)
SIDE = 40
SQUARES = [(1, (4, 4, 18, 16)), (2, (20, 10, 34, 30)), (3, (6, 22, 16, 36))]  # class; left, top, right, bottom


def scene(seed):
    return make_scene(seed, SIDE, SIDE)


def squares():
    """An image of three objects on a background, and its labels."""
    labels = np.zeros((SIDE, SIDE), np.uint8)
    for index, (left, top, right, bottom) in SQUARES:
        labels[top : bottom + 1, left : right + 1] = index
    return np.repeat(labels[..., None] * 60, 3, axis=-1), labels


def corners(box):
    left, top, right, bottom = box
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez(path, array)
    else:
        Image.fromarray(array).save(path)


def write_text(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def pairs_written_as(image_pattern, label_pattern, splits=("train", "val"), values=INDICES):
    """`values` are what the label files hold for each class."""

    def write(root):
        for number, split in enumerate(splits):
            for index in range(4):
                image, labels = scene(10 * number + index)
                save(root / image_pattern.format(split=split, n=index), image)
                save(root / label_pattern.format(split=split, n=index), values[labels])

    return write


def write_voc_tree(root, listings, write_labels):
    for index in range(4):
        image, labels = scene(index)
        save(root / f"JPEGImages/frame {index}.png", image)
        write_labels(root / f"SegmentationClass/frame {index}.png", labels)
    for name, indices in listings.items():
        text = "".join(f"frame {index}\n" for index in indices)
        write_text(root / f"ImageSets/Segmentation/{name}.txt", text)


def write_cvat(root):
    write_voc_tree(root, {"default": range(4)}, lambda path, labels: save(path, COLORS[labels]))
    lines = [f"{name}:{','.join(map(str, color))}::" for name, color in zip(NAMES, COLORS, strict=True)]
    write_text(root / "labelmap.txt", "\n".join(["# label:color_rgb:parts:actions", *lines]))


def save_palette(path, labels):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels)
    image.putpalette(COLORS.tobytes())
    image.save(path)


def save_geotiff(path, array):
    """As rasterio writes it, tiled and compressed, with a place on the earth."""
    rasterio = pytest.importorskip("rasterio")
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = np.moveaxis(array, -1, 0) if array.ndim == 3 else array[None]
    options = {"driver": "GTiff", "height": SIDE, "width": SIDE, "count": len(bands), "dtype": array.dtype,
               "tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate", "crs": "EPSG:32633",
               "transform": rasterio.Affine(0.5, 0, 400_000, 0, -0.5, 5_800_000)}  # fmt: skip
    with rasterio.open(path, "w", **options) as dataset:
        dataset.write(bands)


def write_geotiff_pairs(root):
    for number, split in enumerate(("train", "val")):
        for index in range(4):
            for folder, array in zip(("images", "labels"), scene(10 * number + index), strict=True):
                save_geotiff(root / f"{split}/{folder}/{index}.tif", array)


def write_voc(root):
    write_voc_tree(root, {"train": range(2), "val": range(2, 4)}, save_palette)


def write_labelme2voc(root):
    write_voc_tree(root, {}, save_palette)
    write_text(root / "class_names.txt", "\n".join(NAMES))


def write_roboflow(root):
    pairs_written_as("{split}/{n}_png.rf.1a2b.jpg", "{split}/{n}_png.rf.1a2b_mask.png", ("train", "valid", "test"))(
        root
    )
    rows = [f"{index}, {name}" for index, name in enumerate(NAMES)]
    for split in ("train", "valid", "test"):
        write_text(root / split / "_classes.csv", "\n".join(["Pixel Value, Class", *rows]))


def write_yolo(root):
    for split in ("train", "val"):
        for index in range(2):
            image, _ = squares()
            image[0, 0, 0] = index + 2 * (split == "val")
            save(root / f"images/{split}/{index}.png", image)
            lines = []
            for label, box in SQUARES:
                numbers = [f"{value / SIDE:.6f}" for point in corners(box) for value in point]
                lines.append(" ".join([str(label - 1), *numbers]))
            write_text(root / f"labels/{split}/{index}.txt", "\n".join(lines))
    write_text(root / "data.yaml", "train: images/train\nval: images/val\nnames:\n  0: ant\n  1: bee\n  2: cow\n")


def write_labelme(root):
    """As `write_label_file` of labelme 6.3.1, which cannot be imported without Qt."""
    kinds = {1: "polygon", 2: "oriented_rectangle", 3: "rectangle"}
    for index in range(4):
        image, _ = squares()
        image[:8, 20:30] = 80 * index  # JPEG keeps it
        save(root / f"{index}.jpg", image)
        shapes = [
            {"label": OBJECTS[label], "points": [list(map(float, point)) for point in corners(box)], "group_id": None,
             "description": "", "shape_type": kinds[label], "flags": {}, "mask": None}
            for label, box in SQUARES
        ]  # fmt: skip
        shapes[2]["points"] = shapes[2]["points"][::2]
        content = {"version": "6.3.1", "flags": {}, "shapes": shapes, "imagePath": f"{index}.jpg", "imageData": None}
        text = json.dumps({**content, "imageHeight": SIDE, "imageWidth": SIDE}, ensure_ascii=False, indent=2)
        write_text(root / f"{index}.json", text)


def coco_content(first, encode):
    images, annotations = [], []
    for index in range(2):
        images.append({"id": index, "file_name": f"{first + index}.png", "height": SIDE, "width": SIDE})
        for label, box in SQUARES:
            segmentation, area = encode(box)
            annotations.append(
                {"id": len(annotations), "image_id": index, "category_id": label, "area": area, "iscrowd": 0,
                 "segmentation": segmentation}
            )  # fmt: skip
    categories = [{"id": 0, "name": "things", "supercategory": "none"}]
    categories += [
        {"id": label, "name": name, "supercategory": "things"} for label, name in enumerate(("ant", "bee", "cow"), 1)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


def as_polygon(box):
    left, top, right, bottom = box
    return [[left, top, right + 1, top, right + 1, bottom + 1, left, bottom + 1]], (right - left) * (bottom - top)


def as_run_lengths(box):
    """As pycocotools writes them."""
    mask = pytest.importorskip("pycocotools.mask")
    left, top, right, bottom = box
    pixels = np.zeros((SIDE, SIDE), np.uint8, order="F")
    pixels[top : bottom + 1, left : right + 1] = 1
    encoded = mask.encode(pixels)
    return {**encoded, "counts": encoded["counts"].decode()}, int(pixels.sum())


def coco_written_as(file, folder, splits, encode):
    def write(root):
        pytest.importorskip("pycocotools")
        for number, split in enumerate(splits):
            for index in range(2):
                image, _ = squares()
                image[0, 0, 0] = 2 * number + index
                save(root / folder.format(split=split) / f"{2 * number + index}.png", image)
            write_text(root / file.format(split=split), json.dumps(coco_content(2 * number, encode)))

    return write


def write_label_studio(root):
    """Polygons as its JSON export has them, in percent."""
    tasks = []
    for index in range(4):
        image, _ = squares()
        image[:8, 20:30, 0] = 20 * index
        save(root / f"images/photo{index}.png", image)
        result = [
            {"id": "x", "type": "polygonlabels", "original_width": SIDE, "original_height": SIDE, "from_name": "label",
             "value": {"points": [[100 * x / SIDE, 100 * y / SIDE] for x, y in corners(box)], "closed": True,
                       "polygonlabels": [OBJECTS[label]]}}
            for label, box in SQUARES
        ]  # fmt: skip
        address = f"/data/upload/1/0a1b2c3d-photo{index}.png"
        tasks.append({"id": index, "data": {"image": address}, "annotations": [{"id": 1, "result": result}]})
    write_text(root / "project-1.json", json.dumps(tasks))


def write_brushes(root):
    """The same tasks with brushes, in the run lengths of Label Studio's own converter."""
    brush = pytest.importorskip("label_studio_sdk.converter.brush")
    write_label_studio(root)
    tasks, labels = json.loads((root / "project-1.json").read_text()), squares()[1]
    for task in tasks:
        size = {"original_width": SIDE, "original_height": SIDE}
        task["annotations"][0]["result"] = [
            {**size, "type": "brushlabels", "value": {"format": "rle", "brushlabels": [OBJECTS[label]],
             "rle": brush.mask2rle(np.where(labels == label, 255, 0).astype(np.uint8))}}
            for label, _ in SQUARES
        ]  # fmt: skip
    write_text(root / "project-1.json", json.dumps(tasks))


def write_hub(root):
    """A data set of the Hub, in a folder, as `datasets` writes it."""
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    scenes = [tuple(map(Image.fromarray, scene(index))) for index in range(5)]
    columns = {name: [each[position] for each in scenes] for position, name in enumerate(("image", "label"))}
    features = datasets.Features({name: datasets.Image() for name in columns})
    (root / "data").mkdir()
    table = datasets.Dataset.from_dict(columns, features=features)
    table.to_parquet(root / "data/train-00000-of-00001.parquet")


OBJECTS = ("background", "ant", "bee", "cow")
UNNAMED = tuple(f"class {index}" for index in range(4))
NAMES_OF_KIND = {"folder": UNNAMED, **{kind: LABELS[kind] for kind in ("ade20k", "cityscapes", "camvid")}}
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
        ({"flat": ["raod"]}, "there is no class 'raod'"),
        ({"flat": [300]}, "300 is no label value"),
        ({"a": ["road"], "b": [7]}, "7 belongs to 'a' and to 'b'"),
        ({}, "must be an object"),
    ):
        with pytest.raises(ValueError, match=message):
            find_dataset("cityscapes", tmp_path, class_of_value=wrong)


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
