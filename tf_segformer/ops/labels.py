"""Label maps as losses and metrics take them."""

from __future__ import annotations

from typing import Any

from keras import ops


def squeeze_labels(labels: Any) -> Any:
    """Labels without their channel axis.

    Args:
        labels: Class indices, (B, H, W) or (B, H, W, 1).

    Returns:
        (B, H, W).

    Raises:
        ValueError: For other shapes, such as one-hot labels or RGB colors.

    Example:
        >>> tuple(squeeze_labels(ops.zeros((1, 4, 6, 1), "int32")).shape)
        (1, 4, 6)
    """
    if len(labels.shape) == 4 and labels.shape[-1] == 1:
        return ops.squeeze(labels, axis=-1)
    if len(labels.shape) != 3:
        raise ValueError(
            f"labels must be class indices (batch, height, width), but their shape is {tuple(labels.shape)}: of "
            "one-hot labels take the argmax, of RGB label files give find_dataset the palette"
        )
    return labels
