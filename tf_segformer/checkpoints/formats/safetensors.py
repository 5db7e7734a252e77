"""Reads and writes safetensors files, which their own library maps into memory."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import ml_dtypes
import numpy as np

from tf_segformer.checkpoints.tensors import Checkpoint, LazyTensor
from tf_segformer.errors import CheckpointError

_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}


def read_safetensors(path: Path) -> Checkpoint:
    """Reads names and shapes of a safetensors file.

    Args:
        path: The file.

    Returns:
        Its tensors, not yet read.

    Raises:
        CheckpointError: For a damaged file, and for numbers of a type that no SegFormer has.
    """
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(path, framework="numpy")
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (it is no dictionary)
        tensors = {
            name: LazyTensor(tuple(each.get_shape()), _DTYPES[each.get_dtype()], partial(file.get_tensor, name))
            for name, each in slices.items()
        }
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file: {error}") from error
    except KeyError as error:
        raise CheckpointError(f"{path}: numbers of type {error}, which no SegFormer uses") from error
    return Checkpoint(path, tensors)


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
