"""Writes checkpoints so that a run that is killed leaves what was there before, or nothing that loads."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tf_segformer.checkpoints.tensors import LazyTensor
from tf_segformer.configuration import CONFIG_NAME
from tf_segformer.errors import CheckpointError

WEIGHTS_NAME = "model.safetensors"
_PARTIAL = ".partial"


def write_folder(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, LazyTensor]) -> None:
    """Writes config.json and model.safetensors, first aside and then in their places.

    Before the new configuration takes its place, old weights give way to an empty file. A run that is killed between
    the renames therefore leaves a folder that is rejectd, never new weights under an old configuration.

    Args:
        folder: The folder to write to; made where it is missing.
        config: What config.json shall say.
        tensors: Tensors by the names that the file shall give them.

    Raises:
        CheckpointError: Where the folder cannot be written; what was in it is then still there.
    """
    weights = folder / WEIGHTS_NAME
    empty = folder / f"{WEIGHTS_NAME}.empty"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_safetensors(_aside(weights), tensors)
        _aside(folder / CONFIG_NAME).write_text(
            json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        _force_to_disk(_aside(folder / CONFIG_NAME))
        empty.touch()
        os.replace(empty, weights)
        os.replace(_aside(folder / CONFIG_NAME), folder / CONFIG_NAME)
        os.replace(_aside(weights), weights)
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be written: {error.strerror or error}") from error


def write_safetensors(path: Path, tensors: Mapping[str, LazyTensor]) -> None:
    """Writes tensors as a safetensors file that is on the disk when this returns.

    Args:
        path: The file to write.
        tensors: Tensors by name.

    Raises:
        CheckpointError: Where the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    arrays = {name: np.asarray(tensor.read(), order="C") for name, tensor in tensors.items()}
    try:
        save_file(arrays, path, metadata={"format": "pt"})  # transformers rejects a file that does not say so
        _force_to_disk(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be written: {error}") from error


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Lets a file be written aside; it takes its place once it is whole and on the disk.

    Args:
        path: The file; its folder is made where it is missing.

    Yields:
        Where to write it.

    Raises:
        CheckpointError: Where it cannot be written; what was in its place is then still there.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with written_aside(Path(folder, "file")) as partial:
        ...         _ = partial.write_text("all of it")
        ...     Path(folder, "file").read_text()
        'all of it'
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield _aside(path)
        _force_to_disk(_aside(path))
        os.replace(_aside(path), path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error.strerror or error}") from error


def _aside(path: Path) -> Path:
    """Where a file is written before it takes its place."""
    return path.with_name(path.name + _PARTIAL)


def _force_to_disk(path: Path) -> None:
    """Waits until a file's bytes are on the disk, so that its new name cannot be there before them."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
