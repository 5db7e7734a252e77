"""What the predictors give: one result per image, and the images that could not be read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

Result = TypeVar("Result")


@dataclass(frozen=True)
class SegmentationResult:
    """What was predicted for one image.

    Args:
        index: Position of the image among those given.
        source: Path of the image as it was given, or None where it did not come from a file.
        class_map: (H, W) int32, the class of each pixel of the image.
        labels: Class names by index.
        confidence: (H, W) float32, the probability of the predicted class, where it was asked for.
        logits: (h, w, K) float32 as the model gave them, where they were asked for.
        palette: (K, 3) uint8, the colors that the checkpoint has for its classes, if any; the functions of `visualize`
            take it.
    """

    index: int
    source: str | None
    class_map: np.ndarray
    labels: dict[int, str]
    confidence: np.ndarray | None = None
    logits: np.ndarray | None = None
    palette: np.ndarray | None = None

    @property
    def class_fractions(self) -> dict[str, float]:
        """Fraction of the image by class name, the largest first; classes that do not occur are left out."""
        counts = np.zeros(len(self.labels), np.int64)
        for row in self.class_map:  # by rows: bincount copies what it counts to 64 bits
            counts += np.bincount(row, minlength=len(self.labels))
        return _fractions(counts, self.class_map.size, self.labels)

    def to_dict(self) -> dict[str, Any]:
        """What `tf-segformer predict --json` prints: source and size of the image, class fractions, class names.

        Example:
            >>> SegmentationResult(0, "a.png", np.zeros((2, 3), np.int32), {0: "sky"}).to_dict()["class_fractions"]
            {'sky': 1.0}
        """
        return _as_dict(self, self.class_map.shape)


@dataclass(frozen=True)
class WrittenResult:
    """What was predicted for a raster or a video, whose class maps went to files as they were computed.

    Args:
        source: Path of the raster or video.
        size: (H, W) in pixels.
        counts: (K,) pixels of each class.
        labels: Class names by index.
        details: What else is known, such as the number of frames or the CRS; JSON-ready.
    """

    source: str
    size: tuple[int, int]
    counts: np.ndarray
    labels: dict[int, str]
    details: dict[str, Any]

    @property
    def class_fractions(self) -> dict[str, float]:
        """Fraction of the classified pixels by class name, the largest first; absent classes are left out."""
        return _fractions(self.counts, self.counts.sum(), self.labels)

    def to_dict(self) -> dict[str, Any]:
        """What `tf-segformer predict --json` prints: as for images, with the details.

        Example:
            >>> result = WrittenResult("a.tif", (2, 2), np.array([3, 1]), {0: "sky", 1: "sea"}, {"crs": "EPSG:4326"})
            >>> result.to_dict()["class_fractions"], result.to_dict()["crs"]
            ({'sky': 0.75, 'sea': 0.25}, 'EPSG:4326')
        """
        return {**_as_dict(self, self.size), **self.details}


@dataclass(frozen=True)
class ClassificationResult:
    """The most probable classes of one image.

    Args:
        index: Position of the image among those given.
        source: Path of the image as it was given, or None where it did not come from a file.
        probabilities: Probability by class name, the largest first.
    """

    index: int
    source: str | None
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Failure:
    """An image that could not be read.

    Args:
        index: Position of the image among those given.
        source: Path of the image as it was given, or None where it did not come from a file.
        error: What went wrong.
    """

    index: int
    source: str | None
    error: Exception


class Results(Iterator[Result]):
    """The results in the order of the images, each computed when it is asked for; can be run through once.

    Attributes:
        failures: The images skipped so far (with `on_error="skip"`).
    """

    def __init__(self, results: Iterator[Result], failures: list[Failure]) -> None:
        self._results = results
        self.failures = failures

    def __next__(self) -> Result:
        return next(self._results)


def _fractions(counts: np.ndarray, whole: int, labels: dict[int, str]) -> dict[str, float]:
    """Fraction of `whole` pixels by class name, the largest first; classes without a pixel are left out."""
    present = sorted(np.flatnonzero(counts), key=lambda index: -counts[index])
    return {labels[int(index)]: float(counts[index] / whole) for index in present}


def _as_dict(result: SegmentationResult | WrittenResult, size: tuple[int, ...]) -> dict[str, Any]:
    """What is known of an image, a raster or a video of a size (H, W), ready for JSON."""
    height, width = size
    return {
        "image": result.source,
        "height": height,
        "width": width,
        "class_fractions": {name: round(fraction, 6) for name, fraction in result.class_fractions.items()},
        "labels": {str(index): name for index, name in result.labels.items()},
    }
