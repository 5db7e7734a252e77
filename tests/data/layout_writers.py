"""Small datasets in the form that each tool writes, for the tests of layouts."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tests.training.scenes import NAMES, make_scene
from tf_segformer.imaging.labels import LABELS

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
