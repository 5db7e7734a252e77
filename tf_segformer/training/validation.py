"""Validation: the model in training measured by the predictor that users run, on the images of a dataset."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from tf_segformer.data.datasets import IGNORE_INDEX, LabelledDataset
from tf_segformer.errors import DatasetError
from tf_segformer.evaluation.metrics import confusion_matrix, scores_from_confusion
from tf_segformer.imaging.processor import SegformerImageProcessor
from tf_segformer.inference.predictor import SegmentationPredictor

_EXAMPLES = 3  # images that TensorBoard shows


class Validation:
    """Measures a model on a dataset whenever it is called, with the weights of that moment.

    Args:
        model: Compiled segmentation model.
        dataset: The validation split.
        processor: The model's.

    Example:
        >>> metrics = Validation(model, val_data, processor)()
        >>> 0 <= metrics["mIoU"] <= 1, len(metrics["examples"])
        (True, 2)
    """

    def __init__(self, model: keras.Model, dataset: LabelledDataset, processor: SegformerImageProcessor) -> None:
        self.dataset = dataset
        self.predictor = SegmentationPredictor(model, processor, return_logits=True, progress=False)
        self.loss = _LossModel(model.loss)

    def __call__(self) -> dict[str, Any]:
        """Segments every image.

        Returns:
            The metrics of `scores_from_confusion`, "loss", and "examples": (image uint8, class map, target) of the
            first three images.

        Raises:
            DatasetError: A label map has another size than its image, or labels that are no class.
        """
        confusion = np.zeros((self.dataset.num_labels, self.dataset.num_labels), np.int64)
        losses: list[float] = []
        examples: list[tuple[Any, Any, Any]] = []
        for example, image, result in self._results():
            target = example.read_labels()
            if target.shape != result.class_map.shape:
                raise DatasetError(f"{example.labels_name}: the labels have another size than their image")
            try:
                confusion += confusion_matrix(target, result.class_map, self.dataset.num_labels, IGNORE_INDEX)
            except ValueError as error:
                raise DatasetError(f"{example.labels_name}: {error}") from error
            losses.append(float(self.loss.predict_on_batch([target[None], result.logits[None]])))
            if len(examples) < _EXAMPLES:
                examples.append((image, result.class_map, target))
        return {**scores_from_confusion(confusion), "loss": float(np.mean(losses)), "examples": examples}

    def _results(self) -> Iterator[tuple[Any, np.ndarray, Any]]:
        """Each example with its image and the prediction."""
        for example in self.dataset:
            image = np.asarray(example.read_image())
            yield example, image, next(iter(self.predictor(image)))


class _LossModel(keras.Model):
    """A loss as a model of (labels, logits), so that Keras compiles it on every backend."""

    def __init__(self, loss: Any) -> None:
        super().__init__(name="loss")
        self.loss_function = loss

    def call(self, inputs: Any) -> Any:
        """The loss of one batch."""
        labels, logits = inputs
        return self.loss_function(labels, logits)
