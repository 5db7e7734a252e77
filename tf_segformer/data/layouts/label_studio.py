"""Label Studio's JSON export: brushes, read by its own converter, and polygons."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tf_segformer.data.examples import Example
from tf_segformer.data.layouts.layout import (
    IMAGE_SUFFIXES,
    UNDIVIDED,
    Layout,
    files_with,
    is_image_size,
    is_inside,
    read_annotations,
    with_background,
)
from tf_segformer.errors import DatasetError, ImageError
from tf_segformer.imaging.drawing import fill_polygon

_KINDS = ("brushlabels", "polygonlabels")
_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio puts before the name of an uploaded file


def is_label_studio(root: Path) -> bool:
    """Whether a JSON file of the folder is a list of Label Studio's tasks."""
    return _export_file(root) is not None


def _export_file(root: Path) -> Path | None:
    return next((path for path in sorted(root.glob("*.json")) if _is_export(read_annotations(path))), None)


def _is_export(content: Any) -> bool:
    """Whether a value is a list of tasks with annotations."""
    is_list = isinstance(content, list) and bool(content)
    return is_list and all(isinstance(task, dict) and {"data", "annotations"} <= set(task) for task in content)


def find_label_studio(root: Path) -> Layout:
    """The images of the folder that the tasks name; label names in alphabetical order on a background, class 0."""
    file = _export_file(root)
    if file is None:
        return Layout({})
    images = {path.name: path for path in files_with(root, IMAGE_SUFFIXES)}
    examples, results, used = [], {}, set()
    try:
        for task in read_annotations(file):
            path = _image_of(task["data"], images, root)
            shapes = [result for annotation in task["annotations"][:1] for result in annotation["result"]]
            results[path] = [each for each in shapes if each.get("type") in _KINDS]
            used |= {_label_of(result) for result in results[path]}
            examples.append(Example(path, file))
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise DatasetError(f"{file}: an export of Label Studio without {error}") from error
    names = with_background(sorted(used))
    return Layout({UNDIVIDED: examples}, names if used else (), read_values=partial(_read_values, results, names))


def _label_of(result: Mapping[str, Any]) -> str:
    return str(result["value"][result["type"]][0])


def _image_of(data: Mapping[str, Any], images: Mapping[str, Path], root: Path) -> Path:
    """The file that a task's address names, with or without the prefix of an upload."""
    addresses = [value for value in data.values() if isinstance(value, str)]
    names = [value.split("?d=")[-1].rpartition("/")[2] for value in addresses]
    names = [each for name in names for each in (name, _UPLOAD_PREFIX.sub("", name))]
    found = next((images[name] for name in names if name in images), None)
    return found or root / (next(filter(is_inside, names), "image"))


def _read_values(results: Mapping[Path, Any], names: tuple[str, ...], image: Path, labels: Path) -> np.ndarray:
    """Label values (H, W); what comes later lies on top."""
    if not results[image]:
        raise ImageError(f"{labels}: {image.name} has no brush and no polygon; annotate it or remove its task")
    values: Image.Image | None = None
    for result in results[image]:
        width, height = result.get("original_width"), result.get("original_height")
        if not is_image_size(width, height):
            raise ImageError(f"{labels}: no usable size of {image.name} ({width}, {height})")
        values = values or Image.new("L", (width, height))
        value = names.index(_label_of(result))
        try:
            if result["type"] == "polygonlabels":
                points = [(float(x) * width / 100, float(y) * height / 100) for x, y in result["value"]["points"]]
                fill_polygon(values, points, value)
            else:
                values.paste(value, (0, 0), Image.fromarray(_decode_brush(result["value"], width, height)))
        except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
            raise ImageError(f"{labels}: a result of {image.name} that cannot be read ({error})") from error
    return np.asarray(values).astype(np.int32)


def _decode_brush(value: Mapping[str, Any], width: int, height: int) -> np.ndarray:
    """Opacity (H, W) uint8 of one brush."""
    try:
        from label_studio_sdk.converter.brush import decode_rle
    except ImportError as error:
        raise ImportError(
            "brushes of Label Studio need its converter: pip install 'tf_segformer[label-studio]'; or export COCO"
        ) from error
    encoded = bytes(list(value["rle"]))  # not the number of bytes that are all zero
    if int.from_bytes(encoded[:4], "big") != width * height * 4:
        raise ValueError("run lengths of another size than the image")
    return np.ascontiguousarray(np.reshape(decode_rle(encoded), (height, width, 4))[..., 3])
