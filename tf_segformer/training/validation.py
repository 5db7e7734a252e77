"""Validation: the model in training measured by `evaluate`, with the predictor that users run."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tf_segformer.data.examples import LabelledDataset
from tf_segformer.evaluation.evaluate import evaluate
from tf_segformer.imaging.processor import SegformerImageProcessor
from tf_segformer.inference.predictor import SegmentationPredictor
from tf_segformer.inference.results import SegmentationResult

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
            What `evaluate` returns, "loss", the mean over the images, and "examples": (image uint8, class map, labels)
            of the first three images.

        Raises:
            DatasetError: A label map has another size than its image, or labels that are no class.
        """
        losses: list[float] = []
        examples: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

        def collect(example: Any, result: SegmentationResult, labels: np.ndarray) -> None:
            assert result.logits is not None  # the predictor returns them
            losses.append(float(self.loss.predict_on_batch([labels[None], result.logits[None]])))
            if len(examples) < _EXAMPLES:
                examples.append((np.asarray(example.read_image()), result.class_map, labels))

        metrics = evaluate(self.predictor, self.dataset, on_result=collect)
        return {**metrics, "loss": float(np.mean(losses)), "examples": examples}


class _LossModel(keras.Model):
    """A loss as a model of (labels, logits), so that Keras compiles it on every backend."""

    def __init__(self, loss: Any) -> None:
        super().__init__(name="loss")
        self.loss_function = loss

    def call(self, inputs: Any) -> Any:
        """The loss of one batch."""
        labels, logits = inputs
        return self.loss_function(labels, logits)
