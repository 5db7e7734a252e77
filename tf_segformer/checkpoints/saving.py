"""Writes checkpoints so that a run that is killed leaves the old model or the new one, never a mixture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tf_segformer.checkpoints.tensors import LazyTensor
from tf_segformer.configuration import CONFIG_NAME
from tf_segformer.errors import CheckpointError
from tf_segformer.io import atomic_update, write_json

WEIGHTS_NAME = "model.safetensors"


def write_folder(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, LazyTensor]) -> None:
    """Writes config.json and model.safetensors, both of them or none.

    Args:
        folder: The folder to write to; made where it is missing.
        config: What config.json shall say.
        tensors: Tensors by the names that the file shall give them.

    Raises:
        CheckpointError: Where the folder cannot be written; what was in it is then still there.
    """
    with write_errors(folder), atomic_update(folder, fsync=True) as partial:
        write_safetensors(partial / WEIGHTS_NAME, tensors)
        write_json(partial / CONFIG_NAME, config)


def write_safetensors(path: Path, tensors: Mapping[str, LazyTensor]) -> None:
    """Writes tensors as a safetensors file.

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
    except SafetensorError as error:
        raise CheckpointError(f"{path}: cannot be written: {error}") from error


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Reports what the operating system refuses as a `CheckpointError` that names a path.

    Args:
        path: What is being written.

    Raises:
        CheckpointError: For every OSError of the block.
    """
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error.strerror or error}") from error
