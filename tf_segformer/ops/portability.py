"""Tells layers that the graph being drawn is meant for another engine, which knows fewer operations than TensorFlow."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

_wanted = contextvars.ContextVar("exporting", default=False)


@contextlib.contextmanager
def export_mode() -> Iterator[None]:
    """Draws graphs without loops and without what only TensorFlow's optimizer understands, for LiteRT.

    Example:
        >>> with export_mode():
        ...     exporting()
        True
    """
    token = _wanted.set(True)
    try:
        yield
    finally:
        _wanted.reset(token)


def exporting() -> bool:
    """Whether layers are called within `export_mode`."""
    return _wanted.get()
