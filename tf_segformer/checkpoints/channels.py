"""A checkpoint for images of other channels: its first kernel spread over them, the rest of the encoder as it is."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np

from tf_segformer.checkpoints.mapping import MappedCheckpoint
from tf_segformer.checkpoints.tensors import LazyTensor

FIRST_KERNEL = "patch_embedding_0/projection/kernel"
NEW_CHANNELS = ("spread", "zero", "random")


def spread_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """A first kernel for more or fewer channels, by which an image of equal channels gives the same map.

    Channel n of many takes the kernel of channel n modulo C, divided by how many take the same; of few, channel n takes
    the sum of all that are n modulo their number.

    Args:
        kernel: (h, w, C, D).
        channels: Channels of the images.

    Returns:
        (h, w, channels, D).

    Source: `adapt_input_conv` of timm, which divides by the mean repetition instead: the same for multiples of three
        and for one channel, and not exact for others.

    Example:
        >>> spread_channels(np.ones((1, 1, 3, 1)), 4).ravel().tolist()
        [0.5, 1.0, 1.0, 0.5]
    """
    before = kernel.shape[2]
    pairs = np.arange(max(before, channels))
    fractions = np.zeros((channels, before), kernel.dtype)
    fractions[pairs % channels, pairs % before] = 1
    return np.einsum("hwcd,nc->hwnd", kernel, fractions / fractions.sum(axis=0))


def zero_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """A first kernel that looks at the checkpoint's channels as before and learns the others from 0.

    Args:
        kernel: (h, w, C, D).
        channels: Channels of the images, of which the first C are those of the checkpoint; the last of these are left
            out where there are fewer.

    Returns:
        (h, w, channels, D).

    Example:
        >>> zero_channels(np.ones((1, 1, 3, 1)), 4).ravel().tolist()
        [1.0, 1.0, 1.0, 0.0]
    """
    before = min(kernel.shape[2], channels)
    return np.pad(kernel[:, :, :before], [(0, 0), (0, 0), (0, channels - before), (0, 0)])


def with_channels(
    mapped: MappedCheckpoint, channels: int, new_channels: str, initializer_range: float
) -> MappedCheckpoint:
    """A checkpoint whose first kernel takes images of a number of channels, with a warning where it changes.

    Args:
        mapped: The checkpoint.
        channels: Channels of the images.
        new_channels: "spread" as `spread_channels` does, "zero" as `zero_channels` does (for RGB and further bands), or
            "random" for a new kernel.
        initializer_range: Standard deviation of a new kernel.

    Returns:
        The checkpoint, the same where its kernel fits or is missing.

    Raises:
        ValueError: For another value of `new_channels`.
    """
    if new_channels not in NEW_CHANNELS:
        raise ValueError(f"new_channels={new_channels!r} must be one of {', '.join(NEW_CHANNELS)}")
    kernel = mapped.tensors.get(FIRST_KERNEL)
    if kernel is None or len(kernel.shape) != 4 or kernel.shape[2] == channels:
        return mapped

    def random() -> np.ndarray:
        import keras

        return keras.ops.convert_to_numpy(keras.random.normal(shape, stddev=initializer_range))

    shape = (*kernel.shape[:2], channels, kernel.shape[3])
    did, read = {
        "spread": (
            "is spread so that an image of equal channels gives the same map; new_channels='random' initializes it",
            lambda: spread_channels(kernel.read().astype(np.float32), channels),
        ),
        "zero": (
            "is kept for the first of them, the others start at 0",
            lambda: zero_channels(kernel.read().astype(np.float32), channels),
        ),
        "random": ("is newly initialized, train it first", random),
    }[new_channels]
    message = f"{mapped.path} has a first kernel of {kernel.shape[2]} channels, the model takes {channels}: it {did}"
    warnings.warn(message, UserWarning, stacklevel=4)
    replaced = LazyTensor(shape, np.dtype(np.float32), read)
    return dataclasses.replace(mapped, tensors={**mapped.tensors, FIRST_KERNEL: replaced})
