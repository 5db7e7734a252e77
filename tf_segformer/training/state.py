"""The training state on disk: every variable of model and optimizer, whole or not at all."""

from __future__ import annotations

import json
import math
import tokenize
import zipfile
from pathlib import Path
from typing import IO, Any

import keras
import numpy as np

from tf_segformer.errors import CheckpointError
from tf_segformer.io import atomic_write, open_zip
from tf_segformer.training.distributed import assign_from_first_process, on_first_process

_META = "__meta__"
_DAMAGE = (
    *(OSError, ValueError, KeyError, zipfile.BadZipFile),
    *(SyntaxError, tokenize.TokenError),  # of NumPy's header, which is Python's notation of a dictionary
)


def save_state(path: str | Path, model: keras.Model, meta: dict[str, Any]) -> None:
    """Writes weights, moving averages, seeds of dropout, optimizer moments and loss scale.

    Args:
        path: File ending in ".npz"; an earlier one stays whole until the new one is complete.
        model: Compiled model whose optimizer is built.
        meta: Plain values, such as the step.

    Example:
        >>> save_state("state.npz", model, {"step": 500})
    """
    path = Path(path)
    arrays: dict[str, Any] = {
        name: keras.ops.convert_to_numpy(variable) for name, variable in _named_variables(model).items()
    }
    arrays[_META] = np.array(json.dumps(meta))
    with atomic_write(path, fsync=True) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)


def load_state(path: str | Path, model: keras.Model) -> dict[str, Any]:
    """Reads what `save_state` wrote into a model of the same architecture and optimizer; process 0 reads for all.

    Args:
        path: The file.
        model: Compiled model whose optimizer is built.

    Returns:
        The `meta` that was saved.

    Raises:
        CheckpointError: The file is missing, damaged, or of another model or optimizer; the model is unchanged.

    Example:
        >>> save_state("state.npz", model, {"step": 500})
        >>> load_state("state.npz", model)["step"]
        500
    """
    path, variables = Path(path), _named_variables(model)
    stored = {name: np.zeros(each.shape, each.dtype) for name, each in variables.items()}  # of process 0, elsewhere

    def read() -> dict[str, Any]:
        values, meta = _read_state(path, variables)
        stored.update(values)
        return meta

    meta = on_first_process(read)
    assign_from_first_process(list(variables.values()), list(stored.values()))
    return meta


def _read_state(path: Path, variables: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Every array by name and the meta data of a file that fits the variables."""
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no training state to resume from")
    try:
        with open_zip(path) as archive:
            wrong = _differences(_shapes(archive, path.stat().st_size), variables)
            stored = {} if wrong else {name: _read_array(archive, name) for name in variables}
            meta = {} if wrong else json.loads(str(_read_array(archive, _META)))
        if not isinstance(meta, dict):
            raise ValueError("its meta data is no dictionary")
    except _DAMAGE as error:
        raise CheckpointError(f"{path}: not a readable training state ({error})") from error
    if wrong:
        raise CheckpointError(
            f"{path}: belongs to another model or optimizer ({len(wrong)} tensors differ, such as {wrong[0]}): "
            "resume with the recipe that the run was started with"
        )
    return stored, meta


def _differences(shapes: dict[str, tuple[int, ...]], variables: dict[str, Any]) -> list[str]:
    """Names that the file or the model lacks, and names of arrays of another shape."""
    wrong = sorted(set(shapes) ^ {*variables, _META})
    return wrong + [name for name, each in variables.items() if name in shapes and shapes[name] != tuple(each.shape)]


def _shapes(archive: zipfile.ZipFile, size: int) -> dict[str, tuple[int, ...]]:
    """Shape of every array by name, from the headers alone: what a file claims is checked before memory is given."""
    shapes = {}
    for entry in archive.infolist():
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise ValueError(f"{entry.filename[:100]!r} is compressed or encrypted, which save_state never does")
        with archive.open(entry) as file:
            shape, dtype = _header(file)
            if math.prod(shape) * dtype.itemsize != entry.file_size - file.tell():
                raise ValueError(f"{entry.filename[:100]!r} claims another size than it has")
        shapes[entry.filename.removesuffix(".npy")] = shape
    if sum(entry.file_size for entry in archive.infolist()) > size:
        raise ValueError("its arrays claim more bytes than the file has")
    return shapes


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array in NumPy's format; arrays of objects, which are pickles, are rejected."""
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("an array in another version of NumPy's format")
    shape, _fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject:
        raise ValueError("an array of Python objects")
    return shape, dtype


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """One array, whose header is checked."""
    with archive.open(f"{name}.npy") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _named_variables(model: keras.Model) -> dict[str, Any]:
    """Variables by position and path without its first part, which counts up with every model of a process."""
    groups = {"model": model.variables, "optimizer": model.optimizer.variables}
    return {
        f"{group}/{index:04d}/{variable.path.rpartition('/')[2]}": variable
        for group, variables in groups.items()
        for index, variable in enumerate(variables)
    }
