"""Reads TensorFlow's checkpoints: what Keras 2 saves under a name without suffix, and a SavedModel's variables."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tf_segformer.checkpoints.tensors import Checkpoint, LazyTensor
from tf_segformer.errors import CheckpointError
from tf_segformer.hub import WEIGHT_FILES
from tf_segformer.io import read_text

INDEX_MAGIC = bytes.fromhex("57fb808b247547db")  # the last bytes of TensorFlow's tables
MAX_INDEX_BYTES = 16 * 2**20  # a B5 with the state of its optimizer has 0.5 MB
MAX_TENSORS = 10_000

_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_FILE = re.compile(r"\.(?:index|data-\d{5}-of-\d{5})$")
_NEWEST = re.compile(r'^model_checkpoint_path: "([^"]+)"', re.MULTILINE)
_LEAF = "/.ATTRIBUTES/VARIABLE_VALUE"
_DAMAGE = (OSError, ValueError, RuntimeError, TypeError, LookupError, OverflowError)
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
        file.seek(0, 2)
        if file.tell() < len(INDEX_MAGIC):
            return False
        file.seek(-len(INDEX_MAGIC), 2)
        return file.read() == INDEX_MAGIC


def read_tensorflow_checkpoint(index: Path) -> Checkpoint:
    """Reads names and shapes of a TensorFlow checkpoint, by TensorFlow's own reader.

    The tensors have the full names of their variables where the checkpoint holds its object graph, as Keras' do;
    otherwise their keys.

    Args:
        index: The "*.index" file; the "*.data-?????-of-?????" files lie next to it.

    Returns:
        The model's tensors, not yet read, named "layer.layer.leaf"; state of an optimizer is left out.

    Raises:
        CheckpointError: For a damaged checkpoint, one without its data, and one that claims more than its files hold.
    """
    import tensorflow as tf

    prefix = index.with_suffix("")
    shards = list(index.parent.glob(f"{_escaped(prefix.name)}.data-?????-of-?????"))
    if not shards:
        raise CheckpointError(f"{index}: its {prefix.name}.data-00000-of-00001 is missing: put it next to it")
    try:
        if index.stat().st_size > MAX_INDEX_BYTES:
            raise ValueError(f"an index of more than {MAX_INDEX_BYTES} bytes")
        held = sum(shard.stat().st_size for shard in shards)
        reader = tf.train.load_checkpoint(str(prefix))
        shapes = reader.get_variable_to_shape_map()
        dtypes = reader.get_variable_to_dtype_map()
        if len(shapes) > MAX_TENSORS:
            raise ValueError(f"more than {MAX_TENSORS} tensors")
        names = _full_names(reader) if _OBJECT_GRAPH in shapes else {}
        wanted = [key for key in shapes if key != _OBJECT_GRAPH and not _STATE.fullmatch(key)]
        uses = Counter(names.get(key) for key in wanted)
        tensors = {}
        for key in sorted(wanted):
            name = names[key] if uses[names.get(key)] == 1 and names.get(key) else key.removesuffix(_LEAF)
            tensors[name.replace("/", ".")] = _lazy(index, reader, key, shapes[key], dtypes[key], held)
    except (tf.errors.OpError, *_DAMAGE) as error:
        raise _unreadable(index, error) from error
    return Checkpoint(index, tensors)


def _full_names(reader: Any) -> Mapping[str, str]:
    """The full name of the variable behind each key, from the graph of the objects that were saved."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    try:
        graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(reader.get_tensor(_OBJECT_GRAPH))
    except DecodeError as error:
        raise ValueError("a damaged graph of objects") from error
    return {each.checkpoint_key: each.full_name for node in graph.nodes for each in node.attributes}


def _lazy(index: Path, reader: Any, key: str, shape: Any, dtype: Any, held: int) -> LazyTensor:
    """A tensor of the checkpoint, rejected where it claims more than all its files hold."""
    if not dtype.is_floating and not dtype.is_integer and not dtype.is_bool:
        raise ValueError(f"{key[:100]} holds {dtype.name}, not numbers")
    numpy_dtype = np.dtype(dtype.as_numpy_dtype)
    if any(size < 0 for size in shape) or math.prod(shape) * numpy_dtype.itemsize > held:
        raise ValueError(f"{key[:100]} claims the shape {tuple(shape)}, more than its files hold")

    def read() -> np.ndarray:
        import tensorflow as tf

        try:
            return np.asarray(reader.get_tensor(key))
        except (tf.errors.OpError, *_DAMAGE) as error:
            raise CheckpointError(f"{index}: {key[:100]} cannot be read: {_reason(error)}") from error

    return LazyTensor(tuple(shape), numpy_dtype, read)


def _escaped(name: str) -> str:
    """A file name whose characters stand for themselves in a glob."""
    return re.sub(r"([*?\[])", r"[\1]", name)


def _unreadable(index: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{index}: not a readable TensorFlow checkpoint: {_reason(error)}")


def _reason(error: Exception) -> str:
    return getattr(error, "message", None) or str(error) or type(error).__name__
