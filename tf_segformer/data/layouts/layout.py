"""What the reader of a layout finds, and what several readers share: splits, lists of names, class names, paths."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from tf_segformer.data.examples import Example
from tf_segformer.errors import DatasetError
from tf_segformer.imaging.files import MAX_PIXELS
from tf_segformer.imaging.labels import BACKGROUND_NAMES
from tf_segformer.io import read_json, read_text

UNDIVIDED = "undivided"
SPLIT_FOLDERS = {"train": ("train", "training"), "val": ("val", "valid", "validation")}
"""What tools call the two splits, in any case."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".jp2", ".npy", ".npz")
LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".npy", ".npz")
MAX_ANNOTATION_BYTES = 4 << 30  # instances_train2017.json has 450 MB

_LONGEST_NAME, _LONGEST_PATH = 255, 1024  # bytes and characters that file systems take

IDENTITY = np.arange(256)
IDENTITY.flags.writeable = False


@dataclass(frozen=True)
class Layout:
    """The files of a dataset and what their label values mean.

    Args:
        splits: The pairs of "train" and "val", or all under `UNDIVIDED`; a missing partner is a path that does not
            exist, for the checks to report.
        class_names: Class names by index; none where the folder does not say.
        class_of_value: Class of each label value 0..255.
        palette: Colors (K, 3) of RGB label files.
        read_values: Function of the paths of image and labels that gives the label values (H, W); None for files that
            hold them.

    Example:
        >>> Layout({UNDIVIDED: [Example(Path("a.jpg"), Path("a.png"))]}).class_names
        ()
    """

    splits: Mapping[str, Sequence[Example]]
    class_names: tuple[str, ...] = ()
    class_of_value: np.ndarray = field(default_factory=lambda: IDENTITY)
    palette: np.ndarray | None = None
    read_values: Callable[[Path, Path], np.ndarray] | None = None


def split_folders(parent: Path) -> dict[str, Path]:
    """The folders of the splits.

    Args:
        parent: Folder that may hold some of `SPLIT_FOLDERS`.

    Returns:
        Folder by split; empty where there is none.

    Example:
        >>> sorted(split_folders(Path("CamVid")))
        ['train', 'val']
    """
    if not parent.is_dir():
        return {}
    folders = {path.name.lower(): path for path in sorted(parent.iterdir()) if path.is_dir()}
    found = {
        split: next((folders[name] for name in names if name in folders), None)
        for split, names in SPLIT_FOLDERS.items()
    }
    return {split: path for split, path in found.items() if path is not None}


def split_of(name: str) -> str | None:
    """The split that a tool's name of a subset means.

    Args:
        name: Such as "Train" or "valid".

    Returns:
        "train", "val", or None for any other.

    Example:
        >>> split_of("Validation"), split_of("default")
        ('val', None)
    """
    return next((split for split, names in SPLIT_FOLDERS.items() if name.lower() in names), None)


def files_with(folder: Path, suffixes: Iterable[str]) -> list[Path]:
    """All files with one of the endings, below a folder too, in the order of their paths.

    Args:
        folder: Where to look; hidden folders and files are left out.
        suffixes: Endings in lower case.

    Returns:
        The paths.

    Example:
        >>> len(files_with(Path("CamVid/val"), [".png"]))
        4
    """
    wanted = set(suffixes)
    found = (path for path in folder.rglob("*") if path.suffix.lower() in wanted and path.is_file())
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def listed_names(listing: Path) -> list[str]:
    """The names in a list of files, one per line, none of which leads out of its folder.

    Args:
        listing: Text file; what follows two spaces or a tab is left out.

    Returns:
        The names, which may have folders.

    Raises:
        DatasetError: No readable list, or a name that leads out.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "train.txt").write_text("2007_1\\n2007_2\\n")
        ...     listed_names(Path(folder, "train.txt"))
        ['2007_1', '2007_2']
    """
    names = [re.split(r"\t|  ", line.strip())[0] for line in read_lines(listing)]
    outside = next((name for name in names if not is_inside(name)), None)
    if outside is not None:
        raise DatasetError(f"{listing}: {outside[:100]!r} is not the name of a file without its ending")
    return names


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are neither empty nor comments.

    Args:
        path: UTF-8 file.

    Returns:
        The lines without outer spaces.

    Raises:
        DatasetError: No readable text.

    Example:
        >>> read_lines(Path("none.txt"))
        Traceback (most recent call last):
        tf_segformer.errors.DatasetError: none.txt: not a readable list of names ([Errno 2] No such file or directory:
        'none.txt')
    """
    try:
        lines = [line.strip() for line in read_text(path).splitlines()]
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: not a readable list of names ({error})") from error
    return [line for line in lines if line and not line.startswith("#")]


def read_annotations(path: Path) -> Any:
    """The value of an annotation tool's JSON file.

    Args:
        path: The file.

    Returns:
        Its value.

    Raises:
        DatasetError: No readable JSON.

    Example:
        >>> read_annotations(Path("none.json"))
        Traceback (most recent call last):
        tf_segformer.errors.DatasetError: none.json: no readable annotations ([Errno 2] No such file or directory:
        'none.json')
    """
    try:
        return read_json(path, MAX_ANNOTATION_BYTES)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: no readable annotations ({error})") from error


def is_inside(name: Any) -> bool:
    """Whether a path from a file stays in the folder that it is relative to.

    Args:
        name: The value.

    Returns:
        False for what is no text, absolute paths, paths with "..", and names that no file can have.

    Example:
        >>> [is_inside(name) for name in ("a/b.jpg", "../b.jpg", "/b.jpg", "")]
        [True, False, False, False]
    """
    if not isinstance(name, str) or not name.strip() or "\0" in name or "\\" in name or ":" in name[:2]:
        return False
    path = PurePosixPath(name)
    try:
        longest = max((len(part.encode()) for part in path.parts), default=0)
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can write
        return False
    fits = longest <= _LONGEST_NAME and len(name) <= _LONGEST_PATH
    return fits and not path.is_absolute() and ".." not in path.parts and not path.name.startswith(".")


def is_image_size(width: Any, height: Any) -> bool:
    """Whether two values from a file are the sides of an image within the limit.

    Args:
        width: The first value.
        height: The second.

    Returns:
        False for what is no whole number from 1, and for more than `MAX_PIXELS` together.

    Example:
        >>> [is_image_size(*size) for size in ((4, 3), (0, 3), (True, 3), (10**6, 10**6))]
        [True, False, False, False]
    """
    whole = all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in (width, height))
    return whole and width * height <= MAX_PIXELS


def with_background(names: Iterable[str]) -> tuple[str, ...]:
    """Class names of objects on a background, which is class 0.

    Args:
        names: Names of the objects, in order.

    Returns:
        "background" and the names; where one of them is a background already, that one first.

    Example:
        >>> with_background(["car", "tree"])
        ('background', 'car', 'tree')
    """
    known = [name for name in names if name.lower() in BACKGROUND_NAMES]
    return (*(known[:1] or ["background"]), *(name for name in names if name not in known[:1]))


def class_names_in(root: Path) -> tuple[str, ...]:
    """The class names of a file that names them.

    Args:
        root: Folder with classes.txt, class_names.txt or labels.txt (one per line), or classes.json, id2label.json (a
            list, or names by index).

    Returns:
        The names; none where there is no such file.

    Raises:
        DatasetError: The file cannot be read.

    Example:
        >>> class_names_in(Path("CamVid"))
        ()
    """
    for name in ("classes.txt", "class_names.txt", "labels.txt"):
        if (root / name).is_file():
            return tuple(line for line in read_lines(root / name) if line != "__ignore__")
    for name in ("classes.json", "id2label.json"):
        if (root / name).is_file():
            return _names_of_json(root / name, read_annotations(root / name))
    return ()


def _names_of_json(path: Path, value: Any) -> tuple[str, ...]:
    """A list of names, or an object of names by index."""
    if isinstance(value, Mapping) and all(isinstance(key, str) and key.isdecimal() for key in value):
        value = [value.get(str(index)) for index in range(len(value))]
    if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
        raise DatasetError(f"{path}: must be a list of class names, or an object of names by index from 0")
    return tuple(value)
