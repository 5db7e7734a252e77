"""What the tests of this folder compare with, stated plainly in float64."""

from __future__ import annotations

import numpy as np


def resized(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear with half-pixel centres as two matrices, in float64."""
    for axis, target in enumerate(size):
        source = logits.shape[axis]
        position = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
        weights = np.maximum(0, 1 - np.abs(position[:, None] - np.arange(source)))  # (target, source)
        logits = np.moveaxis(np.tensordot(weights, logits, axes=(1, axis)), 0, axis)
    return logits


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis."""
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)
