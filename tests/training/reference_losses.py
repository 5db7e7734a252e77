"""SegmentationLoss as its definition reads, in NumPy and float64, with a gradient that no formula is needed for."""

from __future__ import annotations

import numpy as np

from tests.reference import bilinear

_STEP = 1e-30


def loss_value(
    logits,
    labels,
    ignore_index=255,
    normalize_by="valid_pixels",
    class_weights=None,
    label_smoothing=0.0,
    focal_gamma=0.0,
    ohem_threshold=None,
    ohem_min_kept=0,
    dice_weight=0.0,
    sample_weight=1.0,
):
    """The loss of logits (B, h, w, K) and labels (B, H, W); the arguments are those of `SegmentationLoss`.

    Sample weights (B, 1, 1) or (B, H, W).
    """
    log_p = log_probabilities(bilinear(logits, labels.shape[1:], np.float32))  # (B, H, W, K)
    classes, counts = log_p.shape[-1], labels != ignore_index
    is_label = np.eye(classes)[np.where(counts, labels, 0)]
    p = np.exp(log_p)
    p_label = (p * is_label).sum(-1)
    target = is_label * (1 - label_smoothing) + label_smoothing / classes
    pixels = -(target * log_p).sum(-1) * (1 - p_label) ** focal_gamma
    pixel_weights = np.broadcast_to(sample_weight, labels.shape)
    weights = counts * pixel_weights
    if ohem_threshold is not None:
        hardness = np.where(weights > 0, p_label.real, np.inf)
        last_kept = np.sort(hardness, axis=None)[min(ohem_min_kept, hardness.size) - 1]
        weights = weights * ((hardness < ohem_threshold) | (hardness <= last_kept))
    if class_weights is not None:
        weights = weights * (is_label * class_weights).sum(-1)
    value = (pixels * weights).sum() / (weights.sum() if normalize_by == "valid_pixels" else weights.size)
    if dice_weight:
        p, is_label, weights = p[counts], is_label[counts], pixel_weights[counts, None]  # (N, K), (N, K), (N, 1)
        dice = (2 * (weights * p * is_label).sum(0) + 1) / ((weights * (p + is_label)).sum(0) + 1)
        value += dice_weight * (1 - dice[(weights * is_label).any(0)]).mean()
    return value


def log_probabilities(logits):
    """Logarithms (..., K) of the softmax; of a single logit, those of label 0 and label 1 by its sigmoid."""
    if logits.shape[-1] == 1:
        return -np.log(1 + np.exp(np.concatenate([logits, -logits], axis=-1)))
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def value_and_gradient(logits, labels, **options):
    """The loss and its derivative by every logit, by complex steps: `Im f(x + ih) / h` rounds no difference.

    Source: Squire and Trapp 1998, https://doi.org/10.1137/S003614459631241X.
    """
    gradient = np.zeros(logits.shape)
    for index in np.ndindex(logits.shape):
        shifted = logits.astype(complex)
        shifted[index] += 1j * _STEP
        gradient[index] = loss_value(shifted, labels, **options).imag / _STEP
    return loss_value(logits.astype(float), labels, **options), gradient
