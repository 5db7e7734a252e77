"""MeanIoU and the other metrics of a confusion matrix, counted exactly however large the dataset is."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from tf_segformer.evaluation.confusion import confusion_matrix, metrics_from_confusion
from tf_segformer.ops.labels import squeeze_labels, with_background
from tf_segformer.ops.resize import resize_bilinear

__all__ = ["MeanIoU", "confusion_matrix", "metrics_from_confusion"]

_AXES = {"channels_last": (0, 1, 2, 3), "channels_first": (0, 2, 3, 1)}  # to channels last
_RADIX = 65_536  # a count is high * _RADIX + low; both digits stay exact integers in float32


@keras.saving.register_keras_serializable(package="tf_segformer")
class MeanIoU(keras.metrics.Metric):
    """Mean intersection over union of all batches, from logits or class maps.

    The state is the confusion matrix. Each count is kept as two float32 digits, so no pixel is lost up to 1.1e12
    per cell (a single float32 stops counting at 1.7e7), on every backend, under XLA and with replicas whose states are
    summed.

    Args:
        num_classes: Number of classes K. Of a model with one logit, whose sigmoid decides between label 1 and label 0,
            1 and 2 mean the same.
        ignore_index: Label of pixels that are not counted. Labels outside [0, K) are not counted either.
        data_format: Where logits have their channels: "channels_last", or "channels_first" as the models of
            `tf_segformer.transformers`.
        name: Name of the metric in logs.
        dtype: Data type of the result; the counts are exact whatever it is.

    Raises:
        ValueError: From `update_state`, where logits do not have K channels or sample weights are given.

    Example:
        >>> metric = MeanIoU(num_classes=2)
        >>> metric.update_state(np.array([[[0, 1, 255]]]), np.array([[[0, 0, 1]]]))
        >>> float(metric.result())
        0.25
    """

    def __init__(
        self,
        num_classes: int,
        ignore_index: int = 255,
        name: str = "mean_iou",
        dtype: Any = None,
        data_format: str = "channels_last",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, dtype=dtype, **kwargs)
        if num_classes < 1:
            raise ValueError(f"num_classes={num_classes} must be at least 1")
        if data_format not in _AXES:
            raise ValueError(f"data_format={data_format!r} must be one of {', '.join(_AXES)}")
        self.num_classes = max(num_classes, 2)
        self.ignore_index = ignore_index
        self.data_format = data_format
        shape = (self.num_classes, self.num_classes)
        self._low_digit = self.add_variable(shape=shape, initializer="zeros", dtype="float32", name="low_digit")
        self._high_digit = self.add_variable(shape=shape, initializer="zeros", dtype="float32", name="high_digit")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: None = None) -> None:
        """Adds the pixels of one batch.

        Args:
            y_true: (B, H, W) or (B, H, W, 1) integer labels.
            y_pred: (B, h, w, K) logits of any size, (B, K, h, w) with "channels_first", or one logit where K is 2,
                resized to H x W (bilinear, half-pixel centres) before the argmax; or a (B, H, W) class map.
            sample_weight: Not supported: mark pixels that do not count with `ignore_index`.
        """
        if sample_weight is not None:
            raise ValueError("MeanIoU takes no sample weights: mark pixels that do not count with ignore_index")
        y_true, y_pred = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        target = ops.cast(squeeze_labels(y_true), "int32")  # (B, H, W)
        predicted = self._predicted_classes(y_pred, ops.shape(target)[1:])  # (B, H, W)
        counts = self._count_pairs(target, predicted)  # (K, K) int32
        low = self._low_digit + ops.cast(counts % _RADIX, "float32")
        carry = ops.floor(low / _RADIX)
        self._low_digit.assign(low - carry * _RADIX)
        self._high_digit.assign(self._high_digit + ops.cast(counts // _RADIX, "float32") + carry)

    def result(self) -> Any:
        """The mean IoU over the classes present; 0 as long as nothing was counted, as with every Keras metric."""
        counts = ops.convert_to_tensor(self._high_digit) * _RADIX + ops.convert_to_tensor(self._low_digit)
        correct = ops.diagonal(counts)
        union = ops.sum(counts, axis=0) + ops.sum(counts, axis=1) - correct
        present = ops.cast(union > 0, "float32")
        iou = correct / ops.maximum(union, 1.0)
        return ops.cast(ops.sum(iou * present) / ops.maximum(ops.sum(present), 1.0), self.dtype)

    def confusion_matrix(self) -> np.ndarray:
        """The exact counts so far as (K, K) int64: rows are the true classes, columns the predicted ones."""
        high, low = ops.convert_to_numpy(self._high_digit), ops.convert_to_numpy(self._low_digit)
        return high.astype(np.int64) * _RADIX + low.astype(np.int64)

    def metrics(self) -> dict[str, Any]:
        """All metrics so far, as `metrics_from_confusion` names them."""
        return metrics_from_confusion(self.confusion_matrix())

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        arguments = {name: getattr(self, name) for name in ("num_classes", "ignore_index", "data_format")}
        return {**super().get_config(), **arguments}

    def _predicted_classes(self, y_pred: Any, size: tuple[Any, Any]) -> Any:
        """Class maps as they are; of logits, the argmax at the labels' size."""
        if len(y_pred.shape) == 3:
            return ops.cast(y_pred, "int32")
        given = tuple(y_pred.shape)
        if len(given) == 4:
            y_pred = with_background(ops.transpose(y_pred, _AXES[self.data_format]))
        if len(given) != 4 or y_pred.shape[-1] != self.num_classes:
            raise ValueError(
                f"y_pred has shape {given}: expected (batch, height, width, {self.num_classes}) logits, "
                f'(batch, {self.num_classes}, height, width) with data_format="channels_first", or '
                "(batch, height, width) classes"
            )
        # One image at a time: a batch of full-size logits of 150 classes would take gigabytes.
        return ops.map(lambda logits: ops.argmax(resize_bilinear(logits[None], *size)[0], axis=-1), y_pred)

    def _count_pairs(self, target: Any, predicted: Any) -> Any:
        """The (K, K) int32 confusion matrix of one batch."""
        classes = self.num_classes
        counted = (target != self.ignore_index) & (target >= 0) & (target < classes)
        counted = counted & (predicted >= 0) & (predicted < classes)
        cell = ops.where(counted, target * classes + ops.cast(predicted, "int32"), classes**2)
        cell = ops.reshape(cell, (-1,))
        counts = ops.segment_sum(ops.ones_like(cell), cell, num_segments=classes**2 + 1)
        return ops.reshape(counts[:-1], (classes, classes))
