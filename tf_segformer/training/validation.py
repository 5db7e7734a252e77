"""Validation: the model in training measured by `evaluate`, with the predictor that users run."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
from PIL import Image

from tf_segformer.data.examples import IGNORE_INDEX, LabelledDataset, LabelledImage
from tf_segformer.evaluation.confusion import metrics_from_confusion
from tf_segformer.evaluation.evaluate import evaluate
from tf_segformer.imaging.processor import SegformerImageProcessor
from tf_segformer.inference.images import InputImage, read_images
from tf_segformer.inference.predictor import Box, SegmentationPredictor
from tf_segformer.inference.results import SegmentationResult
from tf_segformer.inference.windows import SlidingWindowLogits, row_chunks
from tf_segformer.training.distributed import count_processes, gather, on_this_process_alone, process_index

MOST_PIXELS = 2048 * 2048
"""Of an image that the model sees as a whole; a larger one it sees through windows."""

_WINDOW, _STRIDE = 1024, 768
_EXAMPLES = 3  # images that TensorBoard shows


class Validation:
    """Measures a model on a dataset whenever it is called, with the weights of that moment.

    Images of more than `MOST_PIXELS` that the processor does not resize are seen through windows of 1024 pixels, a
    quarter of each overlapping, so that memory is bounded.

    Processes that train together measure a part of the images each, and add up their confusion matrices.

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
        self.windows = SegmentationPredictor(
            model, processor, "slide", window=_WINDOW, stride=_STRIDE, blend="cosine", progress=False
        )
        self.loss = _LossModel(model.loss)

    def __call__(self) -> dict[str, Any]:
        """Segments every image.

        Returns:
            What `evaluate` returns, "loss", the mean over the images, and "examples": (image uint8, class map, labels)
            of the first three images of this process, of large ones every n-th row and column.

        Raises:
            DatasetError: A label map has another size than its image, or labels that are no class.
        """
        losses: list[float] = []
        examples: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        dataset = _Part(self.dataset, process_index(), count_processes())

        def segment(images: Iterable[Any]) -> Iterator[SegmentationResult]:
            for image in images:
                if self._is_large(image):
                    result, loss = self._through_windows(image, dataset.last.read_labels())
                    losses.append(loss)
                    yield result
                else:
                    yield from self.predictor([image])

        def collect(example: Any, result: SegmentationResult, labels: np.ndarray) -> None:
            if result.logits is not None:
                losses.append(self._loss(labels, result.logits))
            if len(examples) < _EXAMPLES:
                step = int(np.ceil(np.sqrt(labels.size / MOST_PIXELS)))
                part = (slice(None, None, step), slice(None, None, step))
                image = np.asarray(example.read_image())
                examples.append((image[part].copy(), result.class_map[part].copy(), labels[part].copy()))

        with on_this_process_alone():
            metrics = evaluate(segment, dataset, on_result=collect)
        if count_processes() > 1:
            padded = np.zeros(dataset.sizes.max())
            padded[: len(losses)] = losses
            rows = zip(gather(padded), dataset.sizes, strict=True)
            losses = [float(loss) for row, size in rows for loss in row[:size]]
            confusion = gather(metrics["confusion_matrix"]).sum(axis=0)
            metrics = {**metrics_from_confusion(confusion), "confusion_matrix": confusion, "images": len(losses)}
        return {**metrics, "loss": float(np.mean(losses)), "examples": examples}

    def _is_large(self, image: Image.Image | np.ndarray) -> bool:
        height, width = image.size if isinstance(image, Image.Image) else image.shape[:2]
        return not self.predictor.processor.do_resize and height * width > MOST_PIXELS

    def _through_windows(self, image: Any, labels: np.ndarray) -> tuple[SegmentationResult, float]:
        """The class map of a large image, and its loss: the mean over chunks of rows by their labelled pixels."""
        channels = self.predictor.model.input_shape[-1]
        (opened,) = read_images([image], channels, self.predictor.processor, "raise", [])
        logits = self._window_logits(opened)
        class_map = np.empty(opened.size, np.int32)
        losses, weights = [], []
        usable = labels.shape == opened.size and labels[labels != IGNORE_INDEX].max(initial=0) < logits.num_classes
        for first, last in row_chunks(*opened.size, logits.num_classes):
            values, rows = logits.rows(first, last), labels[first:last]
            class_map[first:last] = values.argmax(axis=-1)
            if usable:  # `evaluate` says what is wrong with others
                outputs = self.predictor.model.output_shape[-1]  # 1: without the background
                losses.append(self._loss(rows, values[..., -outputs:]))
                weights.append(np.count_nonzero(rows != IGNORE_INDEX))
        loss = float(np.average(losses, weights=weights)) if any(weights) else 0.0
        return SegmentationResult(0, None, class_map, self.windows.class_names(logits.num_classes)), loss

    def _window_logits(self, image: InputImage) -> SlidingWindowLogits:
        def read(box: Box) -> np.ndarray:
            top, left, height, width = box
            return image.pixels[top : top + height, left : left + width]

        return self.windows.window_logits(image.size, read, self.windows.processor.with_statistics_of(image.pixels))

    def _loss(self, labels: np.ndarray, logits: np.ndarray) -> float:
        """The loss of one image, or of some of its rows."""
        return float(self.loss.predict_on_batch([labels[None], logits[None]]))


class _Part:
    """Neighbouring examples of a dataset, those of one process; keeps the example that was asked for last."""

    last: LabelledImage

    def __init__(self, dataset: LabelledDataset, index: int, count: int) -> None:
        self.num_labels, self._dataset = dataset.num_labels, dataset
        ends = [dataset.size * number // count for number in range(count + 1)]
        self.sizes = np.diff(ends)  # of all parts; none where there are more parts than examples
        self.size, self._examples = int(self.sizes[index]), slice(ends[index], ends[index + 1])

    def __iter__(self) -> Iterator[LabelledImage]:
        for example in itertools.islice(self._dataset, self._examples.start, self._examples.stop):
            self.last = example
            yield example


class _LossModel(keras.Model):
    """A loss as a model of (labels, logits), so that Keras compiles it on every backend."""

    def __init__(self, loss: Any) -> None:
        super().__init__(name="loss")
        self.loss_function = loss

    def call(self, inputs: Any) -> Any:
        """The loss of one batch."""
        labels, logits = inputs
        return self.loss_function(labels, logits)
