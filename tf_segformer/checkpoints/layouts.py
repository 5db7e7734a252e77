"""From the layout of a checkpoint's tensors to that of the Keras model's variables and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tf_segformer.checkpoints.names import is_norm

# Dense layers of the Keras model that PyTorch's families store as 1x1 convolutions.
POINTWISE = (
    "decode_head/linear_fuse",
    "decode_head/classifier",
    "decode_head/convolution_",
    "decode_head/fusion",
)
_CONVOLUTIONS = ("projection", "sequence_reduction")


def to_keras(values: np.ndarray, variable: str, layout: str, part: int = 0, parts: int = 1) -> np.ndarray:
    """Brings a tensor of a checkpoint into the layout of a variable.

    Args:
        values: The tensor as the file has it.
        variable: Name of the variable, which says the kind of its layer.
        layout: "torch" or "keras", as the family says.
        part: Which of the stacked tensors the variable is.
        parts: How many tensors the file stacks: rows in PyTorch's layout.

    Returns:
        A view; a tensor that does not have the dimensions of the layer's kind comes back as it is.

    Example:
        >>> to_keras(np.zeros((5, 3)), "classifier/kernel", "torch").shape
        (3, 5)
    """
    if parts > 1 and values.shape and values.shape[0] % parts == 0:
        values = np.split(values, parts)[part]
    module, _, leaf = variable.rpartition("/")
    kind = module.rpartition("/")[2]
    if leaf != "kernel":
        return values
    if kind in _CONVOLUTIONS:
        return values.transpose(2, 3, 1, 0) if layout == "torch" and values.ndim == 4 else values
    if kind == "depthwise_convolution":
        if layout == "torch":
            return values.transpose(2, 3, 0, 1) if values.ndim == 4 else values
        # A grouped convolution of Keras has (h, w, 1, channels), a depthwise one (h, w, channels, 1).
        return values.transpose(0, 1, 3, 2) if values.ndim == 4 and values.shape[2] == 1 else values
    if layout == "torch":
        return values.reshape(values.shape[:2]).T if values.ndim == 2 or values.shape[2:] == (1, 1) else values
    return values.reshape(values.shape[2:]) if values.ndim == 4 and values.shape[:2] == (1, 1) else values


def to_torch(arrays: Sequence[np.ndarray], variables: Sequence[str]) -> np.ndarray:
    """Brings variables of the Keras model into PyTorch's layout, stacked where there are several.

    Args:
        arrays: The variables' values.
        variables: Their names.

    Returns:
        A contiguous array, the inverse of `to_keras`.

    Example:
        >>> to_torch([np.zeros((3, 5))], ["decode_head/classifier/kernel"]).shape
        (5, 3, 1, 1)
    """
    return np.ascontiguousarray(
        np.concatenate([_one_to_torch(array, name) for array, name in zip(arrays, variables, strict=True)])
    )


def _one_to_torch(values: np.ndarray, variable: str) -> np.ndarray:
    """One variable in PyTorch's layout."""
    module, _, leaf = variable.rpartition("/")
    if leaf != "kernel" or is_norm(module):
        return values
    if values.ndim == 4:
        depthwise = module.endswith("depthwise_convolution")
        return values.transpose(2, 3, 0, 1) if depthwise else values.transpose(3, 2, 0, 1)
    return values.T[:, :, None, None] if module.startswith(POINTWISE) else values.T
