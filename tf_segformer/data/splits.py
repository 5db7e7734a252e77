"""open_splits: the training and the validation split of a folder, whether it holds files or TFRecord shards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tf_segformer.data.datasets import LabelledDataset, find_dataset

SPLITS = ("train", "val")


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
