"""Which class a label value is: merged classes, masks of one object, and values of which nobody has said it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from tf_segformer.data.examples import IGNORE_INDEX, Example
from tf_segformer.data.layouts.layout import Layout
from tf_segformer.errors import DatasetError, ImageError
from tf_segformer.imaging.arrays import open_label_values

ClassMap = Mapping[str, "int | str | Sequence[int | str]"]
OBJECT_NAMES = ("background", "object")
BINARY = np.where(np.arange(256) == 0, 0, 1)
_MAP = "class_of_value (--map)"  # in Python and on the command line
_MOST_UNSEEN = 32  # class indices that may be missing among label values without a name
_FILES_LOOKED_AT = 1000


def merge_classes(
    classes: ClassMap, class_names: Sequence[str], class_of_value: np.ndarray
) -> tuple[tuple[str, ...], np.ndarray]:
    """Merges or drops classes.

    Args:
        classes: From each new class name, in order, to the label values or old class names that it takes; what it does
            not name is ignored.
        class_names: Old class names by index; may be empty.
        class_of_value: Old class of each label value 0..255.

    Returns:
        The new class names and the new class of each label value.

    Raises:
        ValueError: A value or name that does not exist, or that two classes take.

    Example:
        >>> names, table = merge_classes({"flat": ["road", 2], "sky": "sky"}, ["road", "sky"], np.arange(256))
        >>> names, table[:4].tolist()
        (('flat', 'sky'), [0, 1, 0, 255])
    """
    if not isinstance(classes, Mapping) or not classes:
        raise ValueError(f"{_MAP} must be an object from each new class name to label values or class names")
    table = np.full(256, IGNORE_INDEX)
    taken: dict[int, str] = {}
    for index, (name, members) in enumerate(classes.items()):
        if not isinstance(members, (int, str, Sequence)):
            raise ValueError(f"{_MAP}: {name!r} must have a label value, a class name, or a list of these")
        for member in [members] if isinstance(members, (int, str)) else members:
            for value in _values_of(member, class_names, class_of_value):
                if taken.setdefault(value, name) != name:
                    raise ValueError(f"{_MAP}: {member!r} belongs to {taken[value]!r} and to {name!r}")
                table[value] = index
    return tuple(classes), table


def _values_of(member: int | str, class_names: Sequence[str], class_of_value: np.ndarray) -> list[int]:
    """The label values of an old class, or one value."""
    if isinstance(member, str):
        if member not in class_names:
            known = ", ".join(class_names) or "none, so give label values"
            raise ValueError(f"{_MAP}: there is no class {member!r}; the old classes are {known}")
        return np.flatnonzero(class_of_value == list(class_names).index(member)).tolist()
    if isinstance(member, bool) or not isinstance(member, int) or not 0 <= member <= 255:
        raise ValueError(f"{_MAP}: {member!r} is no label value from 0 to 255 and no class name")
    return [member]


def values_in(examples: Iterable[Example], read: Callable[[Path], np.ndarray] = open_label_values) -> set[int]:
    """The label values of many files; files that cannot be read are left to the checks.

    Args:
        examples: The pairs; the first thousand are looked at.
        read: Reads the values of one file.

    Returns:
        All values that occur.

    Example:
        >>> sorted(values_in([Example(Path("a.jpg"), Path("labels/0001.png"))]))
        [1]
    """
    found: set[int] = set()
    for example in islice(examples, _FILES_LOOKED_AT):
        try:
            found.update(np.unique(read(example.labels)).tolist())
        except ImageError:
            continue
    return found


def infer_classes(root: Path, layout: Layout, *, as_values: bool = False) -> tuple[str, Layout]:
    """Classes of label files that no file names: background and object of a mask, or a number per class.

    Args:
        root: The dataset's folder, for messages.
        layout: Its pairs.
        as_values: Whether somebody said that the values are classes: then 255 is ignored, also next to 0 alone.

    Returns:
        The kind, "binary" or "folder", and the layout with class names.

    Raises:
        DatasetError: The values are too far apart to be class indices, or there are none, or none but 0 counts.

    Example:
        >>> kind, layout = infer_classes(
        ...     Path("x"), Layout({"train": [Example(Path("a.jpg"), Path("labels/0001.png"))]})
        ... )
        >>> kind, layout.class_names
        ('folder', ('class 0', 'class 1'))
    """
    values = values_in(example for examples in layout.splits.values() for example in examples)
    counted = values - {IGNORE_INDEX}
    if as_values and values == {0, IGNORE_INDEX}:
        raise DatasetError(
            f"{root}: the labels hold 0 and {IGNORE_INDEX} alone, and {IGNORE_INDEX} is ignored in the kind 'folder': "
            "if it is the object, kind='binary' (--kind binary); else name the classes (class_names, --class-names)"
        )
    if not as_values and values and values <= {0, IGNORE_INDEX}:
        return "binary", replace(layout, class_names=OBJECT_NAMES, class_of_value=BINARY)
    if not counted:
        raise DatasetError(f"{root}: no label file with class values can be read; give class_names (--class-names)")
    highest = max(counted)
    if highest >= IGNORE_INDEX or highest + 1 - len(counted) > _MOST_UNSEEN:
        shown = ", ".join(map(str, sorted(counted)[:8])) + (", ..." if len(counted) > 8 else "")
        raise DatasetError(
            f"{root}: the label values {shown} are no class indices; say which class each is (class_of_value, --map)"
        )
    return "folder", replace(layout, class_names=tuple(f"class {index}" for index in range(highest + 1)))
