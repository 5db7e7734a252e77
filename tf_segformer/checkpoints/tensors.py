"""What every reader returns: tensors that are known by name, shape and dtype and read when they are asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class LazyTensor:
    """A tensor in a file.

    Args:
        shape: Its shape, known without reading it.
        dtype: Its NumPy dtype; bfloat16 is that of `ml_dtypes`.
        read: Reads its values, an array of that shape and dtype, read again on every call.

    Example:
        >>> LazyTensor.of(np.zeros((2, 3), "float32")).shape
        (2, 3)
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray] = field(compare=False, repr=False)

    @classmethod
    def of(cls, array: np.ndarray) -> LazyTensor:
        """Wraps an array that is already in memory."""
        return cls(tuple(array.shape), array.dtype, lambda: array)

    @property
    def nbytes(self) -> int:
        """Bytes of the values once read."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a checkpoint, before anything is said about its names.

    Args:
        path: The file it was read from; error messages name it.
        tensors: Tensors by the names that the file gives them.
        class_names: Names of the classes where the file holds them as plain data.
        palette: One (red, green, blue) a class, 0 to 255, where the file holds them.
        config: Fields of the model's configuration where the file holds them itself (a `.keras` archive).
    """

    path: Path
    tensors: Mapping[str, LazyTensor]
    class_names: tuple[str, ...] | None = None
    palette: tuple[tuple[int, int, int], ...] | None = None
    config: Mapping[str, object] | None = None
