"""Initial weights, whose random numbers are sampled only where no checkpoint replaces them."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import keras

_skip_initialization = contextvars.ContextVar("skip_initialization", default=False)


@contextlib.contextmanager
def skip_initialization() -> Iterator[None]:
    """Makes kernels of `SkippableNormal` zeros, since a checkpoint follows: sampling B5's takes over a second.

    Example:
        >>> with skip_initialization():
        ...     float(keras.ops.max(keras.ops.abs(SkippableNormal(stddev=1.0)((2, 3)))))
        0.0
    """
    token = _skip_initialization.set(True)
    try:
        yield
    finally:
        _skip_initialization.reset(token)


@keras.saving.register_keras_serializable(package="tf_segformer")
class SkippableNormal(keras.initializers.RandomNormal):
    """Normal initializer of kernels that every checkpoint holds, such as the encoder's.

    Example:
        >>> tuple(SkippableNormal(stddev=0.02)((3, 4)).shape)
        (3, 4)
    """

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> Any:
        """Samples a kernel, or gives zeros within `skip_initialization`."""
        if _skip_initialization.get():
            return keras.ops.zeros(shape, dtype=dtype)
        return super().__call__(shape, dtype=dtype)
