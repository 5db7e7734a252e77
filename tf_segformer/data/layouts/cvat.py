"""CVAT's "Segmentation mask 1.1": a tree like Pascal VOC's with RGB masks and labelmap.txt."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tf_segformer.data.layouts.layout import Layout, read_lines
from tf_segformer.data.layouts.public import voc_splits
from tf_segformer.errors import DatasetError


def is_cvat(root: Path) -> bool:
    """Whether a folder has CVAT's list of colors next to the masks."""
    return (root / "labelmap.txt").is_file() and (root / "SegmentationClass").is_dir()


def find_cvat(root: Path) -> Layout:
    """Classes and colors of labelmap.txt; the splits of the lists in ImageSets, where these are splits."""
    if not is_cvat(root):
        return Layout({})
    names, palette = _read_label_map(root / "labelmap.txt")
    return Layout(voc_splits(root), names, palette=palette)


def _read_label_map(path: Path) -> tuple[tuple[str, ...], np.ndarray]:
    """Names and colors (K, 3) of lines `name:red,green,blue:parts:actions`."""
    names, colors = [], []
    for line in read_lines(path):
        fields = line.rsplit(":", 3)
        try:
            color = [int(level) for level in fields[1].split(",")]
            if len(color) != 3 or not all(0 <= level <= 255 for level in color):
                raise ValueError("no color")
        except (ValueError, IndexError) as error:
            raise DatasetError(f"{path}: {line[:100]!r} is not name:red,green,blue::") from error
        names.append(fields[0])
        colors.append(color)
    if not names or len({tuple(color) for color in colors}) < len(colors):
        raise DatasetError(f"{path}: needs classes, each with a color of its own")
    return tuple(names), np.array(colors, np.uint8)
