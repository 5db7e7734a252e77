"""Reads the sorted tables of keys and values that are the index of a TensorFlow checkpoint, as LevelDB lays them out.

TensorFlow's own reader takes the lengths in a file at their word and ends the process where they are absurd.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

TABLE_MAGIC = bytes.fromhex("57fb808b247547db")  # the last bytes of a table
MAX_ENTRIES = 10_000  # a B5 with the state of its optimizer has 3,500
_FOOTER, _BLOCK_TRAILER = 48, 5


def read_table(data: bytes) -> dict[bytes, bytes]:
    """The keys and values of a table.

    Args:
        data: The whole file.

    Returns:
        Value by key, in the order of the keys.

    Raises:
        ValueError: For a damaged or compressed table, and one of more than `MAX_ENTRIES`.
    """
    if len(data) < _FOOTER or not data.endswith(TABLE_MAGIC):
        raise ValueError("no table of TensorFlow")
    footer = data[-_FOOTER:]
    _, position = _handle(footer, 0)  # of a block that holds no tensors
    index, _ = _handle(footer, position)
    found: dict[bytes, bytes] = {}
    for _, value in _entries(_block(data, *index)):
        handle, _ = _handle(value, 0)
        for key, content in _entries(_block(data, *handle)):
            found[key] = content
            if len(found) > MAX_ENTRIES:
                raise ValueError(f"more than {MAX_ENTRIES} entries")
    return found


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """A number of up to 64 bits, seven of them per byte, and the position behind it.

    Raises:
        ValueError: Where it does not end.
    """
    value = 0
    for count, byte in enumerate(data[position : position + 10]):
        value |= (byte & 127) << (7 * count)
        if byte < 128:
            return value, position + count + 1
    raise ValueError("a number without an end")


def _handle(data: bytes, position: int) -> tuple[tuple[int, int], int]:
    """Offset and size of a block, and the position behind them."""
    offset, position = read_varint(data, position)
    size, position = read_varint(data, position)
    return (offset, size), position


def _block(data: bytes, offset: int, size: int) -> bytes:
    """The contents of a block."""
    if offset + size + _BLOCK_TRAILER > len(data) - _FOOTER:
        raise ValueError("a block that reaches out of the file")
    if data[offset + size] != 0:
        raise ValueError("a compressed block, which checkpoints never have")
    return data[offset : offset + size]


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block; each key shares its first bytes with the one before."""
    if len(block) < 4:
        raise ValueError("a block without an end")
    (restarts,) = struct.unpack_from("<I", block, len(block) - 4)
    end = len(block) - 4 - 4 * restarts
    if end < 0:
        raise ValueError("a block without entries")
    position, key = 0, b""
    while position < end:
        shared, position = read_varint(block, position)
        added, position = read_varint(block, position)
        length, position = read_varint(block, position)
        if shared > len(key) or position + added + length > end:
            raise ValueError("an entry that reaches out of its block")
        key = key[:shared] + block[position : position + added]
        position += added
        yield key, block[position : position + length]
        position += length
