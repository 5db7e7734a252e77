"""Polygons as label values: YOLO's text files and LabelMe's JSON files, each next to an image."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tf_segformer.data.examples import IGNORE_INDEX, Example
from tf_segformer.data.layouts.layout import (
    IMAGE_SUFFIXES,
    UNDIVIDED,
    Layout,
    class_names_in,
    files_with,
    is_image_size,
    is_inside,
    read_annotations,
    read_lines,
    split_folders,
    with_background,
)
from tf_segformer.errors import DatasetError, ImageError
from tf_segformer.imaging.drawing import fill_circle, fill_polygon
from tf_segformer.imaging.files import open_image, open_label_map
from tf_segformer.io import read_text

_IGNORED_NAMES = ("__ignore__", "ignore")
_MAX_YAML_BYTES = 2**18  # that of Objects365 has 10 KB


# YOLO: images/train/x.jpg and labels/train/x.txt, or train/images and train/labels; data.yaml has the names.


def is_yolo(root: Path) -> bool:
    """Whether a folder has label files of text."""
    return bool(_yolo_folders(root)) and _yolo_names(root) != ()


def find_yolo(root: Path) -> Layout:
    """Names of data.yaml or classes.txt, on a background that is class 0."""
    names = _yolo_names(root)
    splits = {
        split: [
            Example(path, labels / path.relative_to(images).with_suffix(".txt"))
            for path in files_with(images, IMAGE_SUFFIXES)
        ]
        for split, (images, labels) in _yolo_folders(root).items()
    }
    ground = "background" if "background" not in names else "no object"
    return Layout(splits, (ground, *names) if splits else (), read_values=partial(_read_yolo, len(names)))


def _yolo_folders(root: Path) -> dict[str, tuple[Path, Path]]:
    """Folders of images and of text labels by split."""
    inside = {split: (folder / "images", folder / "labels") for split, folder in split_folders(root).items()}
    below = {split: (folder, root / "labels" / folder.name) for split, folder in split_folders(root / "images").items()}
    found = inside or below or {UNDIVIDED: (root / "images", root / "labels")}
    return {
        split: (images, labels)
        for split, (images, labels) in found.items()
        if images.is_dir() and labels.is_dir() and next(labels.rglob("*.txt"), None) is not None
    }


def _yolo_names(root: Path) -> tuple[str, ...]:
    """The object names of data.yaml (or another .yaml with `names`), or of classes.txt."""
    for path in sorted(root.glob("*.y*ml")):
        try:
            content = _read_yaml(path)
        except Exception as error:  # PyYAML raises several kinds on hostile values
            raise DatasetError(f"{path}: no readable YAML ({' '.join(str(error).split())})") from error
        names = content.get("names") if isinstance(content, dict) else None
        if isinstance(names, dict):
            names = [names.get(index) for index in range(len(names))]
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            return tuple(names)
    return class_names_in(root) if any((root / name).is_file() for name in ("classes.txt",)) else ()


def _read_yaml(path: Path) -> Any:
    """The value of a YAML file; without aliases, of which a few lines can make gigabytes."""
    import yaml

    text = read_text(path, _MAX_YAML_BYTES)
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
        raise ValueError("it has aliases (*name)")
    return yaml.safe_load(text)


def _read_yolo(num_objects: int, image: Path, labels: Path) -> np.ndarray:
    """Label values (H, W): 0, or 1 and the number of the object; what comes later lies on top."""
    if not labels.is_file():
        raise ImageError(f"{labels}: there is no such file; an image without objects needs an empty one")
    width, height = open_image(image).size
    shapes = []
    for number, line in enumerate(read_lines(labels), 1):
        try:
            index, *numbers = [float(part) for part in line.split()]
            if not all(map(math.isfinite, [index, *numbers])):
                raise ValueError("not finite")
        except ValueError as error:
            raise ImageError(f"{labels}: line {number} holds no numbers") from error
        if len(numbers) == 4:
            raise ImageError(f"{labels}: boxes are no segmentation; export polygons (line {number} is a box)")
        if len(numbers) < 6 or len(numbers) % 2 or not 0 <= index < num_objects or index != int(index):
            raise ImageError(f"{labels}: line {number} is no object of 0 to {num_objects - 1} with a polygon")
        points = [(x * width, y * height) for x, y in zip(numbers[::2], numbers[1::2], strict=True)]
        shapes.append((int(index) + 1, partial(fill_polygon, points=points)))
    return _filled(width, height, shapes, labels)


# LabelMe: x.json next to x.jpg.


def is_labelme(root: Path) -> bool:
    """Whether the first JSON file of a folder is one of LabelMe."""
    return any(_is_labelme_file(path) for path in _first_jsons(root))


def _first_jsons(root: Path) -> list[Path]:
    return [found for folder in (root, *split_folders(root).values()) for found in sorted(folder.glob("*.json"))[:1]]


def _is_labelme_file(path: Path) -> bool:
    content = read_annotations(path)
    return isinstance(content, dict) and isinstance(content.get("shapes"), list) and "imagePath" in content


def find_labelme(root: Path) -> Layout:
    """Names of labels.txt, or of all shapes in alphabetical order; pixels of no shape are the background, class 0."""
    folders = split_folders(root) or {UNDIVIDED: root}
    files = {split: files_with(folder, [".json"]) for split, folder in folders.items()}
    contents = {path: read_annotations(path) for paths in files.values() for path in paths}
    contents = {path: value for path, value in contents.items() if isinstance(value, dict) and "shapes" in value}
    used = sorted({str(shape.get("label")) for value in contents.values() for shape in _shapes(value)})
    names = with_background(class_names_in(root) or [name for name in used if name not in _IGNORED_NAMES])
    splits = {
        split: [Example(_image_of(path, contents[path]), path) for path in paths if path in contents]
        for split, paths in files.items()
    }
    return Layout(splits, names if contents else (), read_values=partial(_read_labelme, names))


def _shapes(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    shapes = content["shapes"]
    return [shape for shape in shapes if isinstance(shape, dict)] if isinstance(shapes, list) else []


def _image_of(path: Path, content: Mapping[str, Any]) -> Path:
    """The image next to the JSON file: of the name in it, or of the file's own."""
    name = str(content.get("imagePath") or "").replace("\\", "/").rpartition("/")[2]
    name = name if is_inside(name) else ""
    candidates = [path.parent / name, *(path.with_suffix(suffix) for suffix in IMAGE_SUFFIXES)]
    return next((each for each in candidates if name and each.is_file()), candidates[0 if name else 1])


def _read_labelme(names: tuple[str, ...], image: Path, labels: Path) -> np.ndarray:
    """Label values (H, W) in the order of LabelMe's own converter: what comes later lies on top."""
    content = read_annotations(labels)
    width, height = content.get("imageWidth"), content.get("imageHeight")
    if not is_image_size(width, height):
        raise ImageError(f"{labels}: no usable imageWidth and imageHeight ({width}, {height})")
    shapes = []
    for shape in _shapes(content):
        label = str(shape.get("label"))
        if label not in names and label not in _IGNORED_NAMES:
            raise ImageError(f"{labels}: the label {label!r} is none of {', '.join(names)}")
        value = IGNORE_INDEX if label in _IGNORED_NAMES else names.index(label)
        try:
            shapes.append((value, _labelme_shape(shape, max_pixels=width * height)))
        except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
            raise ImageError(f"{labels}: a shape of {label!r} that cannot be read ({error})") from error
    return _filled(width, height, shapes, labels)


def _labelme_shape(shape: Mapping[str, Any], max_pixels: int) -> Callable[..., None]:
    """What fills one shape."""
    points = [(float(x), float(y)) for x, y in shape["points"]]
    if not all(math.isfinite(number) for point in points for number in point):
        raise ValueError("a point that is not finite")
    kind = shape.get("shape_type") or "polygon"
    if kind in ("polygon", "oriented_rectangle"):
        return partial(fill_polygon, points=points)
    if kind == "rectangle":
        (left, top), (right, bottom) = points
        return partial(fill_polygon, points=[(left, top), (right, top), (right, bottom), (left, bottom)])
    if kind == "circle":
        (x, y), (edge_x, edge_y) = points
        return partial(fill_circle, x=x, y=y, radius=math.hypot(edge_x - x, edge_y - y))
    if kind == "mask":
        mask = open_label_map(base64.b64decode(shape["mask"], validate=True), max_pixels=max_pixels) > 0
        return partial(_fill_mask, mask=mask, left=round(points[0][0]), top=round(points[0][1]))
    raise ValueError(f"a {kind} has no area")


def _filled(width: int, height: int, shapes: Iterable[tuple[int, Callable[..., None]]], labels: Path) -> np.ndarray:
    """The label values (H, W) of shapes that lie on each other, on 0."""
    values = Image.new("L", (width, height))
    for value, fill in shapes:
        try:
            fill(values, value=value)
        except (ValueError, OverflowError) as error:
            raise ImageError(f"{labels}: a shape that cannot be filled ({error})") from error
    return np.asarray(values).astype(np.int32)


def _fill_mask(values: Image.Image, mask: np.ndarray, left: int, top: int, value: int) -> None:
    values.paste(value, (left, top), Image.fromarray(mask.astype(np.uint8) * 255))
