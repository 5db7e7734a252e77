"""Roboflow's "semantic segmentation masks": image, mask and _classes.csv in the folder of each split."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from tf_segformer.data.examples import IGNORE_INDEX
from tf_segformer.data.layouts.layout import IDENTITY, Layout, read_lines, split_folders
from tf_segformer.data.layouts.pairs import find_pairs
from tf_segformer.errors import DatasetError

_CLASSES = "_classes.csv"
_NO_CLASS = 254  # the checks reject it


def is_roboflow(root: Path) -> bool:
    """Whether a split, or the folder itself, has Roboflow's list of classes."""
    return any((folder / _CLASSES).is_file() for folder in (root, *split_folders(root).values()))


def find_roboflow(root: Path) -> Layout:
    """The pairs of train and valid; names and values of _classes.csv."""
    folders = [folder for folder in (root, *split_folders(root).values()) if (folder / _CLASSES).is_file()]
    if not folders:
        return Layout({})
    tables = {folder: _read_classes(folder / _CLASSES) for folder in folders}
    values = next(iter(tables.values()))
    if any(table != values for table in tables.values()):
        raise DatasetError(f"{root}: the files {_CLASSES} of the splits differ; export the dataset again")
    class_of_value = np.where(IDENTITY == IGNORE_INDEX, IGNORE_INDEX, _NO_CLASS)
    for index, value in enumerate(values):
        class_of_value[value] = index
    return Layout(find_pairs(root), tuple(values.values()), class_of_value)


def _read_classes(path: Path) -> dict[int, str]:
    """Class name by pixel value, in the order of the values."""
    try:
        rows = list(csv.reader(read_lines(path), skipinitialspace=True))
        found = {int(row[0]): row[1].strip() for row in rows if row[0].strip().isdecimal()}
    except IndexError as error:
        raise DatasetError(f"{path}: a row without a class name") from error
    except (csv.Error, ValueError) as error:
        raise DatasetError(f"{path}: no readable table ({error})") from error
    if not found or max(found) > 255:
        raise DatasetError(f"{path}: needs rows of a pixel value from 0 to 255 and a class name")
    return dict(sorted(found.items()))
