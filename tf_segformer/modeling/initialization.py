"""What every layer class_fractions: the name it is registered under and how its kernels start."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import keras

PACKAGE = "tf_segformer"

_skip_initialization = contextvars.ContextVar("skip_initialization", default=False)


@contextlib.contextmanager
def skip_initialization() -> Iterator[None]:
    """Makes models whose encoder starts as zeros, since a checkpoint fills it: drawing B5's takes over a second.

    Example:
        >>> with skip_initialization():
        ...     float(keras.ops.max(keras.ops.abs(EncoderInitializer(stddev=1.0)((2, 3)))))
        0.0
    """
    token = _skip_initialization.set(True)
    try:
        yield
    finally:
        _skip_initialization.reset(token)


def normal_initializer(std: float) -> keras.initializers.Initializer:
    """A fresh normal initializer: a shared one would give every layer the same numbers."""
    return keras.initializers.RandomNormal(stddev=std)


@keras.saving.register_keras_serializable(package=PACKAGE)
class EncoderInitializer(keras.initializers.RandomNormal):
    """Normal initializer of the encoder's kernels, which every checkpoint holds; heads are drawn where it has none."""

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> Any:
        """Draws a kernel, unless a checkpoint follows."""
        if _skip_initialization.get():
            return keras.ops.zeros(shape, dtype=dtype)
        return super().__call__(shape, dtype=dtype)
