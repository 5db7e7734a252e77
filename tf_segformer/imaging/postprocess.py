"""Logits to class maps at any size in bounded memory, in NumPy alone."""

from __future__ import annotations

import numpy as np


def class_map_from_logits(logits: np.ndarray, target_size: tuple[int, int] | None = None) -> np.ndarray:
    """Resizes logits bilinearly and takes the class with the largest one, without holding the resized logits.

    Args:
        logits: (h, w, num_labels) array of any floating type.
        target_size: (height, width) of the class map; None keeps (h, w).

    Returns:
        Class map (H, W), int32.
    """
    logits = np.asarray(logits)
    return np.argmax(resize_logits(logits, target_size or logits.shape[:2]), axis=-1).astype(np.int32)


def class_map_and_confidence(
    logits: np.ndarray, target_size: tuple[int, int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Class map as in `class_map_from_logits`, with the softmax probability of the winning class.

    Args:
        logits: (h, w, num_labels) array of any floating type.
        target_size: (height, width) of the maps; None keeps (h, w).

    Returns:
        Class map (H, W) int32 and confidence (H, W) float32 in (0, 1].
    """
    logits = np.asarray(logits)
    resized = resize_logits(logits, target_size or logits.shape[:2])
    peak = resized.max(axis=-1, keepdims=True)
    return np.argmax(resized, axis=-1).astype(np.int32), 1 / np.exp(resized - peak).sum(axis=-1)


def class_shares(class_map: np.ndarray, num_labels: int, ignore_index: int | None = None) -> np.ndarray:
    """Share of the picture that each class covers.

    Args:
        class_map: Class indices (H, W).
        num_labels: Number of classes.
        ignore_index: Pixels with this value count neither above nor below the line.

    Returns:
        Shares (num_labels,), float64, that sum to 1 (to 0 where every pixel is ignored).
    """
    values = np.asarray(class_map).ravel()
    if ignore_index is not None:
        values = values[values != ignore_index]
    counts = np.bincount(values, minlength=num_labels)
    return counts / max(counts.sum(), 1)


def resize_logits(logits: np.ndarray, target_size: tuple[int, int]) -> np.ndarray:
    """Resizes logits bilinearly (half-pixel centres, as torch's align_corners=False), in one piece.

    Args:
        logits: (h, w, num_labels) array of any floating type.
        target_size: (height, width) of the result.

    Returns:
        Resized logits (H, W, num_labels), float32.
    """
    logits = np.asarray(logits, np.float32)
    for axis, size in enumerate(target_size):
        if size == logits.shape[axis]:
            continue
        low, high, weight = _interpolation(logits.shape[axis], size)
        weight = weight.reshape((-1, 1) if axis == 1 else (-1, 1, 1))
        below = np.take(logits, low, axis=axis)
        logits = below + weight * (np.take(logits, high, axis=axis) - below)
    return logits


def _interpolation(size: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower neighbour, upper neighbour and weight of the upper one for each target position."""
    position = np.maximum((np.arange(target, dtype=np.float32) + 0.5) * np.float32(size / target) - 0.5, 0)
    low = np.minimum(position.astype(np.int32), size - 1)
    return low, np.minimum(low + 1, size - 1), (position - low).astype(np.float32)
