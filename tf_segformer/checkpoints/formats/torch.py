"""Reads PyTorch's files without PyTorch: the zip archive (torch >= 1.6) and the stream of pickles before it."""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from tf_segformer.checkpoints.formats.pickle import Placeholder, Rebuild, read_pickle
from tf_segformer.checkpoints.formats.zip_entries import start_of_entry
from tf_segformer.checkpoints.tensors import Checkpoint, LazyTensor
from tf_segformer.errors import CheckpointError
from tf_segformer.io import open_zip

MAX_PICKLE_BYTES = 16 * 2**20  # the pickle describes the tensors, it does not hold them: a B5's has 0.2 MB
STREAM_MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")  # a pickle of the number that opens the old format

# Where training code keeps the weights in the object that it saves, the preferred place first.
STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model", "state_dict_ema", "ema", "model_ema", "module")
WRAPPER_PREFIXES = ("module.", "model.", "_orig_mod.")  # DataParallel, Lightning, torch.compile

_MAX_DIMENSIONS = 8


@dataclass(frozen=True)
class _Storage:
    """A run of numbers in the file; `begin` is where a view of it starts."""

    dtype: np.dtype
    key: str
    length: int
    begin: int = 0


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage: offset and strides count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_torch_zip(path: Path) -> Checkpoint:
    """Reads the zip archive that `torch.save` writes.

    Args:
        path: A ".bin", ".pth" or ".pt" file.

    Returns:
        Its tensors, not yet read, and class names and palette where its meta data has them.

    Raises:
        CheckpointError: For anything that is not plain tensors: damaged, compressed, executable, absurd sizes.
    """
    try:
        with open_zip(path) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            pickles = [name for name in entries if name.split("/", 1)[-1] == "data.pkl"]
            if len(pickles) != 1:
                raise ValueError("a zip archive, but not one of torch.save (no data.pkl in it)")
            root = pickles[0][: -len("data.pkl")]
            for name, entry in entries.items():
                if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                    raise ValueError(f"{name[:100]!r} is compressed or encrypted, which torch.save never does")
            if entries[pickles[0]].file_size > MAX_PICKLE_BYTES:
                raise ValueError(f"its data.pkl has more than {MAX_PICKLE_BYTES} bytes")
            if f"{root}byteorder" in entries and archive.open(f"{root}byteorder").read(16) != b"little":
                raise ValueError("big-endian numbers")
            described = read_pickle(io.BytesIO(archive.read(pickles[0])), _GLOBALS, _load_storage)
    except (ValueError, zipfile.BadZipFile, OSError) as error:
        raise _unreadable(path, error) from error

    def locate(storage: _Storage) -> tuple[int, int]:
        entry = entries.get(f"{root}data/{storage.key}")
        if entry is None:
            raise ValueError(f"the storage {storage.key[:100]!r} is missing")
        return start_of_entry(path, entry), entry.file_size

    return _assemble(path, described, locate)


def read_torch_stream(path: Path) -> Checkpoint:
    """Reads the older format of `torch.save`: pickles one after the other, then the storages.

    Args:
        path: A ".bin", ".pth" or ".pt" file that begins with `STREAM_MAGIC`.

    Returns:
        Its tensors, not yet read, and class names and palette where its meta data has them.

    Raises:
        CheckpointError: For anything that is not plain tensors: damaged, executable, absurd sizes.
    """
    places: dict[str, tuple[int, int]] = {}
    storages: dict[str, _Storage] = {}

    def remember(persistent_id: Any) -> _Storage:
        storage = _load_storage(persistent_id)
        storages[storage.key] = storage
        return storage

    try:
        with path.open("rb") as file:
            stream = io.BytesIO(file.read(min(MAX_PICKLE_BYTES, path.stat().st_size)))
            _magic, _version, system = (read_pickle(stream, {}, _reject_storage) for _ in range(3))
            if not isinstance(system, dict) or system.get("little_endian") is not True:
                raise ValueError("big-endian numbers, or no word on their order")
            described = read_pickle(stream, _GLOBALS, remember)
            keys = read_pickle(stream, {}, _reject_storage)
            if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
                raise ValueError("no list of storages")
            position = stream.tell()
            for key in keys:
                file.seek(position)
                length = struct.unpack("<q", file.read(8))[0]
                if key not in storages or length < 0:
                    raise ValueError(f"an unknown storage {key[:100]!r}")
                places[key] = (position + 8, length * storages[key].dtype.itemsize)
                position += 8 + places[key][1]
    except (ValueError, OSError, struct.error, OverflowError) as error:
        raise _unreadable(path, error) from error

    def locate(storage: _Storage) -> tuple[int, int]:
        if storage.key not in places:
            raise ValueError(f"the storage {storage.key[:100]!r} is missing")
        return places[storage.key]

    return _assemble(path, described, locate)


def _assemble(path: Path, described: Any, locate: Any) -> Checkpoint:
    """The checkpoint of a described object: its state dict as lazy tensors, its class names and palette."""
    size = path.stat().st_size
    try:
        places = {tensor.storage.key: locate(tensor.storage) for tensor in _find_state_dict(described).values()}
        tensors = {
            name: _lazy(path, size, tensor, *places[tensor.storage.key])
            for name, tensor in _without_wrapper(_find_state_dict(described)).items()
        }
    except (ValueError, OSError, struct.error) as error:
        raise _unreadable(path, error) from error
    class_names, palette = _labels(described)
    return Checkpoint(path, tensors, class_names, palette)


def _find_state_dict(described: Any) -> dict[str, _Tensor]:
    """The tensors by name, wherever the saved object keeps them."""
    candidates = [described]
    if isinstance(described, dict):
        candidates += [described[key] for key in STATE_DICT_KEYS if isinstance(described.get(key), dict)]
        candidates += [each["state_dict"] for each in candidates[1:] if isinstance(each.get("state_dict"), dict)]
    for candidate in candidates:
        if isinstance(candidate, dict):
            found = {
                key: value for key, value in candidate.items() if isinstance(key, str) and isinstance(value, _Tensor)
            }
            if found:
                return found
    raise ValueError(f"no state dict in it, neither at the top nor under {', '.join(STATE_DICT_KEYS)}")


def _without_wrapper(state_dict: dict[str, _Tensor]) -> dict[str, _Tensor]:
    """Drops the prefixes that wrappers put before every name."""
    for prefix in WRAPPER_PREFIXES:
        if all(name.startswith(prefix) for name in state_dict):
            state_dict = {name[len(prefix) :]: tensor for name, tensor in state_dict.items()}
    return state_dict


def _lazy(path: Path, size: int, tensor: _Tensor, start: int, nbytes: int) -> LazyTensor:
    """A tensor as a window of the file, rejected where it reaches out of its storage or the storage out of the file."""
    storage = tensor.storage
    if start + nbytes > size:
        raise ValueError(f"a storage of {nbytes} bytes at {start} in a file of {size}: truncated")
    if (storage.begin + storage.length) * storage.dtype.itemsize > nbytes:
        raise ValueError(f"a storage of {nbytes} bytes that claims {storage.length} numbers of {storage.dtype}")
    count = math.prod(tensor.shape)
    reach = 1 + sum((length - 1) * stride for length, stride in zip(tensor.shape, tensor.strides, strict=True))
    if count and (tensor.offset + reach > storage.length or count > storage.length):
        raise ValueError(f"a tensor of shape {tensor.shape} that reaches out of its storage")
    first = start + (storage.begin + tensor.offset) * storage.dtype.itemsize

    def read() -> np.ndarray:
        if not count:
            return np.empty(tensor.shape, storage.dtype)
        with path.open("rb") as file:
            file.seek(first)
            window = np.frombuffer(file.read(reach * storage.dtype.itemsize), storage.dtype)
        strides = tuple(stride * storage.dtype.itemsize for stride in tensor.strides)
        return np.lib.stride_tricks.as_strided(window, tensor.shape, strides, writeable=False)

    return LazyTensor(tensor.shape, storage.dtype, read)


def _labels(described: Any) -> tuple[tuple[str, ...] | None, tuple[tuple[int, int, int], ...] | None]:
    """Class names and palette of mmsegmentation's meta data, where they are plain data that fit together."""
    meta = described.get("meta") if isinstance(described, dict) else None
    meta = meta if isinstance(meta, dict) else {}
    dataset = meta.get("dataset_meta")
    dataset = dataset if isinstance(dataset, dict) else {}
    names = dataset.get("classes", meta.get("CLASSES"))
    palette = dataset.get("palette", meta.get("PALETTE"))
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
        return None, None
    if isinstance(palette, list | tuple) and len(palette) == len(names) and all(_is_color(color) for color in palette):
        return tuple(names), tuple(tuple(color) for color in palette)
    return tuple(names), None


def _is_color(value: Any) -> bool:
    """Whether a value is three whole numbers from 0 to 255."""
    return isinstance(value, list | tuple) and len(value) == 3 and all(_is_size(each) and each < 256 for each in value)


def _is_size(value: Any) -> bool:
    """Whether a value is a whole number from 0 to the largest that a file position can take."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**60


def _load_storage(persistent_id: Any) -> _Storage:
    """The storage that a persistent id names, with the view of it that files before torch 0.4 may have."""
    kind, dtype, key, _location, length, *rest = persistent_id
    if kind != "storage" or not isinstance(dtype, np.dtype) or not isinstance(key, str) or not _is_size(length):
        raise ValueError("a persistent id that is no storage")
    if rest and rest[0] is not None:
        _view_key, begin, view_length = rest[0]
        if not _is_size(begin) or not _is_size(view_length) or begin + view_length > length:
            raise ValueError("a view that reaches out of its storage")
        return _Storage(dtype, key, view_length, begin)
    return _Storage(dtype, key, length)


def _reject_storage(persistent_id: Any) -> Any:
    """No storage is due in the short pickles around the object."""
    raise ValueError("a storage where none is due")


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    """What torch._utils._rebuild_tensor and _rebuild_tensor_v2 describe."""
    sizes = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or len(shape) != len(strides) or len(shape) > _MAX_DIMENSIONS:
        raise ValueError("a tensor without a storage, or with a shape that is none")
    if not all(_is_size(size) for size in sizes):
        raise ValueError("a tensor with a negative or absurd offset, shape or stride")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    """What torch._utils._rebuild_parameter describes: the tensor of a parameter."""
    return tensor


def _rebuild_dict(*items: Any) -> dict[str, Any]:
    """An OrderedDict, which is pickled empty and filled afterwards, or as a list of pairs."""
    return {key: value for key, value in (items[0] if items else ()) if isinstance(key, str)}


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    reason = str(error) or type(error).__name__
    return CheckpointError(f"{path}: not a readable PyTorch checkpoint: {reason}")


_STORAGES: Mapping[str, Any] = {
    "Float": np.float32,
    "Double": np.float64,
    "Half": np.float16,
    "BFloat16": ml_dtypes.bfloat16,
    "Long": np.int64,
    "Int": np.int32,
    "Short": np.int16,
    "Char": np.int8,
    "Byte": np.uint8,
    "Bool": np.bool_,
}

# Met in the meta data and optimizer state of real training runs: read past, never built and never called.
_HARMLESS = (
    *(
        f"{module} {name}"
        for module in ("builtins", "__builtin__")  # the second is what Python 2 called it, and pickles still do
        for name in (
            "set",
            "frozenset",
            "dict",
            "list",
            "int",
            "long",
            "float",
            "bytearray",
            "complex",
            "slice",
            "object",
            "getattr",
        )
    ),
    "argparse Namespace",
    "_codecs encode",
    "copy_reg _reconstructor",
    "collections defaultdict",
    "datetime datetime",
    "pathlib PosixPath",
    "pathlib WindowsPath",
    "numpy dtype",
    "numpy ndarray",
    *(f"numpy.dtypes {name}DType" for name in ("Float32", "Float64", "Int32", "Int64", "Bool")),
    *(f"numpy.{core}.multiarray {name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "torch device",
    *(f"torch {name}" for name in ("float32", "float16", "bfloat16", "float64", "int64")),
    "mmcv.utils.config ConfigDict",
    "mmengine.config.config ConfigDict",
    "mmengine.logging.history_buffer HistoryBuffer",
    "mmengine.logging.message_hub MessageHub",
    "typing Any",
    # All names of packages whose objects lie in the hyperparameters of training runs.
    "lightning *",
    "lightning_fabric *",
    "nvidia_tao_core.config *",
    "nvidia_tao_pytorch.config *",
    "omegaconf *",
    "pytorch_lightning *",
    "segmentation_models_pytorch *",
    "torch.nn.modules *",
    "torchmetrics *",
)

_GLOBALS: Mapping[str, Any] = {
    "collections OrderedDict": Rebuild(_rebuild_dict),
    "torch Size": Rebuild(lambda *sizes: tuple(*sizes)),
    "torch._utils _rebuild_tensor": Rebuild(_rebuild_tensor),
    "torch._utils _rebuild_tensor_v2": Rebuild(_rebuild_tensor),
    "torch._utils _rebuild_parameter": Rebuild(_rebuild_parameter),
    **{f"torch {name}Storage": np.dtype(dtype) for name, dtype in _STORAGES.items()},
    **dict.fromkeys(_HARMLESS, Placeholder),
}
