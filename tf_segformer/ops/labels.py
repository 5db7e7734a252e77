"""Label maps and weights of pixels as losses and metrics take them; one logit as two."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


def squeeze_labels(labels: Any) -> Any:
    """Labels without their channel axis.

    Args:
        labels: Class indices, (B, H, W) or (B, H, W, 1); of no known shape after a `tf.py_function`.

    Returns:
        (B, H, W).

    Raises:
        ValueError: For other shapes, such as one-hot labels or RGB colors.

    Example:
        >>> tuple(squeeze_labels(ops.zeros((1, 4, 6, 1), "int32")).shape)
        (1, 4, 6)
    """
    if _rank(labels) is None:
        import tensorflow as tf  # no other backend has such tensors, and keras.ops takes none

        return tf.ensure_shape(tf.reshape(labels, tf.shape(labels)[:3]), (None, None, None))
    if len(labels.shape) == 4 and labels.shape[-1] == 1:
        return ops.squeeze(labels, axis=-1)
    if len(labels.shape) != 3:
        raise ValueError(
            f"labels must be class indices (batch, height, width), but their shape is {tuple(labels.shape)}: of "
            "one-hot labels take the argmax, of RGB label files give find_dataset the palette"
        )
    return labels


def pixel_weights(sample_weight: Any) -> Any:
    """Keras' sample weights, one per image or one per pixel, in a form that multiplies label maps (B, H, W).

    Args:
        sample_weight: (B,), (B, 1), (B, H, W) or (B, H, W, 1).

    Returns:
        float32 (B, 1, 1) or (B, H, W).

    Raises:
        ValueError: For other shapes.

    Example:
        >>> tuple(pixel_weights(ops.ones((2,))).shape)
        (2, 1, 1)
    """
    weights = ops.cast(sample_weight, "float32")
    rank = _rank(weights)
    if rank == 1 or (rank == 2 and weights.shape[-1] == 1):
        return ops.reshape(weights, (-1, 1, 1))
    if rank in (None, 3) or (rank == 4 and weights.shape[-1] == 1):
        return squeeze_labels(weights)
    raise ValueError(
        f"sample_weight must be one number per image (batch,) or per pixel (batch, height, width), but its shape is "
        f"{tuple(weights.shape)}"
    )


def with_background(logits: Any) -> Any:
    """One logit as those of two classes, the background with 0: sigmoid(x) is the second entry of softmax([0, x]).

    Args:
        logits: (..., K).

    Returns:
        (..., 2) where K is 1, the logits otherwise.

    Example:
        >>> tuple(with_background(ops.ones((1, 4, 6, 1))).shape)
        (1, 4, 6, 2)
    """
    return ops.concatenate([ops.zeros_like(logits), logits], axis=-1) if logits.shape[-1] == 1 else logits


def _rank(tensor: Any) -> int | None:
    """How many axes a tensor has; None where TensorFlow does not know."""
    if keras.backend.backend() == "tensorflow" and getattr(tensor.shape, "rank", 0) is None:
        return None
    return len(tensor.shape)
