"""The kind of a dataset by its folders, and its two splits, whether it holds files or TFRecord shards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tf_segformer.data.datasets import LabelledDataset, find_dataset
from tf_segformer.imaging.labels import LABELS

SPLITS = ("train", "val")
_KIND_OF_FOLDER = {"leftImg8bit": "cityscapes", "annotations": "ade20k", "SegmentationClass": "voc"}


def detect_kind(root: str | Path, class_names: Sequence[str]) -> str:
    """The kind of a dataset: by a folder that only this kind has; CamVid, which has none, by the class names.

    Args:
        root: The dataset's folder.
        class_names: The model's class names.

    Returns:
        A key of `datasets.KINDS`; "folder" where nothing speaks for another.

    Example:
        >>> detect_kind("my-dataset", ["sky", "road"])
        'folder'
    """
    found = next((kind for folder, kind in _KIND_OF_FOLDER.items() if Path(root, folder).is_dir()), None)
    names = [name.strip().lower() for name in class_names]
    return found or ("camvid" if names == [name.lower() for name in LABELS["camvid"]] else "folder")


def open_splits(
    kind: str,
    root: str | Path,
    class_names: Sequence[str] | None = None,
    palette: Sequence[Sequence[int]] | None = None,
) -> tuple[LabelledDataset, LabelledDataset]:
    """Finds both splits of a dataset.

    Args:
        kind: One of `datasets.KINDS`; of no meaning for shards, which know their classes.
        root: The dataset's folder, or the folder with the shards that `tf-segformer train --write-tfrecords` wrote.
        class_names: Class names, needed for "folder".
        palette: Colors of RGB label files, one per class, for "folder".

    Returns:
        The training and the validation split.

    Raises:
        DatasetError: The folder does not exist, has another layout, or is empty.
        ValueError: An unknown kind, or class names that do not fit.

    Example:
        >>> train_data, val_data = open_splits("camvid", "CamVid")
        >>> train_data.name, val_data.size
        ('camvid/train', 2)
    """
    return tuple(_open_split(kind, Path(root), split, class_names, palette) for split in SPLITS)  # type: ignore[return-value]


def _open_split(
    kind: str,
    root: Path,
    split: str,
    class_names: Sequence[str] | None,
    palette: Sequence[Sequence[int]] | None,
) -> LabelledDataset:
    """One split, from its shards where there are some."""
    if (root / split / "shards.json").is_file():
        from tf_segformer.data.tfrecords import open_tfrecords  # imports TensorFlow

        return open_tfrecords(root / split)
    return find_dataset(kind, root, split, class_names, palette)
