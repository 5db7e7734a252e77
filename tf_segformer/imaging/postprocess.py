"""Logits to class maps at any size, fast and in bounded memory, in NumPy alone.

A bilinear resize mixes the four nearest logits of a pixel with weights that are positive and sum to one. Where one
class is the largest in all four, it is the largest in every mix of them: such a cell of four neighbouring logits needs
no interpolation at all. The pixels of the other cells, those along the boundaries of the classes, are interpolated a
few thousand cells at a time, so that the resized logits of the whole image never exist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tf_segformer.half_pixel import source_positions

_CHUNK_BYTES = 4 * 2**20  # interpolated logits of one chunk of tiles: they stay in the processor's cache
_TILE = 16  # most pixels of a tile along one side
_COUNTED_PIXELS = 2**22  # at once
_THREADS = 2  # NumPy releases the interpreter lock in the products and the argmax


def class_map_from_logits(logits: np.ndarray, target_size: tuple[int, int] | None = None) -> np.ndarray:
    """Resizes logits bilinearly and takes the class with the largest one, without holding the resized logits.

    Args:
        logits: (h, w, num_labels), any floating type; a single one is that of class 1 against class 0.
        target_size: (height, width) of the class map; None keeps (h, w).

    Returns:
        Class map (H, W), int32: what torch's `interpolate(mode="bilinear", align_corners=False)` and `argmax` give,
        but for pixels where two classes are equal up to rounding.

    Raises:
        ValueError: Logits without three axes or with an empty one, or a target size below 1.

    Example:
        >>> class_map_from_logits(np.eye(4, dtype=np.float32)[None], (2, 8)).tolist()[0]
        [0, 0, 1, 1, 2, 2, 3, 3]
    """
    logits, size = _checked(logits, target_size)
    argmax = np.argmax(logits, axis=-1).astype(np.int32)  # (h, w)
    if size == argmax.shape:
        return argmax
    rows, columns = _Axis(argmax.shape[0], size[0]), _Axis(argmax.shape[1], size[1])
    class_map = argmax[rows.low[:, None], columns.low]  # one class for each tile
    class_map = np.repeat(np.repeat(class_map, rows.count, axis=0), columns.count, axis=1)  # (H, W)

    def resolve(values: np.ndarray, place: tuple[np.ndarray, np.ndarray]) -> None:
        class_map[place] = np.argmax(values, axis=-1)

    _map_chunks(resolve, logits, rows, columns, _boundary_cells(argmax)[rows.low[:, None], columns.low])
    return class_map


def class_map_and_confidence(
    logits: np.ndarray, target_size: tuple[int, int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Class map as in `class_map_from_logits`, with the softmax probability of each pixel's class.

    Args:
        logits: (h, w, num_labels), any floating type.
        target_size: (height, width) of the maps; None keeps (h, w).

    Returns:
        Class map (H, W) int32, and confidence (H, W) float32 in (0, 1]: the probability from the resized logits.

    Raises:
        ValueError: As `class_map_from_logits`.

    Example:
        >>> class_map_and_confidence(np.zeros((2, 2, 4)), (3, 5))[1][0, 0]
        np.float32(0.25)
    """
    logits, size = _checked(logits, target_size)
    class_map = np.empty(size, np.int32)
    confidence = np.empty(size, np.float32)

    def resolve(values: np.ndarray, place: tuple[np.ndarray, np.ndarray]) -> None:
        class_map[place] = np.argmax(values, axis=-1)
        values -= values.max(axis=-1, keepdims=True)
        confidence[place] = 1 / np.exp(values, out=values).sum(axis=-1)

    rows, columns = _Axis(logits.shape[0], size[0]), _Axis(logits.shape[1], size[1])
    _map_chunks(resolve, logits, rows, columns, np.ones((len(rows.low), len(columns.low)), bool))
    return class_map, confidence


def class_fractions(class_map: np.ndarray, num_labels: int, ignore_index: int | None = None) -> np.ndarray:
    """Fraction of the image that each class covers.

    Args:
        class_map: Class indices (H, W).
        num_labels: Number of classes.
        ignore_index: Pixels with this value are left out, from the whole too.

    Returns:
        Fractions (num_labels,), float64; they sum to 1, or to 0 where every pixel is left out. Pixels of an index that
        is no class count in the whole only.

    Example:
        >>> class_fractions(np.array([[0, 2], [2, 255]]), 3, ignore_index=255).round(2).tolist()
        [0.33, 0.0, 0.67]
    """
    values = np.asarray(class_map).ravel()
    counts, total = np.zeros(num_labels, np.int64), 0
    for start in range(0, values.size, _COUNTED_PIXELS):
        part = values[start : start + _COUNTED_PIXELS]
        part = part if ignore_index is None else part[part != ignore_index]
        counts += np.bincount(part[(part >= 0) & (part < num_labels)], minlength=num_labels)
        total += part.size
    return counts / max(total, 1)


def with_background(logits: np.ndarray) -> np.ndarray:
    """One logit as those of two classes, the background with 0: sigmoid(x) is the second entry of softmax([0, x]).

    Args:
        logits: (..., K).

    Returns:
        (..., 2) where K is 1, the logits otherwise.

    Example:
        >>> with_background(np.ones((1, 1), np.float32)).tolist()
        [[0.0, 1.0]]
    """
    return np.concatenate([np.zeros_like(logits), logits], axis=-1) if logits.shape[-1:] == (1,) else logits


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis.

    Args:
        logits: (..., K), floating.

    Returns:
        Array of the same shape and type; the last axis sums to 1.

    Example:
        >>> softmax(np.zeros((1, 4))).tolist()
        [[0.25, 0.25, 0.25, 0.25]]
    """
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    exponentials /= exponentials.sum(axis=-1, keepdims=True)
    return exponentials


def bilinear_neighbours(size: int, target: int, dtype: type[np.floating]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two source pixels that each pixel of a bilinearly resized axis mixes.

    Args:
        size: Length of the source in pixels.
        target: Length of the result.
        dtype: `np.float32` for torch's positions to the last bit, `np.float64` for those of the definition.

    Returns:
        The lower and the upper neighbour (target,) intp, and the weight of the upper one (target,) float32.

    Example:
        >>> [each.tolist() for each in bilinear_neighbours(2, 4, np.float32)]
        [[0, 0, 0, 1], [1, 1, 1, 1], [0.0, 0.25, 0.75, 0.0]]
    """
    position = source_positions(np.arange(target, dtype=dtype), dtype(size), dtype(target))
    position = np.clip(position, 0, size - 1)
    low = position.astype(np.intp)
    return low, np.minimum(low + 1, size - 1), (position - low.astype(dtype)).astype(np.float32)


class _Axis:
    """How the pixels of one axis lie between the logits, in tiles that mix the same two logits, low and high."""

    def __init__(self, size: int, target: int) -> None:
        low, high, self.weight = bilinear_neighbours(size, target, np.float32)  # of the high logit, for each pixel
        self.first = np.flatnonzero(np.diff(low, prepend=-1) | (np.arange(target) % _TILE == 0))  # pixel of each tile
        self.count = np.diff(self.first, append=target)  # pixels of each tile
        self.low, self.high = low[self.first], high[self.first]


def _checked(logits: np.ndarray, target_size: tuple[int, int] | None) -> tuple[np.ndarray, tuple[int, int]]:
    """Returns contiguous float32 logits, of two classes at least, and the target size."""
    logits = np.ascontiguousarray(with_background(np.asarray(logits)), dtype=np.float32)
    if logits.ndim != 3 or logits.size == 0:
        raise ValueError(f"Logits must be (height, width, num_labels), none of them 0, but are {logits.shape}.")
    size = tuple(int(side) for side in (logits.shape[:2] if target_size is None else target_size))
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"The target size must be (height, width), at least 1 each, but is {size}.")
    return logits, (size[0], size[1])


def _boundary_cells(argmax: np.ndarray) -> np.ndarray:
    """Marks the cells (h, w) whose four logits have different classes; cell (i, j) reaches to (i + 1, j + 1)."""
    down = np.concatenate([argmax[1:], argmax[-1:]])
    right, diagonal = (np.concatenate([one[:, 1:], one[:, -1:]], axis=1) for one in (argmax, down))
    return (argmax != down) | (argmax != right) | (argmax != diagonal)


def _map_chunks(
    resolve: Callable[[np.ndarray, tuple[np.ndarray, np.ndarray]], None],
    logits: np.ndarray,
    rows: _Axis,
    columns: _Axis,
    tiles: np.ndarray,
) -> None:
    """Interpolates the marked tiles chunk by chunk; `resolve` gets values (n, P, Q, K) and their pixels' indices."""

    def interpolate(chunk: tuple[np.ndarray, np.ndarray]) -> None:
        row, column = chunk
        top, bottom, left, right = rows.low[row], rows.high[row], columns.low[column], columns.high[column]
        places = ((top, left), (top, right), (bottom, left), (bottom, right))
        corners = np.stack([logits[place] for place in places], axis=1)  # (n, 4, K)
        y = rows.first[row][:, None] + np.arange(rows.count[row[0]])  # (n, P)
        x = columns.first[column][:, None] + np.arange(columns.count[column[0]])  # (n, Q)
        down, across = rows.weight[y][:, :, None], columns.weight[x][:, None, :]
        products = [(1 - down) * (1 - across), (1 - down) * across, down * (1 - across), down * across]
        weights = np.stack(products, axis=-1).reshape(len(row), -1, 4)  # (n, P*Q, 4)
        values = (weights @ corners).reshape(*y.shape, x.shape[1], -1)  # (n, P, Q, K)
        resolve(values, (y[:, :, None], x[:, None, :]))

    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(interpolate, _chunks(rows, columns, tiles, logits.shape[-1])):
            pass


def _chunks(rows: _Axis, columns: _Axis, tiles: np.ndarray, num_labels: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the rows and columns of marked tiles of equal size, as many as fit in a chunk."""
    for height in np.unique(rows.count):
        for width in np.unique(columns.count):
            row, column = np.nonzero(tiles & (rows.count == height)[:, None] & (columns.count == width))
            step = max(1, _CHUNK_BYTES // int(4 * height * width * num_labels))
            for start in range(0, len(row), step):
                yield row[start : start + step], column[start : start + step]
