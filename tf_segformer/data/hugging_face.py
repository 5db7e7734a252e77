"""Datasets of the Hugging Face Hub: `hf://owner/name`, read with the library `datasets`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tf_segformer.data.classes import ClassMap, merge_classes
from tf_segformer.data.examples import IGNORE_INDEX, LabelledImage
from tf_segformer.data.images import find_image_type, read_image
from tf_segformer.data.layouts.layout import IDENTITY, split_of
from tf_segformer.errors import DatasetError, ImageError
from tf_segformer.imaging.bands import ImageType
from tf_segformer.imaging.files import open_label_map, open_stored

if TYPE_CHECKING:
    import tensorflow as tf

PREFIX = "hf://"
_IMAGE_COLUMNS = ("image", "pixel_values", "img")
_LABEL_COLUMNS = ("label", "annotation", "mask", "labels", "segmentation", "semantic_mask", "seg")


@dataclass(frozen=True)
class TableDataset:
    """One split of a table whose columns are images and label maps.

    Args:
        name: Kind and split, for messages.
        rows: The table in Arrow's format, whose images are encoded files.
        size: Number of rows.
        columns: Names of the columns of images and labels.
        class_names: Class names by index.
        class_of_value: Class of each label value 0..255.

    Example:
        >>> TableDataset("hf/train", [], 0, ("image", "label"), ("road",), IDENTITY).num_labels
        1
    """

    name: str
    rows: Any
    size: int
    columns: tuple[str, str]
    class_names: tuple[str, ...]
    class_of_value: np.ndarray

    @property
    def num_labels(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @cached_property
    def image_type(self) -> ImageType:
        """Bands and type of the images; see `find_image_type`."""
        return find_image_type(self._cell(index, self.columns[0]) for index in range(self.size))

    def __iter__(self) -> Iterator[LabelledImage]:
        """The examples, in the order of the rows."""
        for index in range(self.size):
            name = f"{self.name}[{index}]"
            image = partial(self._cell, index, self.columns[0])
            yield LabelledImage(
                name,
                name,
                lambda image=image: read_image(image(), self.image_type),  # type: ignore[misc]
                partial(self.read_labels, index),
                lambda image=image: open_stored(image()),  # type: ignore[misc]
            )

    def read_labels(self, index: int) -> np.ndarray:
        """The class indices (H, W) int32 of one row.

        Args:
            index: Number of the row.

        Returns:
            Classes and `IGNORE_INDEX`.

        Raises:
            ImageError: The cell is no label map, or holds values above 255.
        """
        values = open_label_map(self._cell(index, self.columns[1]))
        if values.min() < 0 or values.max() > 255:
            raise ImageError(f"{self.name}[{index}]: label values reach {values.max()}; classes must fit into 8 bits")
        return self.class_of_value[values].astype(np.int32)

    def _cell(self, index: int, column: str) -> bytes:
        """The encoded file of one cell."""
        cell = cell_of(self.rows, int(index), column)
        if not isinstance(cell, dict) or not cell.get("bytes"):
            raise ImageError(f"{self.name}[{index}]: the column {column!r} holds no image")
        return cell["bytes"]

    def records(self, seed: int | None = None, first: int = 0, last: int | None = None) -> tf.data.Dataset:
        """The examples as (number, row); see `LabelledDataset.records`."""
        import tensorflow as tf

        def row_of(number: Any) -> tuple[Any, Any]:
            index = number % self.size
            if seed is not None:
                key = tf.stack([tf.constant(seed, tf.int64), number // self.size])
                index = tf.random.experimental.index_shuffle(index, key, self.size - 1)
            return number, index

        if last is None:
            last = self.size if seed is None else tf.int64.max
        return tf.data.Dataset.range(first, last).map(row_of)

    def decode(self, index: Any) -> tuple[Any, Any]:
        """Image (H, W, C) of `image_type` and labels (H, W) int32 of one record."""
        import tensorflow as tf

        kind = self.image_type

        def read(row: Any) -> tuple[np.ndarray, np.ndarray]:
            return np.asarray(read_image(self._cell(row, self.columns[0]), kind)), self.read_labels(int(row))

        image, labels = tf.numpy_function(read, [index], [kind.dtype, tf.int32])
        return tf.ensure_shape(image, (None, None, kind.channels)), tf.ensure_shape(labels, (None, None))


def open_hugging_face(
    address: str,
    class_names: Sequence[str] | None = None,
    *,
    class_of_value: ClassMap | None = None,
    val_fraction: float,
    seed: int,
) -> Callable[[str], TableDataset]:
    """Opens a dataset of the Hub.

    Args:
        address: "hf://owner/name"; what follows is what `datasets.load_dataset` takes, so a local folder works too.
        class_names: Class names, where the columns do not have them.
        class_of_value: As in `find_dataset`.
        val_fraction: Part of the training split for validation, where the dataset has no such split.
        seed: Which rows these are.

    Returns:
        A function that gives the dataset of one split.

    Raises:
        ImportError: `datasets` is not installed.
        DatasetError: No such dataset, or no columns of images and labels.

    Example:
        >>> import importlib.util
        >>> importlib.util.find_spec("tf_segformer.data.hugging_face") is not None
        True
    """
    splits = _load(address)
    if "val" not in splits:
        divided = splits["train"].train_test_split(test_size=val_fraction, seed=seed)
        splits = {"train": divided["train"], "val": divided["test"]}
    columns = _columns(address, splits["train"])
    names = tuple(class_names or ()) or _infer_names(splits, columns)
    table: np.ndarray = IDENTITY
    if class_of_value is not None:
        names, table = merge_classes(class_of_value, names, table)

    def dataset_of(split: str) -> TableDataset:
        rows = splits[split]
        return TableDataset(f"huggingface/{split}", rows, len(rows), columns, names, table)

    return dataset_of


def _load(address: str) -> dict[str, Any]:
    """The table of each split in Arrow's format."""
    try:
        import datasets
    except ImportError as error:
        raise ImportError(f"{address} needs the library datasets: pip install 'tf_segformer[datasets]'") from error
    try:
        loaded = datasets.load_dataset(address.removeprefix(PREFIX))
    except Exception as error:  # the library raises a dozen kinds
        reason = " ".join(str(error).split())[:300]
        raise DatasetError(f"{address}: cannot be loaded ({reason})") from error
    found = {split: rows for name, rows in loaded.items() if (split := split_of(str(name))) is not None}
    if "train" not in found:
        raise DatasetError(f"{address}: has the splits {', '.join(map(str, loaded))}, but no train")
    return {split: rows.with_format("arrow") for split, rows in found.items()}  # images stay encoded


def cell_of(rows: Any, index: int, column: str) -> Any:
    """One cell of a table, as Arrow holds it: {"bytes", "path"} of an image."""
    return rows[index : index + 1][column][0].as_py()


def _columns(address: str, rows: Any) -> tuple[str, str]:
    """The columns of images and labels."""
    encoded = [name for name, feature in rows.features.items() if type(feature).__name__ == "Image"]
    image = next((name for name in _IMAGE_COLUMNS if name in encoded), None)
    labels = next((name for name in _LABEL_COLUMNS if name in encoded), None)
    if image is None or labels is None:
        raise DatasetError(
            f"{address}: has the columns {', '.join(rows.features)}; needs images in one of "
            f"{', '.join(_IMAGE_COLUMNS)} and label maps in one of {', '.join(_LABEL_COLUMNS)}"
        )
    return image, labels


def _infer_names(splits: dict[str, Any], columns: tuple[str, str]) -> tuple[str, ...]:
    """A name per label value, where nobody gave names."""
    highest = 0
    for rows in splits.values():
        for index in range(len(rows)):
            values = open_label_map(cell_of(rows, index, columns[1])["bytes"])
            counted = values[values != IGNORE_INDEX]
            highest = max(highest, int(counted.max()) if counted.size else 0)
    return tuple(f"class {index}" for index in range(highest + 1))
