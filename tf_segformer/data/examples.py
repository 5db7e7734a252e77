"""What a dataset consists of: pairs of files, and the image and labels that they become when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from tf_segformer.imaging.bands import ImageType

if TYPE_CHECKING:
    import tensorflow as tf

IGNORE_INDEX = 255


@dataclass(frozen=True)
class Example:
    """One image and its segmentation map.

    Args:
        image: JPEG, PNG, TIFF, WebP, BMP, JPEG 2000, .npy or .npz file.
        labels: PNG, TIFF, BMP, .npy or .npz file of the same height and width, or what the dataset's `read_values`
            reads.

    Example:
        >>> Example(Path("images/1.jpg"), Path("labels/1.png")).labels.name
        '1.png'
    """

    image: Path
    labels: Path


@dataclass(frozen=True)
class LabelledImage:
    """One image and its labels, opened only when they are asked for.

    Args:
        name: Path of the image, or its name in a shard.
        labels_name: Path of the labels, or the same name.
        read_image: Returns the image as RGB, or (H, W, C) of the dataset's `image_type`; raises `ImageError` where it
            is damaged.
        read_labels: Returns the class indices (H, W) int32, `IGNORE_INDEX` where none counts; raises `ImageError`.
        read_stored: Returns the image as the file holds it: in Pillow's own mode, or an array (H, W, C).

    Example:
        >>> from tf_segformer.data import find_dataset
        >>> example = next(iter(find_dataset("camvid", "CamVid", "val")))
        >>> example.read_image().size, example.read_labels().shape
        ((64, 64), (64, 64))
    """

    name: str
    labels_name: str
    read_image: Callable[[], Image.Image | np.ndarray]
    read_labels: Callable[[], np.ndarray]
    read_stored: Callable[[], Image.Image | np.ndarray]


class LabelledDataset(Protocol):
    """What training, evaluation and the checks ask of a dataset; iterating gives every `LabelledImage` in order."""

    @property
    def name(self) -> str:
        """Kind and split, for messages."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names by index."""

    @property
    def num_labels(self) -> int:
        """The number of classes."""

    @property
    def size(self) -> int:
        """The number of examples."""

    @property
    def image_type(self) -> ImageType:
        """Bands and type of the images, the same for all."""

    def __iter__(self) -> Iterator[LabelledImage]:
        """The examples, in order."""

    def records(self, seed: int | None = None, first: int = 0, last: int | None = None) -> tf.data.Dataset:
        """The examples as (number int64, *what `decode` takes), still encoded.

        Args:
            seed: Gives every epoch an order of its own; None keeps the order of the names.
            first: Number of the first example; epoch e has the numbers from e * size to (e + 1) * size.
            last: Number of the example after the last; None: endless with a seed, one epoch without.
        """

    def decode(self, *record: Any) -> tuple[Any, Any]:
        """Image (H, W, C) of `image_type` and labels (H, W) int32 of one record, in TensorFlow operations."""
