"""The two splits of a dataset, whether it holds files or TFRecord shards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tf_segformer.data.datasets import SPLITS, find_splits
from tf_segformer.data.examples import LabelledDataset


def open_splits(
    kind: str | None,
    root: str | Path,
    class_names: Sequence[str] | None = None,
    palette: Sequence[Sequence[int]] | None = None,
    **options: Any,
) -> tuple[LabelledDataset, LabelledDataset]:
    """Finds both splits of a dataset.

    Args:
        kind: One of `KINDS`, or None to find it out; of no meaning for shards, which know their classes.
        root: The dataset's folder, the folder with the shards that `tf-segformer train --write-tfrecords` wrote, or
            "hf://owner/name" for a dataset of the Hugging Face Hub.
        class_names: Class names, where no file of the folder names them.
        palette: Colors of RGB label files, one per class, for "folder".
        **options: `class_of_value`, `images`, `labels`, `val_fraction` and `seed` of `find_dataset`.

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
    if all((Path(root) / split / "shards.json").is_file() for split in SPLITS):
        from tf_segformer.data.tfrecords import open_tfrecords  # imports TensorFlow

        if options.get("class_of_value") is not None:
            raise ValueError(f"{root}: shards hold classes, not label values: give class_of_value when writing them")
        return open_tfrecords(Path(root) / "train"), open_tfrecords(Path(root) / "val")
    files = find_splits(kind, root, class_names, palette, **options)
    return files("train"), files("val")
