"""From whatever a caller hands over to a list of images, and from a list of arrays to one batch of any framework."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from tf_segformer.imaging import transforms


def as_list(images: Any, axes: int) -> list[Any]:
    """Returns a list of single images, where one of them has `axes` axes (or one less, or Pillow's own type)."""
    if isinstance(images, (list, tuple)):
        if len(images) == 0:
            raise ValueError("There is no image in the list.")
        return list(images)
    if isinstance(images, Image.Image):
        return [images]
    array = transforms.to_array(images)
    if array.ndim == axes + 1:
        return list(array)
    if array.ndim == axes or (axes == 3 and array.ndim == 2):
        return [array]
    raise ValueError(f"Expected an array of {axes} axes, or {axes + 1} for a batch, but its shape is {array.shape}.")


def collate(arrays: list[np.ndarray], name: str, kind: str | None) -> Any:
    """Stacks the arrays of a batch and hands them to a framework."""
    if kind is None:
        return arrays
    if kind not in _TENSOR_MAKERS:
        raise ValueError(f"return_tensors must be None or one of {', '.join(_TENSOR_MAKERS)}, but is {kind!r}.")
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) > 1:
        raise ValueError(
            f"{name}: images of different shapes cannot be stacked: {shapes}. Set do_resize=True, pass "
            "return_tensors=None for lists, or prepare them one at a time."
        )
    return _TENSOR_MAKERS[kind](np.stack(arrays))


def _to_tensorflow(array: np.ndarray) -> Any:
    """Makes a TensorFlow tensor."""
    import tensorflow as tf

    return tf.convert_to_tensor(array)


def _to_torch(array: np.ndarray) -> Any:
    """Makes a torch tensor."""
    import torch

    return torch.from_numpy(array)


def _to_jax(array: np.ndarray) -> Any:
    """Makes a JAX array."""
    import jax.numpy as jnp

    return jnp.asarray(array)


_TENSOR_MAKERS = {"np": lambda array: array, "tf": _to_tensorflow, "pt": _to_torch, "jax": _to_jax}
