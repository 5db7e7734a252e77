"""COCO's JSON: polygons and run lengths of objects, as Roboflow, CVAT, Label Studio and COCO itself write them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tf_segformer.data.examples import Example
from tf_segformer.data.layouts.layout import (
    SPLIT_FOLDERS,
    UNDIVIDED,
    Layout,
    is_inside,
    read_annotations,
    split_folders,
    with_background,
)
from tf_segformer.errors import DatasetError, ImageError
from tf_segformer.imaging.files import MAX_PIXELS

_FARTHEST = 1e6  # pixels
_KEYS = ("images", "annotations", "categories")


def is_coco(root: Path) -> bool:
    """Whether there is a COCO JSON where the tools put it."""
    return bool(_annotation_files(root))


def _annotation_files(root: Path) -> dict[str, Path]:
    """The JSON file of each split: in its folder (Roboflow), by its name (COCO), or the only one (CVAT)."""
    in_splits = {split: _first_coco(folder) for split, folder in split_folders(root).items()}
    found = {split: path for split, path in in_splits.items() if path is not None}
    if found:
        return found
    folders = [folder for folder in (root / "annotations", root) if folder.is_dir()]
    for split, names in SPLIT_FOLDERS.items():
        paths = [path for folder in folders for name in names for path in sorted(folder.glob(f"*{name}*.json"))]
        # instances_train2017.json, not captions or keypoints of the same images
        paths = [path for path in paths if path.name.lower().startswith(("instances", "_annotations", split))]
        chosen = next(filter(_is_coco_file, paths), None)
        if chosen is not None:
            found[split] = chosen
    if found:
        return found
    only = next((path for path in map(_first_coco, folders) if path is not None), None)
    return {} if only is None else {UNDIVIDED: only}


def _first_coco(folder: Path) -> Path | None:
    return next(filter(_is_coco_file, sorted(folder.glob("*.json"))), None)


def _is_coco_file(path: Path) -> bool:
    """Whether a JSON file has COCO's three lists."""
    content = read_annotations(path)
    return isinstance(content, dict) and all(isinstance(content.get(key), list) for key in _KEYS)


def find_coco(root: Path) -> Layout:
    """The categories on a background, which is class 0; smaller objects lie on top of larger ones."""
    files = _annotation_files(root)
    contents = {split: read_annotations(path) for split, path in files.items()}
    try:
        names = _class_names(list(contents.values()))
        index_of = {split: _class_of_category(content, names) for split, content in contents.items()}
        splits, records = {}, {}
        for split, content in contents.items():
            splits[split], found = _pairs(root, files[split], content, index_of[split])
            records.update(found)
    except (KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{root}: COCO annotations without {error}") from error
    return Layout(splits, names, read_values=partial(_read_values, records))


def _class_names(contents: list[dict[str, Any]]) -> tuple[str, ...]:
    """Names of the categories by their ids, without those that only group others."""
    used = {annotation["category_id"] for content in contents for annotation in content["annotations"]}
    categories = [category for content in contents for category in content["categories"]]
    groups = {category.get("supercategory") for category in categories}
    ranked = sorted(categories, key=lambda category: category["id"])
    kept = [str(each["name"]) for each in ranked if each["id"] in used or each["name"] not in groups]
    return with_background(dict.fromkeys(kept)) if kept else ()


def _class_of_category(content: dict[str, Any], names: tuple[str, ...]) -> dict[Any, int]:
    found = {category["id"]: category["name"] for category in content["categories"]}
    return {number: names.index(name) for number, name in found.items() if name in names}


def _pairs(
    root: Path, file: Path, content: dict[str, Any], class_of_category: Mapping[Any, int]
) -> tuple[list[Example], dict[Path, Any]]:
    """The images of one file, and what to rasterize for each: (height, width, [(class, segmentation)])."""
    shapes = defaultdict(list)
    for annotation in sorted(content["annotations"], key=lambda each: -float(each.get("area") or 0)):
        if annotation.get("segmentation"):
            found = class_of_category[annotation["category_id"]]
            shapes[annotation["image_id"]].append((found, annotation["segmentation"]))
    pairs, records = [], {}
    for image in sorted(content["images"], key=lambda each: str(each["file_name"])):
        path = _image_path(root, file, str(image["file_name"]))
        pairs.append(Example(path, file))
        records[path] = (image["height"], image["width"], shapes[image["id"]])
    return pairs, records


def _image_path(root: Path, file: Path, name: str) -> Path:
    """Where an image lies: next to the JSON file, or in one of the folders that tools make for images."""
    if not is_inside(name):
        raise DatasetError(f"{file}: {name[:100]!r} leads out of the dataset's folder")
    stem = file.stem.removeprefix("instances_")  # instances_train2017.json: the images are in train2017
    folders = [file.parent, root / "images" / stem, root / "images", root / stem, root / "data", root]
    return next((folder / name for folder in folders if (folder / name).is_file()), file.parent / name)


def _read_values(records: Mapping[Path, Any], image: Path, labels: Path) -> np.ndarray:
    """Label values (H, W) of one image: the class of the object, 0 where there is none."""
    mask = import_pycocotools()
    height, width, shapes = records[image]
    if not all(isinstance(side, int) and side > 0 for side in (height, width)) or height * width > MAX_PIXELS:
        raise ImageError(f"{labels}: no usable height and width of {image.name} ({height}, {width})")
    values = np.zeros((height, width), np.int32)
    for index, segmentation in shapes:
        try:
            values[_decode(mask, segmentation, height, width)] = index
        except Exception as error:  # pycocotools raises several kinds on hostile values
            raise ImageError(f"{labels}: an object of {image.name} that cannot be read ({error})") from error
    return values


def _decode(mask: Any, segmentation: Any, height: int, width: int) -> np.ndarray:
    """Pixels (H, W) of one object: polygons, run lengths, or compressed run lengths."""
    if isinstance(segmentation, list):
        if not all(np.abs(polygon).max() < _FARTHEST for polygon in segmentation):
            raise ValueError("a point far outside of the image")
        encoded = mask.merge(mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        encoded = mask.frPyObjects(segmentation, height, width)
    else:
        encoded = segmentation
    if list(encoded["size"]) != [height, width]:
        raise ValueError(f"its size is {encoded['size']}, the image's {[height, width]}")
    return mask.decode(encoded).astype(bool)


def import_pycocotools() -> Any:
    """pycocotools.mask.

    Raises:
        ImportError: It is not installed.
    """
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ImportError("COCO annotations need pycocotools: pip install 'tf_segformer[coco]'") from error
    return mask
