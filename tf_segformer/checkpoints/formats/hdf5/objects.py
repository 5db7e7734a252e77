"""Object headers of HDF5: the messages that say whether an object is a group or a dataset, and of what."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from tf_segformer.checkpoints.formats.hdf5.source import Source

DATASPACE, LINK_INFO, DATATYPE, LINK, EXTERNAL_FILES, LAYOUT, FILTERS, SYMBOL_TABLE = 1, 2, 3, 6, 7, 8, 11, 17
_CONTINUATION = 16
_KINDS = frozenset((DATASPACE, LINK_INFO, DATATYPE, LINK, EXTERNAL_FILES, LAYOUT, FILTERS, SYMBOL_TABLE))
_MAX_BLOCKS = 256  # of one header
_SHARED = 2  # flag of a message that lies elsewhere


@dataclass(frozen=True)
class Message:
    """A message of an object header: its kind, and what it says."""

    kind: int
    body: bytes


def root_group(source: Source) -> int:
    """The address of the root group's object header.

    Args:
        source: The file.

    Returns:
        Its address.

    Raises:
        ValueError: For a version or for sizes of addresses that are not read.
    """
    version = source.read_structure(8, 1)[0]
    if version <= 1:
        head = source.read_structure(0, 100)
        sizes, base = head[13:15], 24 + 4 * version
        base_address, root = struct.unpack_from("<Q32xQ", head, base)
    elif version <= 3:
        head = source.read_structure(0, 48)
        sizes = head[9:11]
        base_address, root = struct.unpack_from("<Q16xQ", head, 12)
    else:
        raise ValueError(f"version {version} of HDF5's superblock")
    if sizes != b"\x08\x08" or base_address != 0:
        raise ValueError("addresses of other than eight bytes, or a file within a file")
    return root


def read_messages(source: Source, address: int) -> list[Message]:
    """The messages of an object that say what it is; attributes and the like are passed over.

    Args:
        source: The file.
        address: Address of the object's header.

    Returns:
        Its messages in order.

    Raises:
        ValueError: For a damaged header.
    """
    start = source.read_structure(address, 16)
    messages = _version_2(source, address) if start.startswith(b"OHDR") else _version_1(source, address, start)
    return [message for message in messages if message.kind in _KINDS]


def _version_1(source: Source, address: int, start: bytes) -> Iterator[Message]:
    version, _count, size = struct.unpack_from("<BxH4xI", start)
    if version != 1:
        raise ValueError(f"no object at {address}")
    blocks = [(address + 16, size)]
    for begin, length in blocks:
        data, position = source.read_structure(begin, length), 0
        while position + 8 <= length:
            kind, nbytes, flags = struct.unpack_from("<HHB", data, position)
            position += 8
            yield _message(kind, flags, data[position : position + nbytes], nbytes, blocks)
            position += nbytes


def _version_2(source: Source, address: int) -> Iterator[Message]:
    version, flags = source.read_structure(address + 4, 2)
    if version != 2:
        raise ValueError(f"version {version} of an object header")
    begin = address + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
    width = 1 << (flags & 3)
    size = int.from_bytes(source.read_structure(begin, width), "little")
    blocks = [(begin + width, size)]
    head = 6 if flags & 4 else 4  # with the order of creation
    for number, (begin, length) in enumerate(blocks):
        data, position = source.read_structure(begin, length), 0
        if number:
            if not data.startswith(b"OCHK"):
                raise ValueError(f"no OCHK at {begin}")
            position, length = 4, length - 4  # its checksum
        while position + head <= length:
            kind, nbytes, flags = struct.unpack_from("<BHB", data, position)
            position += head
            yield _message(kind, flags, data[position : position + nbytes], nbytes, blocks)
            position += nbytes


def _message(kind: int, flags: int, body: bytes, nbytes: int, blocks: list[tuple[int, int]]) -> Message:
    """A message; one of continuation adds its block."""
    if len(body) != nbytes:
        raise ValueError("a message that is cut off")
    if flags & _SHARED and kind in _KINDS:
        raise ValueError("a message that lies elsewhere, such as a named type")
    if kind == _CONTINUATION:
        if len(blocks) >= _MAX_BLOCKS:
            raise ValueError(f"an object header of more than {_MAX_BLOCKS} blocks")
        blocks.append(struct.unpack_from("<QQ", body))
    return Message(kind, body)
