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
    is_image_size,
    is_inside,
    read_annotations,
    split_folders,
    with_background,
)
from tf_segformer.errors import DatasetError, ImageError
from tf_segformer.requirements import import_extra

_FARTHEST = 1e6  # pixels
_LONGEST_OUTLINE, _LONGEST_OUTLINES = 1e6, 2e7  # pixels of a polygon, of an image: pycocotools takes steps of a fifth
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
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
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
        raise DatasetError(f"{file}: {name[:100]!r} leads out of the dataset's folder, or no file can have it")
    stem = file.stem.removeprefix("instances_")  # instances_train2017.json: the images are in train2017
    folders = [file.parent, root / "images" / stem, root / "images", root / stem, root / "data", root]
    return next((folder / name for folder in folders if (folder / name).is_file()), file.parent / name)


def _read_values(records: Mapping[Path, Any], image: Path, labels: Path) -> np.ndarray:
    """Label values (H, W) of one image: the class of the object, 0 where there is none."""
    import_extra("pycocotools", "coco", "a COCO annotation")
    from pycocotools import mask

    height, width, shapes = records[image]
    if not is_image_size(width, height):
        raise ImageError(f"{labels}: no usable height and width of {image.name} ({height}, {width})")
    values, outlines = np.zeros((height, width), np.int32), 0.0
    for index, segmentation in shapes:
        try:
            if isinstance(segmentation, list):
                outlines += sum(map(_outline, segmentation))
                if outlines > _LONGEST_OUTLINES:
                    raise ValueError(f"its polygons are together longer than {_LONGEST_OUTLINES:.0f} pixels")
                encoded = mask.merge(mask.frPyObjects(segmentation, height, width))
                pixels = mask.decode(encoded).astype(bool)
            else:
                pixels = _decode_runs(segmentation, height, width)
        except Exception as error:  # pycocotools raises several kinds on hostile values
            raise ImageError(f"{labels}: an object of {image.name} that cannot be read ({error})") from error
        values[pixels] = index
    return values


def _outline(polygon: Any) -> float:
    """The length of a polygon of numbers x, y, x, y, ..., for which pycocotools takes memory and time, in pixels."""
    numbers = np.asarray(polygon)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iuf" or len(numbers) < 4 or len(numbers) % 2:
        raise ValueError("a polygon that is no list of pairs of numbers")
    points = numbers.reshape(-1, 2).astype(np.float64)
    length = np.abs(np.diff(points, axis=0, append=points[:1])).max(axis=1).sum()
    if not np.abs(points).max() < _FARTHEST or length > _LONGEST_OUTLINE:
        raise ValueError(f"a point far outside of the image, or an outline of more than {_LONGEST_OUTLINE:.0f} pixels")
    return float(length)


def _decode_runs(segmentation: Mapping[str, Any], height: int, width: int) -> np.ndarray:
    """Pixels (H, W) of run lengths: of pixels outside and inside by turns, column by column.

    pycocotools writes beyond its memory where a text ends within a number, and where lengths are absurd.
    """
    counts = segmentation["counts"]
    lengths = _decompressed(counts) if isinstance(counts, str) else np.asarray(counts)
    if list(segmentation["size"]) != [height, width]:
        raise ValueError(f"its size is {segmentation['size']}, the image's {[height, width]}")
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or lengths.min() < 0:
        raise ValueError("run lengths that are no whole numbers from 0")
    if lengths.max() > height * width or lengths.sum() != height * width:
        raise ValueError("run lengths of another size than the image")
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(width, height).T


def _decompressed(text: str) -> np.ndarray:
    """The run lengths of COCO's text: five bits a character and one that says whether more follow; from the fourth
    on, the difference to the last but one.
    """
    digits = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(digits < 32)
    sizes = np.diff(ends, prepend=-1)  # characters of each number
    if not len(ends) or ends[-1] != len(digits) - 1 or digits.min() < 0 or digits.max() > 63 or sizes.max() > 7:
        raise ValueError("run lengths that are damaged")
    starts = ends - sizes + 1
    places = np.arange(len(digits)) - np.repeat(starts, sizes)
    lengths = np.add.reduceat((digits & 31) << 5 * places, starts)
    lengths -= np.where(digits[ends] & 16, 1 << 5 * sizes, 0)  # negative ones
    lengths[1::2] = np.cumsum(lengths[1::2])
    lengths[2::2] = np.cumsum(lengths[2::2])
    return lengths
