"""Names the most probable classes of whole images with a classification model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tf_segformer.imaging import transforms
from tf_segformer.imaging.labels import names_or_numbers
from tf_segformer.imaging.postprocess import softmax, with_background
from tf_segformer.imaging.processor import SegformerImageProcessor
from tf_segformer.inference.engines import open_engine
from tf_segformer.inference.images import ON_ERROR, as_images, read_images
from tf_segformer.inference.results import ClassificationResult, Failure, Results


def classify(
    model: Any, processor: SegformerImageProcessor, images: Any, *, top_k: int = 5, on_error: str = "raise"
) -> Results[ClassificationResult]:
    """Classifies one image or many.

    Args:
        model: A `SegformerForImageClassification`, the folder or file of an exported one, or its engine.
        processor: Prepares the images.
        images: As for a `SegmentationPredictor`.
        top_k: How many classes a result has at most.
        on_error: "raise" stops at an image that cannot be read; "skip" goes on and keeps it in `failures`.

    Returns:
        An iterator over one `ClassificationResult` for each readable image, in order. Images are read and classified
        as the results are asked for, so that errors arise then too.

    Raises:
        ValueError: For an unknown `on_error`; while iterating, for an array that is no image.
        ImageError: While iterating, for a file that cannot be read.

    Example:
        >>> from tf_segformer import SegformerConfig, SegformerForImageClassification
        >>> model = SegformerForImageClassification(SegformerConfig(id2label={0: "cat", 1: "dog", 2: "house"}))
        >>> (result,) = classify(model, SegformerImageProcessor(size=64), np.zeros((90, 120, 3), np.uint8), top_k=2)
        >>> len(result.probabilities)
        2
    """
    if on_error not in ON_ERROR:
        raise ValueError(f"on_error={on_error!r} must be 'raise' or 'skip'")
    failures: list[Failure] = []
    engine = open_engine(model)

    def results() -> Iterator[ClassificationResult]:
        for image in read_images(as_images(images), engine.num_channels, processor, on_error, failures):
            batch = processor(image.pixels, input_data_format=transforms.CHANNELS_LAST)
            probabilities = softmax(with_background(engine(batch["pixel_values"])[0]))  # (K,)
            labels = names_or_numbers(getattr(engine.config, "id2label", None), len(probabilities))
            best = np.argsort(-probabilities, kind="stable")[:top_k]
            named = {labels[int(index)]: float(probabilities[index]) for index in best}
            yield ClassificationResult(image.index, image.source, named)

    return Results(results(), failures)
