"""Datasets of HDF5 as lazy tensors: their numbers' type, where they lie, and how chunks of them are compressed."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import ml_dtypes
import numpy as np

from tf_segformer.checkpoints.formats.hdf5.objects import (
    DATASPACE,
    DATATYPE,
    EXTERNAL_FILES,
    FILTERS,
    LAYOUT,
    Message,
)
from tf_segformer.checkpoints.formats.hdf5.source import UNDEFINED, Source
from tf_segformer.checkpoints.tensors import LazyTensor
from tf_segformer.errors import CheckpointError

_MAX_DIMENSIONS = 8
_DEFLATE, _SHUFFLE, _FLETCHER32 = 1, 2, 3
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
# (bytes, bits of the exponent, bits of the mantissa) of floats.
_FLOATS = {
    (2, 5, 10): np.dtype(np.float16),
    (2, 8, 7): _BFLOAT16,
    (4, 8, 23): np.dtype(np.float32),
    (8, 11, 52): np.dtype(np.float64),
}

Chunks = Callable[[], Iterator[tuple[tuple[int, ...], bytes]]]


def is_dataset(messages: Sequence[Message]) -> bool:
    """Whether an object is a dataset: it has a layout, which a group never has."""
    return any(message.kind == LAYOUT for message in messages)


def read_dataset(source: Source, messages: Sequence[Message]) -> LazyTensor:
    """A dataset as a tensor.

    Args:
        source: The file, open.
        messages: Messages of the dataset's object header.

    Returns:
        The tensor; its `read` opens the file again and raises `CheckpointError` where it cannot be read.

    Raises:
        ValueError: For what is no number, for numbers that do not plainly lie in the file, and for a damaged header.
    """
    said: Mapping[int, bytes] = {message.kind: message.body for message in messages}
    if EXTERNAL_FILES in said:
        raise ValueError("its numbers lie in another file")
    if DATASPACE not in said or DATATYPE not in said:
        raise ValueError("a dataset without a shape or a type")
    shape, dtype = _shape(said[DATASPACE]), _dtype(said[DATATYPE])
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes > source.size:
        raise ValueError(f"claims {nbytes} bytes in a file of {source.size}")
    read = _reader(source, said[LAYOUT], said.get(FILTERS), shape, dtype)
    native = dtype.newbyteorder("=") if dtype.byteorder == ">" else dtype

    def read_all() -> np.ndarray:
        try:
            with Source(source.path, source.start, source.size) as reopened:
                return read(reopened).astype(native, copy=False)
        except (ValueError, OSError, struct.error, zlib.error) as error:
            raise CheckpointError(f"{source.path}: a tensor cannot be read: {error}") from error

    return LazyTensor(shape, native, read_all)


def _shape(body: bytes) -> tuple[int, ...]:
    """The shape that a dataspace message states."""
    version, rank, _flags, kind = body[:4]
    if version not in (1, 2) or rank > _MAX_DIMENSIONS or (version == 2 and kind == 2):
        raise ValueError(f"a shape of {rank} dimensions, or none")
    return struct.unpack_from(f"<{rank}Q", body, 8 if version == 1 else 4)


def _dtype(body: bytes) -> np.dtype:
    """The type that a datatype message states: whole numbers and floats; two opaque bytes are Keras' bfloat16."""
    kind, bits, size = body[0] & 15, body[1], int.from_bytes(body[4:8], "little")
    order = ">" if bits & 1 else "<"
    if kind == 0 and size in (1, 2, 4, 8):
        offset, precision = struct.unpack_from("<HH", body, 8)
        if (offset, precision) == (0, 8 * size):
            return np.dtype(f"{order}{'i' if bits & 8 else 'u'}{size}")
    if kind == 1 and not bits & 0x40:
        offset, precision, exponent, mantissa = struct.unpack_from("<HHxBxB", body, 8)
        dtype = _FLOATS.get((size, exponent, mantissa))
        if dtype is not None and (offset, precision) == (0, 8 * size) and (order == "<" or dtype != _BFLOAT16):
            return dtype if dtype == _BFLOAT16 else dtype.newbyteorder(order)
    if kind == 5 and size == 2:
        return _BFLOAT16
    raise ValueError(f"no numbers, but HDF5's class {kind} of {size} bytes")


def _reader(
    source: Source, layout: bytes, filters: bytes | None, shape: tuple[int, ...], dtype: np.dtype
) -> Callable[[Source], np.ndarray]:
    """A function that reads the numbers from where a layout message says that they are."""
    version, kind = layout[:2]
    nbytes = math.prod(shape) * dtype.itemsize
    if version not in (3, 4) or kind > 2 or (kind == 2 and version == 4):
        raise ValueError("laid out as h5py does with libver='latest', virtually, or as before HDF5 1.6.3")
    if kind == 2:
        steps = _filters(filters) if filters is not None else []
        return _chunked_reader(source, layout, steps, shape, dtype)
    if filters is not None and _filters(filters):
        raise ValueError("compressed without chunks")
    if kind == 0:
        (size,) = struct.unpack_from("<H", layout, 2)
        inline = bytes(layout[4 : 4 + size])
        if len(inline) < nbytes:
            raise ValueError(f"claims {nbytes} bytes where there are {len(inline)}")
        return lambda _: np.frombuffer(inline[:nbytes], dtype).reshape(shape)
    address, size = struct.unpack_from("<QQ", layout, 2)
    if not nbytes:
        return lambda _: np.empty(shape, dtype)
    if address == UNDEFINED or size < nbytes or address + nbytes > source.size:
        raise ValueError(f"claims {nbytes} bytes at {address} in a file of {source.size}")
    return lambda reopened: np.frombuffer(reopened.read(address, nbytes), dtype).reshape(shape)


def _chunked_reader(
    source: Source, layout: bytes, steps: list[tuple[int, int]], shape: tuple[int, ...], dtype: np.dtype
) -> Callable[[Source], np.ndarray]:
    """A function that puts a dataset together from its chunks, all of which must be there."""
    rank = layout[2] - 1
    address, *chunk = struct.unpack_from(f"<Q{rank + 1}I", layout, 3)
    chunk = chunk[:-1]
    if rank != len(shape) or not rank or 0 in chunk or 0 in shape:
        raise ValueError(f"chunks of shape {chunk} for a tensor of shape {shape}")
    grid = [-(-length // part) for length, part in zip(shape, chunk, strict=True)]
    padded = math.prod(grid) * math.prod(chunk) * dtype.itemsize
    if address == UNDEFINED or padded > source.size:
        raise ValueError(f"claims {padded} bytes in chunks in a file of {source.size}")

    def read(reopened: Source) -> np.ndarray:
        values = np.empty(shape, dtype)
        missing = math.prod(grid)
        filled = np.zeros(grid, np.bool_)
        for corner, place, nbytes, skipped in _chunk_places(reopened, address, rank):
            index = tuple(start // part for start, part in zip(corner, chunk, strict=True))
            aligned = all(start % part == 0 for start, part in zip(corner, chunk, strict=True))
            if not aligned or any(i >= count for i, count in zip(index, grid, strict=True)) or filled[index]:
                raise ValueError(f"a chunk at {corner} that has no place or takes another's")
            data = _unfiltered(reopened.read(place, nbytes), steps, skipped, math.prod(chunk) * dtype.itemsize)
            part = np.frombuffer(data, dtype).reshape(chunk)
            target = values[tuple(slice(start, start + size) for start, size in zip(corner, chunk, strict=True))]
            target[...] = part[tuple(slice(length) for length in target.shape)]
            filled[index] = True
            missing -= 1
        if missing:
            raise ValueError(f"{missing} of its chunks are missing")
        return values

    return read


def _chunk_places(source: Source, tree: int, rank: int) -> Iterator[tuple[tuple[int, ...], int, int, int]]:
    """(first index, address, bytes, mask of filters that were left out) of every chunk: the leaves of a B-tree."""
    key = 8 + 8 * (rank + 1)
    pending: list[tuple[int, int | None]] = [(tree, None)]
    while pending:
        address, expected_level = pending.pop()
        kind, level, count = struct.unpack_from("<BBH", source.read_structure(address, 24, b"TREE"), 4)
        if kind != 1 or level != (level if expected_level is None else expected_level):
            raise ValueError("a B-tree of chunks that is none")
        entries = source.read_structure(address + 24, count * (key + 8))
        for start in range(0, len(entries), key + 8):
            nbytes, mask, *corner = struct.unpack_from(f"<II{rank}Q", entries, start)
            (child,) = struct.unpack_from("<Q", entries, start + key)
            if level:
                pending.append((child, level - 1))
            else:
                yield tuple(corner), child, nbytes, mask


def _filters(body: bytes) -> list[tuple[int, int]]:
    """(filter, its first parameter) in the order of writing, as a filter pipeline message states them."""
    version, count = body[:2]
    position, found = (8 if version == 1 else 2), []
    for _ in range(count):
        (identifier,) = struct.unpack_from("<H", body, position)
        named = version == 1 or identifier >= 256
        name_length = struct.unpack_from("<H", body, position + 2)[0] if named else 0
        position += 4 if named else 2
        _flags, parameters = struct.unpack_from("<HH", body, position)
        position += 4 + (name_length + 7 & ~7 if version == 1 else name_length)
        first = struct.unpack_from("<I", body, position)[0] if parameters else 0
        position += 4 * (parameters + (parameters & 1 if version == 1 else 0))
        if identifier not in (_DEFLATE, _SHUFFLE, _FLETCHER32):
            raise ValueError(f"compressed by filter {identifier} of HDF5, which is not read: gzip and shuffle are")
        found.append((identifier, first))
    return found


def _unfiltered(data: bytes, steps: list[tuple[int, int]], skipped: int, nbytes: int) -> bytes:
    """A chunk as it was before filters were applied; it must have a known number of bytes."""
    for number, (step, parameter) in reversed(list(enumerate(steps))):
        if skipped >> number & 1:
            continue
        if step == _DEFLATE:
            data = zlib.decompressobj().decompress(data, nbytes + 5)  # with a checksum of four bytes, and one too many
        elif step == _SHUFFLE and parameter > 1:
            whole = len(data) // parameter * parameter
            shuffled = np.frombuffer(data[:whole], np.uint8).reshape(parameter, -1)
            data = shuffled.T.tobytes() + data[whole:]
        elif step == _FLETCHER32:
            data, stored = data[:-4], data[-4:]
            if int.from_bytes(stored, "little") != _fletcher32(data):
                raise ValueError("a chunk whose checksum is wrong")
    if len(data) != nbytes:
        raise ValueError(f"a chunk of {len(data)} bytes where {nbytes} are due")
    return data


def _fletcher32(data: bytes) -> int:
    """HDF5's checksum of a chunk: two sums of 16-bit words modulo 65535; 65535 itself stands for its multiples."""
    words = np.frombuffer(data + b"\0" * (len(data) % 2), ">u2").astype(np.uint64)
    weights = np.arange(len(words), 0, -1, dtype=np.uint64) % 65535
    first, second = int(words.sum()), int((words * weights).sum())
    low, high = (value % 65535 or (65535 if value else 0) for value in (first, second))
    return high << 16 | low
