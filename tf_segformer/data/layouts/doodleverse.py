"""Doodleverse's samples: image and one-hot labels in one .npz file each, as Segmentation Gym's make_dataset writes."""

from __future__ import annotations

import zipfile
from pathlib import Path

from tf_segformer.data.examples import Example
from tf_segformer.data.layouts.layout import SPLIT_FOLDERS, UNDIVIDED, Layout, class_names_in, files_with
from tf_segformer.imaging.arrays import IMAGE_KEYS, LABEL_KEYS
from tf_segformer.io import open_zip

_FOLDERS = {  # train_data/train_npzs/*.npz and val_data/val_npzs/*.npz, or folders with the splits' plain names
    split: {*names, *(f"{name}_data" for name in names), *(f"{name}_npzs" for name in names)}
    for split, names in SPLIT_FOLDERS.items()
}


def is_doodleverse(root: Path) -> bool:
    """Whether a folder's first .npz file holds an image and its labels.

    Args:
        root: The dataset's folder.

    Returns:
        False where there is none.

    Example:
        >>> is_doodleverse(Path("CamVid"))
        False
    """
    first = next((path for path in sorted(root.rglob("*.npz")) if path.is_file()), None)
    return first is not None and _holds_both(first)


def find_doodleverse(root: Path) -> Layout:
    """The samples of a folder, by the folders of their splits.

    Args:
        root: Folder with train_data/train_npzs/*.npz and val_data/val_npzs/*.npz, or {train,val}/*.npz, or *.npz.

    Returns:
        The samples, each of which is image and labels; files that hold one of them only are left out.

    Example:
        >>> find_doodleverse(Path("CamVid")).splits
        {}
    """
    splits: dict[str, list[Example]] = {}
    for path in files_with(root, [".npz"]):
        if _holds_both(path):
            splits.setdefault(_split_of(path.relative_to(root)), []).append(Example(path, path))
    if len(splits) > 1:
        splits.pop(UNDIVIDED, None)  # tests, or originals of augmented copies
    return Layout(splits, class_names_in(root))


def _split_of(path: Path) -> str:
    """The split that one of the folders of a path names."""
    folders = {part.lower() for part in path.parent.parts}
    return next((split for split, names in _FOLDERS.items() if folders & names), UNDIVIDED)


def _holds_both(path: Path) -> bool:
    """Whether a .npz file has an array of each kind."""
    try:
        with open_zip(path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile):
        return False
    return bool(names & set(IMAGE_KEYS)) and bool(names & set(LABEL_KEYS))
