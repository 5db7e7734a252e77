"""The two splits of a dataset, whether it holds files or TFRecord shards; the one on which a model is measured."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tf_segformer.data.datasets import SPLITS, SegmentationDataset, find_dataset, find_splits
from tf_segformer.data.examples import LabelledDataset
from tf_segformer.data.hugging_face import PREFIX
from tf_segformer.data.kinds import detect_kind
from tf_segformer.data.layouts.layout import class_names_in
from tf_segformer.errors import DatasetError
from tf_segformer.imaging.labels import LABELS


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


def find_dataset_of_model(
    model_names: Sequence[str],
    root: str | Path,
    kind: str | None = None,
    split: str | None = None,
    **options: Any,
) -> SegmentationDataset:
    """Finds the images and labels on which a model is measured: its classes are the model's.

    Args:
        model_names: The model's class names by index; they name the classes of a folder that has no names of its own.
        root: The dataset's folder, or "hf://owner/name" for a dataset of the Hugging Face Hub.
        kind: One of `KINDS`, or None to find it out; a folder is "camvid" where the model has its classes.
        split: "train" or "val"; None takes "val", and every image of a folder without splits.
        **options: Further arguments of `find_dataset`.

    Returns:
        The dataset; a class that has another name in the model than in the dataset is a warning.

    Raises:
        DatasetError: The folder does not exist, has another layout, is empty, or has another number of classes.
        ValueError: An unknown kind or split, or class names that do not fit.

    Example:
        >>> from tf_segformer.imaging.labels import LABELS
        >>> find_dataset_of_model(LABELS["camvid"], "CamVid").name
        'camvid/val'
    """
    if split is None:
        split, options["val_fraction"] = "val", 1.0
    names = [name.strip() for name in model_names]
    layout = kind or ("hf" if str(root).startswith(PREFIX) else detect_kind(root))
    is_camvid = [name.lower() for name in names] == [name.lower() for name in LABELS["camvid"]]
    if layout == "folder" and kind is None and is_camvid:
        layout = kind = "camvid"
    named = any(options.get(key) for key in ("class_names", "class_of_value", "palette")) or class_names_in(Path(root))
    if layout in ("folder", "binary", "hf") and not named:
        options["class_names"] = tuple(model_names)
    dataset = find_dataset(kind, root, split, **options)
    kind = dataset.name.partition("/")[0]
    if dataset.num_labels != len(names):
        raise DatasetError(f"{root}: {kind} has {dataset.num_labels} classes, the model {len(names)}: they must agree")
    pairs = zip(dataset.class_names, names, strict=True)
    differing = [(theirs, ours) for theirs, ours in pairs if theirs.lower() != ours.lower()]
    if differing:
        warnings.warn(
            f"{len(differing)} of {len(names)} classes have other names in the dataset than in the model, such as "
            f"{differing[0][0]!r} and {differing[0][1]!r}",
            stacklevel=2,
        )
    return dataset
