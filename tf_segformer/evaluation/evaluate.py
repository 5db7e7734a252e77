"""evaluate: a predictor on a labelled dataset, for users, the command line and the validations of a training run."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from os import PathLike
from typing import Any, Protocol

import numpy as np
from PIL import Image

from tf_segformer.errors import DatasetError
from tf_segformer.evaluation.confusion import confusion_matrix, metrics_from_confusion
from tf_segformer.inference.engines import Engine
from tf_segformer.inference.predictor import SegmentationPredictor
from tf_segformer.inference.results import SegmentationResult


class LabelledExample(Protocol):
    """An image and its label map, opened when they are asked for."""

    @property
    def labels_name(self) -> str:
        """The label map's path, for messages."""

    def read_image(self) -> Image.Image:
        """The image, RGB."""

    def read_labels(self) -> np.ndarray:
        """Classes (H, W), integers."""


class LabelledExamples(Protocol):
    """What is asked of a dataset; those of `tf_segformer.data` have it."""

    @property
    def size(self) -> int:
        """The number of examples."""

    @property
    def num_labels(self) -> int:
        """The number of classes."""

    def __iter__(self) -> Iterator[Any]:
        """Every `LabelledExample`, in order."""


Segment = Callable[[Any], Iterable[SegmentationResult]]
ResultCallback = Callable[[Any, SegmentationResult, np.ndarray], None]


def evaluate(
    predictor: Segment | Engine | str | PathLike,
    dataset: LabelledExamples,
    *,
    limit: int | None = None,
    ignore_index: int = 255,
    on_result: ResultCallback | None = None,
) -> dict[str, Any]:
    """Segments the images of a dataset and compares the class maps with the labels, at the labels' size.

    Args:
        predictor: Segments the images; its mode is the protocol (see `SegmentationPredictor`). Any function from
            images to their `SegmentationResult`s will do; of an exported folder, or its engine, a predictor with the
            folder's processor is made.
        dataset: From `tf_segformer.data.find_dataset` or `open_tfrecords`, or any object like those.
        limit: Number of images to take, from the first; None takes all.
        ignore_index: Label of pixels that do not count.
        on_result: Called for each image with the example, the `SegmentationResult` and the labels (H, W).

    Returns:
        What `metrics_from_confusion` returns ("mIoU", "aAcc", "mAcc", "fwIoU", and "IoU" and "Acc" of each class),
        "confusion_matrix" (K, K) int64 with the true classes as rows, and "images", their number.

    Raises:
        ImageError: An image or a label map cannot be read.
        DatasetError: A label map has another size than its image, or labels that are no class of the model.
    """
    if isinstance(predictor, (Engine, str, PathLike)):
        predictor = SegmentationPredictor(predictor)
    classes = max(dataset.num_labels, 2)  # one class has a background
    confusion = np.zeros((classes, classes), np.int64)
    images = _Images(dataset, limit)
    count = 0
    for result in predictor(images):
        example = images.pending.popleft()
        labels = example.read_labels()
        if labels.shape != result.class_map.shape:
            raise DatasetError(
                f"{example.labels_name}: the label map is {_size(labels)} pixels, its image {_size(result.class_map)}"
            )
        try:
            confusion += confusion_matrix(labels, result.class_map, classes, ignore_index)
        except ValueError as error:
            raise DatasetError(f"{example.labels_name}: {error}") from error
        count += 1
        if on_result is not None:
            on_result(example, result, labels)
    return {**metrics_from_confusion(confusion), "confusion_matrix": confusion, "images": count}


class _Images:
    """The images of a dataset, read one after the other; `pending` holds the examples that have no result yet."""

    def __init__(self, dataset: LabelledExamples, limit: int | None) -> None:
        self.pending: deque[LabelledExample] = deque()
        self._examples = itertools.islice(dataset, limit)
        self._count = dataset.size if limit is None else min(limit, dataset.size)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Image.Image]:
        for example in self._examples:
            image = example.read_image()
            self.pending.append(example)
            yield image


def _size(array: np.ndarray) -> str:
    """Width and height, as in a message."""
    return f"{array.shape[1]}x{array.shape[0]}"
