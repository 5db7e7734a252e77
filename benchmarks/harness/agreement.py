"""The check before anything is timed: all engines compute the same logits."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

TOLERANCE = 1e-3  # of the largest logit; keras-hub's approximate GELU makes 1e-4, the others differ by rounding alone


class Disagreement(Exception):
    """An engine whose logits are not those of the reference."""


def check_agreement(outputs: Mapping[str, np.ndarray], reference: str) -> dict[str, float]:
    """Compares the logits of all engines with those of one.

    Args:
        outputs: Logits (B, h, w, K) by name.
        reference: Name of the engine to compare with.

    Returns:
        The largest difference by name, as a share of the reference's largest logit.

    Raises:
        Disagreement: A shape that differs, a difference above TOLERANCE or not a number, or a reference whose
            logits are so alike that agreement would say nothing.
    """
    expected = outputs[reference]
    if np.unique(expected.argmax(-1)).size < 2:
        raise Disagreement(f"{reference} sees one class everywhere: agreement with it says nothing")
    scale = np.abs(expected).max()
    differences = {}
    for name, logits in outputs.items():
        if logits.shape != expected.shape:
            raise Disagreement(f"{name}: logits of shape {logits.shape}, but {expected.shape} of {reference}")
        difference = float(np.abs(logits - expected).max() / scale)
        if not difference <= TOLERANCE:
            raise Disagreement(
                f"{name}: its logits differ from those of {reference} by {difference:.1e} of the largest "
                f"(at most {TOLERANCE:.0e}): not the same network"
            )
        differences[name] = difference
    return differences
