"""Reads any checkpoint file: what it is, its first bytes say, not its name."""

from __future__ import annotations

from pathlib import Path

from tf_segformer.checkpoints.formats.hdf5.reader import HDF5_MAGIC
from tf_segformer.checkpoints.formats.keras import is_keras_archive, read_hdf5, read_keras_archive
from tf_segformer.checkpoints.formats.safetensors import read_safetensors
from tf_segformer.checkpoints.formats.tensorflow import is_tensorflow_index, read_tensorflow_checkpoint
from tf_segformer.checkpoints.formats.torch import STREAM_MAGIC, read_torch_stream, read_torch_zip
from tf_segformer.checkpoints.tensors import Checkpoint, LazyTensor
from tf_segformer.errors import CheckpointError
from tf_segformer.hub import shard_names


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Reads names, shapes and meta data of a checkpoint; the tensors themselves are read when they are asked for.

    Args:
        path: A safetensors file, a PyTorch file, an h5 file, a `.keras` archive, the index of a sharded checkpoint, or
            that of a TensorFlow checkpoint.

    Returns:
        What the file holds.

    Raises:
        CheckpointError: Naming the file and the reason, for anything unreadable, damaged or suspicious. Nothing in a
            file is ever executed.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from safetensors.numpy import save_file
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_file({"classifier.bias": np.zeros(3, "float32")}, f"{folder}/model.safetensors")
        ...     read_checkpoint(f"{folder}/model.safetensors").tensors["classifier.bias"].shape
        (3,)
    """
    path = Path(path)
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be opened: {error.strerror or error}") from error
    if not head:
        raise CheckpointError(f"{path}: the file is empty; if it was being saved, save or download it again")
    if head.startswith(b"PK\x03\x04"):
        return read_keras_archive(path) if is_keras_archive(path) else read_torch_zip(path)
    if head.startswith(HDF5_MAGIC):
        return read_hdf5(path)
    if head.startswith(STREAM_MAGIC):
        return read_torch_stream(path)
    if head[8:9] == b"{":
        return read_safetensors(path)
    if is_tensorflow_index(path):
        return read_tensorflow_checkpoint(path)
    known = "safetensors, nor PyTorch, nor h5, nor Keras, nor TensorFlow"
    raise CheckpointError(f"{path}: neither {known}; it begins with {head[:8]!r}")


def _read_shards(index: Path) -> Checkpoint:
    """A sharded checkpoint: the shards that its index names, which must hold what the index says."""
    tensors: dict[str, LazyTensor] = {}
    for name in shard_names(index):
        shard = index.parent / name
        if not shard.is_file():
            raise CheckpointError(f"{index}: its shard {name} is missing")
        tensors.update(read_checkpoint(shard).tensors)
    return Checkpoint(index, tensors)
