"""The errors that users see: each names the thing that is wrong and the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class SegformerError(ValueError):
    """Base of the errors that the command line prints as one line (exit code 2)."""


class CheckpointError(SegformerError):
    """A checkpoint cannot be found, read, recognized or matched with the model."""


class ImageError(SegformerError):
    """An image or a segmentation map cannot be read or has no usable form."""


class DatasetError(SegformerError):
    """A dataset is incomplete or holds labels that the model cannot learn."""


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Reports what the operating system does not allow as a `CheckpointError`.

    Args:
        path: What is being written; the error names it.

    Raises:
        CheckpointError: For every OSError of the block.
    """
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error.strerror or error}") from error


def short_message(error: Exception) -> str:
    """What an error of the Hub's client says, without the advice of several lines that follows it.

    Args:
        error: The error.

    Returns:
        Its first line, or the name of its class.

    Example:
        >>> short_message(ValueError("no\\nbecause"))
        'no'
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]
