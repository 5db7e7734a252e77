"""Tells layers that the graph being drawn is meant for another engine, which knows fewer operations than TensorFlow."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

_wanted = contextvars.ContextVar("plain_operations_wanted", default=False)


@contextlib.contextmanager
def plain_operations() -> Iterator[None]:
    """Draws graphs without loops and without what only TensorFlow's optimizer understands, for LiteRT.

    Example:
        >>> with plain_operations():
        ...     plain_operations_wanted()
        True
    """
    token = _wanted.set(True)
    try:
        yield
    finally:
        _wanted.reset(token)


def plain_operations_wanted() -> bool:
    """Whether layers are called within `plain_operations`."""
    return _wanted.get()
