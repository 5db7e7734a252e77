"""Reads TensorFlow's checkpoints: what Keras 2 saves under a name without suffix, and a SavedModel's variables."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tf_segformer.checkpoints.formats.tensorflow_table import TABLE_MAGIC, read_table, read_varint
from tf_segformer.checkpoints.tensors import Checkpoint, LazyTensor
from tf_segformer.errors import CheckpointError
from tf_segformer.hub import WEIGHT_FILES
from tf_segformer.io import read_bytes, read_text

MAX_INDEX_BYTES = 16 * 2**20  # a B5 with the state of its optimizer has 0.5 MB

_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_FILE = re.compile(r"\.(?:index|data-\d{5}-of-\d{5})$")
_NEWEST = re.compile(r'^model_checkpoint_path: "([^"]+)"', re.MULTILINE)
_CHECKSUM = 4  # bytes
_LEAF = "/.ATTRIBUTES/VARIABLE_VALUE"
# Of the optimizer, its slots, the metrics and the counter of saves.
_STATE = re.compile(r"(?:.*/)?(?:optimizer|keras_api|\.OPTIMIZER_SLOT)/.*|(?:.*/)?save_counter/.*")


def find_tensorflow_index(path: Path) -> Path | None:
    """Finds the index of a TensorFlow checkpoint.

    Args:
        path: The checkpoint's prefix, one of its files, its folder, or that of a SavedModel.

    Returns:
        The "*.index" file; None where there is none, or where a folder has weights in another format.

    Raises:
        CheckpointError: For a folder with several checkpoints and no word on the newest.
    """
    if not path.is_dir():
        index = Path(f"{_FILE.sub('', str(path))}.index")
        return index if index.is_file() and (_FILE.search(path.name) or not path.is_file()) else None
    if any((path / name).is_file() for name in WEIGHT_FILES):
        return None
    if (path / "variables" / "variables.index").is_file():
        return path / "variables" / "variables.index"
    found = sorted(path.glob("*.index"))
    newest = _NEWEST.search(read_text(path / "checkpoint")) if found and (path / "checkpoint").is_file() else None
    named = path / f"{Path(newest[1]).name}.index" if newest else None  # moved with its folder, only the name counts
    if named in found or len(found) < 2:
        return named if named in found else next(iter(found), None)
    prefixes = ", ".join(index.stem for index in found)
    raise CheckpointError(f"{path}: several TensorFlow checkpoints in it, give the prefix of one of {prefixes}")


def is_tensorflow_index(path: Path) -> bool:
    """Whether a file is the index of a TensorFlow checkpoint, by its last bytes.

    Args:
        path: The file.

    Returns:
        True for the "*.index" of a checkpoint.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - len(TABLE_MAGIC), 0))
        return file.read() == TABLE_MAGIC


def read_tensorflow_checkpoint(index: Path) -> Checkpoint:
    """Reads names and shapes of a TensorFlow checkpoint.

    The tensors have the full names of their variables where the checkpoint holds its object graph, as Keras' do;
    otherwise their keys.

    Args:
        index: The "*.index" file; the "*.data-?????-of-?????" files lie next to it.

    Returns:
        The model's tensors, not yet read, named "layer.layer.leaf"; state of an optimizer is left out.

    Raises:
        CheckpointError: For a damaged checkpoint, one without its data, and one that claims more than its files hold.
    """
    from google.protobuf.message import DecodeError

    try:
        places = _read_places(index)
        graph = places.get(_OBJECT_GRAPH)
        names = {} if graph is None else _full_names(_read_text(graph))
        wanted = [key for key in places if key != _OBJECT_GRAPH and not _STATE.fullmatch(key)]
        uses = Counter(names.get(key) for key in wanted)
        tensors = {}
        for key in sorted(wanted):
            full = names.get(key)
            name = full if full and uses[full] == 1 else key.removesuffix(_LEAF)
            tensors[name.replace("/", ".")] = _lazy(key, places[key])
    except (DecodeError, OSError, ValueError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{index}: not a readable TensorFlow checkpoint: {str(error) or repr(error)}") from error
    return Checkpoint(index, tensors)


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies: the position counts bytes of the file."""

    file: Path
    position: int
    size: int
    shape: tuple[int, ...]
    dtype: Any


def _read_places(index: Path) -> dict[str, _Place]:
    """Where each tensor of a checkpoint lies, by its key."""
    table = read_table(read_bytes(index, MAX_INDEX_BYTES))  # before what takes seconds

    import tensorflow as tf
    from tensorflow.core.protobuf import tensor_bundle_pb2

    header = tensor_bundle_pb2.BundleHeaderProto.FromString(table.pop(b"", b""))
    if header.endianness != tensor_bundle_pb2.BundleHeaderProto.LITTLE:
        raise ValueError("big-endian numbers")
    sizes: dict[Path, int] = {}
    places = {}
    for key, value in table.items():
        entry = tensor_bundle_pb2.BundleEntryProto.FromString(value)
        file = index.with_suffix(f".data-{entry.shard_id:05d}-of-{header.num_shards:05d}")
        if file not in sizes and not file.is_file():
            raise ValueError(f"its {file.name} is missing: put it next to it")
        sizes.setdefault(file, file.stat().st_size)
        name = key.decode("utf-8", errors="replace")
        shape = tuple(each.size for each in entry.shape.dim)
        if entry.slices or entry.offset < 0 or entry.size < 0 or any(each < 0 for each in shape):
            raise ValueError(f"{name[:100]}: a tensor in parts, or at no place")
        if entry.offset + entry.size > sizes[file]:
            raise ValueError(f"{name[:100]} reaches out of {file.name}: truncated")
        places[name] = _Place(file, entry.offset, entry.size, shape, tf.dtypes.as_dtype(entry.dtype))
    return places


def _read_text(place: _Place) -> bytes:
    """The bytes of a scalar of text: its length, a checksum of that, and as many bytes."""
    data = _window(place)
    length, start = read_varint(data, 0)
    if place.shape or place.dtype.name != "string" or start + _CHECKSUM + length != len(data):
        raise ValueError("a damaged graph of objects")
    return data[start + _CHECKSUM :]


def _full_names(graph: bytes) -> Mapping[str, str]:
    """The full name of the variable behind each key, from the graph of the objects that were saved."""
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    nodes = trackable_object_graph_pb2.TrackableObjectGraph.FromString(graph).nodes
    return {each.checkpoint_key: each.full_name for node in nodes for each in node.attributes}


def _lazy(key: str, place: _Place) -> LazyTensor:
    """A tensor of the checkpoint, rejected where its shape does not have its size."""
    if not (place.dtype.is_floating or place.dtype.is_integer or place.dtype.is_bool):
        raise ValueError(f"{key[:100]} holds {place.dtype.name}, not numbers")
    dtype = np.dtype(place.dtype.as_numpy_dtype)
    if math.prod(place.shape) * dtype.itemsize != place.size:
        raise ValueError(f"{key[:100]} claims the shape {place.shape}, its {place.size} bytes are of another")
    return LazyTensor(place.shape, dtype, lambda: np.frombuffer(_window(place), dtype).reshape(place.shape))


def _window(place: _Place) -> bytes:
    """The bytes of a tensor."""
    with place.file.open("rb") as file:
        file.seek(place.position)
        return file.read(place.size)
