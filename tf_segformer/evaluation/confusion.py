"""Counts of true and predicted classes, and the metrics that follow from them, in NumPy alone."""

from __future__ import annotations

from typing import Any

import numpy as np


def confusion_matrix(
    target: np.ndarray, prediction: np.ndarray, num_classes: int, ignore_index: int = 255
) -> np.ndarray:
    """Counts how often each true class was predicted as each class.

    Args:
        target: Class of each pixel, any shape, integers in [0, num_classes) or `ignore_index`.
        prediction: Predicted class of each pixel, the shape of `target`, integers in [0, num_classes).
        num_classes: Number of classes K.
        ignore_index: Label of pixels that are not counted.

    Returns:
        (K, K) int64: rows are the true classes, columns the predicted ones.

    Raises:
        ValueError: Where the shapes differ or a class lies outside [0, num_classes).

    Example:
        >>> confusion_matrix(np.array([0, 1, 255]), np.array([0, 0, 1]), num_classes=2).tolist()
        [[1, 0], [1, 0]]
    """
    target, prediction = np.asarray(target), np.asarray(prediction)
    if target.shape != prediction.shape:
        raise ValueError(f"target has shape {target.shape} and prediction {prediction.shape}: they must be equal")
    counted = target != ignore_index
    target, prediction = target[counted].astype(np.int64), prediction[counted].astype(np.int64)
    for name, classes in (("target", target), ("prediction", prediction)):
        if classes.size and (classes.min() < 0 or classes.max() >= num_classes):
            outside = classes.min() if classes.min() < 0 else classes.max()
            raise ValueError(f"{name} holds class {outside}: with num_classes={num_classes} it must be below that")
    return np.bincount(target * num_classes + prediction, minlength=num_classes**2).reshape(num_classes, num_classes)


def metrics_from_confusion(confusion: np.ndarray) -> dict[str, Any]:
    """The metrics of semantic segmentation as mmsegmentation defines and names them.

    A class that is neither in the target nor in the prediction has no IoU, and one that is not in the target no
    accuracy: they are nan and the means leave them out. With nothing counted every metric is nan.

    Args:
        confusion: (K, K) counts; rows are the true classes, columns the predicted ones.

    Returns:
        "mIoU", "aAcc" (pixel accuracy), "mAcc" (mean accuracy) and "fwIoU" (IoU weighted by the fraction of each class
        in the target) as floats in [0, 1] or nan; "IoU" and "Acc" as (K,) float64 arrays, one entry per class.

    Source: Long et al. 2015, https://arxiv.org/abs/1411.4038, section 5; names of mmsegmentation's IoUMetric.

    Example:
        >>> round(metrics_from_confusion(np.array([[3, 1], [0, 4]]))["mIoU"], 3)
        0.775
    """
    counts = np.asarray(confusion, dtype=np.float64)
    correct, true_area, predicted_area = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    iou = _ratio(correct, true_area + predicted_area - correct)
    accuracy = _ratio(correct, true_area)
    total = counts.sum()
    in_target = true_area > 0
    return {
        "mIoU": _mean_of_defined(iou),
        "aAcc": float(correct.sum() / total) if total else float("nan"),
        "mAcc": _mean_of_defined(accuracy),
        "fwIoU": float((true_area[in_target] * iou[in_target]).sum() / total) if total else float("nan"),
        "IoU": iou,
        "Acc": accuracy,
    }


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Elementwise quotient, nan where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)


def _mean_of_defined(values: np.ndarray) -> float:
    """Mean of the entries that are not nan; nan where there are none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
