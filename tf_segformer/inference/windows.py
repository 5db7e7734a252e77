"""Logits a few rows at a time: resized, averaged over sliding windows, never held at the image's full size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from tf_segformer.imaging.postprocess import bilinear_neighbours, softmax

CHUNK_BYTES = 32 * 2**20  # float32 logits of one chunk of rows; a chunk and its few temporaries stay near 150 MB
TOTAL_STRIDE = 32  # of the encoder: its tokens begin at multiples of it


BLENDS: dict[str, Callable[[int], np.ndarray]] = {
    "mean": lambda side: np.ones(side, np.float32),
    "cosine": lambda side: np.sin(np.pi * (np.arange(side) + 0.5) / side).astype(np.float32) ** 2,
}
"""Weights along a window's side: "mean" counts overlapping windows alike, "cosine" falls (as Hann's) to its border."""

_Size = tuple[int, int]
_Span = tuple[int, int]
"""First pixel and the one after the last of a window along one side."""


class LogitSource(Protocol):
    """Something that gives the logits of an image by rows, from top to bottom."""

    size: tuple[int, int]
    num_classes: int

    def rows(self, first: int, last: int) -> np.ndarray:
        """The (last - first, width, num_classes) float32 logits of rows first to last - 1."""

    def free_before(self, row: int) -> None:
        """Frees what only the rows above need; they must not be read again."""


class ArrayLogits:
    """Logits that are an array.

    Args:
        logits: (h, w, K) float32.
    """

    def __init__(self, logits: np.ndarray) -> None:
        self.size = (logits.shape[0], logits.shape[1])
        self.num_classes = logits.shape[2]
        self._logits = logits
        self._freed = 0

    def rows(self, first: int, last: int) -> np.ndarray:
        """A view of the rows asked for."""
        return self._logits[first - self._freed : last - self._freed]

    def free_before(self, row: int) -> None:
        """Frees the rows above, which must not be read again."""
        self._logits = self._logits[row - self._freed :].copy()
        self._freed = row


class ResizedLogits:
    """Another source's logits, resized bilinearly with half-pixel centres (torch's align_corners=False).

    Args:
        source: What to resize.
        size: (H, W) to resize to.
    """

    def __init__(self, source: LogitSource, size: tuple[int, int]) -> None:
        self.size = size
        self.num_classes = source.num_classes
        self._source = source
        self._vertical = bilinear_neighbours(source.size[0], size[0], np.float64)
        self._horizontal = bilinear_neighbours(source.size[1], size[1], np.float64)

    def rows(self, first: int, last: int) -> np.ndarray:
        """Reads only the source rows that these rows need."""
        if self.size == self._source.size:
            return self._source.rows(first, last)
        lower, upper, weight = (each[first:last] for each in self._vertical)
        start = int(lower[0])
        needed = self._source.rows(start, int(upper[-1]) + 1)  # (few, w, K)
        widened = _blend(needed, *self._horizontal, axis=1)  # (few, W, K): across first, while the rows are few
        return _blend(widened, lower - start, upper - start, weight, axis=0)  # (last - first, W, K)

    def free_before(self, row: int) -> None:
        """Frees the source rows that only rows above need."""
        self._source.free_before(int(self._vertical[0][row]))


class SlidingWindowLogits:
    """The average of overlapping windows' logits, each first resized to its window as in mmsegmentation.

    A row of windows is computed when the first of its rows is read and freed when the last was, so that only the
    small logits of the windows under the current rows are held. Rows must therefore be read from top to bottom.

    Args:
        size: (H, W) of the image.
        window: (height, width) of a window; clipped to the image.
        stride: (vertical, horizontal) step between windows.
        predict: From the (top, left, height, width) boxes of a row of windows to their (h, w, K) logits.
        blend: One of `BLENDS`: how much a window counts at each of its pixels.
        multiple: Windows begin at multiples of it, as `window_spans` says.
    """

    def __init__(
        self,
        size: tuple[int, int],
        window: tuple[int, int],
        stride: tuple[int, int],
        predict: Callable[[Sequence[tuple[int, int, int, int]]], Iterable[np.ndarray]],
        blend: str = "mean",
        multiple: int = 1,
    ) -> None:
        self.size = size
        self._predict = predict
        spans = [window_spans(*each, multiple) for each in zip(size, window, stride, strict=True)]
        self._rows, self._columns = ([(span, BLENDS[blend](span[1] - span[0])) for span in each] for each in spans)
        self._weights_differ = any(np.ptp(weights) > 0 for _, weights in [*self._rows, *self._columns])
        self._weight_of_row, self._weight_of_column = _coverage(self._rows), _coverage(self._columns)
        self._computed: dict[_Span, list[ResizedLogits]] = {}
        self._compute(self._rows[0][0])
        self.num_classes = self._computed[self._rows[0][0]][0].num_classes

    def rows(self, first: int, last: int) -> np.ndarray:
        """Sums the weighted windows that touch these rows and divides by their weight at each pixel."""
        self._computed = {span: windows for span, windows in self._computed.items() if span[1] > first}
        total = np.zeros((last - first, self.size[1], self.num_classes), np.float32)
        for (top, bottom), row_weights in self._rows:
            begin, end = max(first, top), min(last, bottom)
            if begin >= end:
                continue
            if (top, bottom) not in self._computed:
                self.free_before(first)
                self._compute((top, bottom))
            windows = zip(self._columns, self._computed[top, bottom], strict=True)
            for ((left, right), column_weights), window in windows:
                rows = window.rows(begin - top, end - top)
                if self._weights_differ:  # a mean needs no product with ones
                    rows = rows * (row_weights[begin - top : end - top, None] * column_weights)[..., None]
                total[begin - first : end - first, left:right] += rows
        total /= (self._weight_of_row[first:last, None] * self._weight_of_column)[..., None]
        return total

    def free_before(self, row: int) -> None:
        """Frees the upper parts of windows that were read already: at 150 classes they are gigabytes."""
        for (top, _), windows in self._computed.items():
            for window in windows:
                window.free_before(max(row - top, 0))

    def _compute(self, rows: _Span) -> None:
        """The windows over some rows, from left to right."""
        top, bottom = rows
        boxes = [(top, left, bottom - top, right - left) for (left, right), _ in self._columns]
        self._computed[rows] = [
            ResizedLogits(ArrayLogits(logits), box[2:]) for box, logits in zip(boxes, self._predict(boxes), strict=True)
        ]


def check_windows(
    window: int | _Size | None, stride: int | _Size | None, mode: str, default: _Size
) -> tuple[_Size | None, _Size | None]:
    """Window and stride as pairs, with their defaults; None where the mode sees the whole image.

    Args:
        window: Side or (height, width); None is the default.
        stride: Step or (vertical, horizontal); None is 3/4 of the window.
        mode: A mode of `SegmentationPredictor`.
        default: The window where none is given.

    Returns:
        Window and stride.

    Raises:
        ValueError: An option of another mode, no number of pixels, or a stride larger than its window.

    Example:
        >>> check_windows(None, None, "slide", (512, 512))
        ((512, 512), (384, 384))
    """
    if window is not None and mode not in ("slide", "multiscale"):
        raise ValueError(f"window={window} belongs to mode='slide' or 'multiscale', not to {mode!r}")
    if stride is not None and mode != "slide" and window is None:
        raise ValueError(f"stride={stride} needs mode='slide', or mode='multiscale' with a window")
    if mode != "slide" and window is None:
        return None, None
    sides = _as_pair("window", default if window is None else window)
    steps = _as_pair("stride", tuple(max(1, side * 3 // 4) for side in sides) if stride is None else stride)
    if steps[0] > sides[0] or steps[1] > sides[1]:
        raise ValueError(f"stride={steps} is larger than window={sides}: pixels between the windows would be left out")
    return sides, steps


def _as_pair(name: str, value: Any) -> _Size:
    """One number for both sides, or (vertical, horizontal)."""
    pair = (value, value) if np.ndim(value) == 0 else tuple(value)
    if len(pair) != 2 or not all(isinstance(side, (int, np.integer)) and side >= 1 for side in pair):
        raise ValueError(f"{name}={value!r} must be a whole number of pixels, or a pair of them")
    return int(pair[0]), int(pair[1])


def window_spans(length: int, window: int, stride: int, multiple: int = 1) -> list[_Span]:
    """Where windows begin and end along one side.

    Args:
        length: Pixels of the side.
        window: Pixels of a window; clipped to `length`.
        stride: Step between windows, at most `window`.
        multiple: 1 shifts the last window inside, as mmsegmentation does. With more, all windows begin at multiples of
            it: steps are rounded down (to one `multiple` at least), and where the last window cannot be shifted to the
            border, it begins at the multiple below and is larger by the remainder. Windows below it stay as with 1.

    Returns:
        First pixel and the one after the last of each window, ascending; together they cover the side.

    Example:
        >>> window_spans(100, 40, 25)
        [(0, 40), (25, 65), (50, 90), (60, 100)]
        >>> window_spans(200, 96, 70, multiple=32)
        [(0, 96), (64, 160), (96, 200)]
    """
    window = min(window, length)
    multiple = multiple if window >= multiple else 1
    step = max(stride // multiple, 1) * multiple
    last = (length - window) // multiple * multiple  # where the last window begins
    starts = [*range(0, last, step), last]
    return [(start, length if start == last else start + window) for start in starts]


def class_map_from_views(
    views: Sequence[tuple[LogitSource, bool]], return_confidence: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    """Takes the most probable class of each pixel, chunk by chunk, averaged over several views of one image.

    One view is decided by its logits; of several the softmax probabilities are averaged, as in mmsegmentation.

    Args:
        views: Sources of equal size, each with whether it saw the image flipped (its rows are flipped back).
        return_confidence: Whether to give the probability of the predicted class as well.

    Returns:
        (H, W) int32 class map, and (H, W) float32 confidence in (0, 1] or None.
    """
    source = views[0][0]
    height, width = source.size
    class_map = np.empty((height, width), np.int32)
    confidence = np.empty((height, width), np.float32) if return_confidence else None
    for first, last in row_chunks(height, width, source.num_classes):
        values = _combine(views, first, last, probabilities=return_confidence or len(views) > 1)
        class_map[first:last] = values.argmax(axis=-1)
        if confidence is not None:
            confidence[first:last] = values.max(axis=-1)
    return class_map, confidence


def row_chunks(height: int, width: int, num_classes: int) -> Iterator[tuple[int, int]]:
    """Pairs (first, last) of rows from top to bottom whose logits fill at most CHUNK_BYTES (or one row)."""
    step = max(1, CHUNK_BYTES // (width * num_classes * 4))
    for first in range(0, height, step):
        yield first, min(first + step, height)


def _combine(views: Sequence[tuple[LogitSource, bool]], first: int, last: int, probabilities: bool) -> np.ndarray:
    """Logits of one view, or the mean probabilities of all, for a few rows."""

    def read(source: LogitSource, flipped: bool) -> np.ndarray:
        values = source.rows(first, last)
        values = values[:, ::-1] if flipped else values
        return softmax(values) if probabilities else values

    total = read(*views[0])
    for view in views[1:]:
        total = total + read(*view)
    return total / len(views) if len(views) > 1 else total


def _blend(values: np.ndarray, lower: np.ndarray, upper: np.ndarray, weight: np.ndarray, axis: int) -> np.ndarray:
    """Weighted mean of two source pixels for each target pixel along an axis of (h, w, K) values."""
    below = values.take(lower, axis=axis)
    blended = values.take(upper, axis=axis)
    blended -= below
    blended *= weight.reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
    blended += below
    return blended


def _coverage(spans: Sequence[tuple[_Span, np.ndarray]]) -> np.ndarray:
    """Sum of the weights of the windows over each pixel of a side, float32."""
    total = np.zeros(spans[-1][0][1], np.float32)
    for (start, end), weights in spans:
        total[start:end] += weights
    return total
