"""The report of an evaluation: metrics as JSON, evaluation.json and confusion_matrix.png."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tf_segformer.evaluation.confusion_plot import draw_confusion_matrix
from tf_segformer.imaging.visualize import draw_comparison
from tf_segformer.inference.results import SegmentationResult
from tf_segformer.io import atomic_write, write_json

SUMMARY = {"mIoU": "mean IoU", "mAcc": "mean accuracy", "aAcc": "pixel accuracy", "fwIoU": "frequency-weighted IoU"}
"""The metrics of all classes together, and what they are called."""

JSON_NAME, PLOT_NAME = "evaluation.json", "confusion_matrix.png"


def metrics_to_json(metrics: Mapping[str, Any], class_names: Sequence[str]) -> dict[str, Any]:
    """Metrics of `evaluate` as values for JSON, where an undefined one is None.

    Args:
        metrics: What `evaluate` returned.
        class_names: Names of the K classes.

    Returns:
        The metrics of `SUMMARY`, and under "classes" the name, IoU, accuracy and labelled pixels of each class.

    Example:
        >>> import numpy as np
        >>> from tf_segformer.evaluation.confusion import metrics_from_confusion
        >>> confusion = np.array([[3, 1], [0, 0]])
        >>> metrics = {**metrics_from_confusion(confusion), "confusion_matrix": confusion}
        >>> metrics_to_json(metrics, ["sky", "road"])["classes"][1]
        {'name': 'road', 'IoU': 0.0, 'Acc': None, 'pixels': 0}
    """
    pixels = metrics["confusion_matrix"].sum(axis=1)
    return {
        **{name: _or_none(metrics[name]) for name in SUMMARY},
        "classes": [
            {
                "name": name,
                "IoU": _or_none(metrics["IoU"][index]),
                "Acc": _or_none(metrics["Acc"][index]),
                "pixels": int(pixels[index]),
            }
            for index, name in enumerate(class_names)
        ],
    }


def write_report(
    folder: str | Path,
    metrics: Mapping[str, Any],
    class_names: Sequence[str],
    *,
    title: str = "Confusion matrix",
    facts: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Writes evaluation.json, with the confusion matrix, and confusion_matrix.png.

    Args:
        folder: Where to write; made where it is missing.
        metrics: What `evaluate` returned.
        class_names: Names of the K classes.
        title: Heading of the image.
        facts: What else evaluation.json is to say, such as the model's name; it comes first.

    Returns:
        The paths of the two files.

    Raises:
        OSError: The folder cannot be written.
    """
    confusion = metrics["confusion_matrix"]
    report = {**(facts or {}), "images": metrics["images"], **metrics_to_json(metrics, class_names)}
    paths = [Path(folder, JSON_NAME), Path(folder, PLOT_NAME)]
    write_json(paths[0], {**report, "confusion_matrix": confusion.tolist()}, indent=None)
    image = draw_confusion_matrix(confusion, class_names, title=title)
    with atomic_write(paths[1]) as partial:
        image.save(partial, "PNG")
    return paths


class ComparisonWriter:
    """For `evaluate(on_result=...)`: writes the first images with prediction, labels and errors next to each other.

    Args:
        folder: Where to write `<image>_comparison.png`.
        count: Number of images.
        class_names: Names of the K classes.
    """

    def __init__(self, folder: str | Path, count: int, class_names: Sequence[str]) -> None:
        self._folder = Path(folder)
        self._remaining = count
        self._class_names = class_names

    def __call__(self, example: Any, result: SegmentationResult, labels: np.ndarray) -> None:
        """Writes one image, if it is among the first."""
        if self._remaining <= 0:
            return
        self._remaining -= 1
        image = draw_comparison(
            example.read_image(), result.class_map, labels, self._class_names, palette=result.palette
        )
        with atomic_write(self._folder / f"{Path(example.labels_name).stem}_comparison.png") as partial:
            image.save(partial, "PNG")


def _or_none(metric: float) -> float | None:
    """A metric with six digits; None for nan, which JSON does not have."""
    return None if math.isnan(metric) else round(float(metric), 6)
