"""Groups of HDF5: the names and addresses of what is in them, in each of the three ways of keeping them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from tf_segformer.checkpoints.formats.hdf5.objects import LINK, LINK_INFO, SYMBOL_TABLE, Message
from tf_segformer.checkpoints.formats.hdf5.source import UNDEFINED, Source

MAX_NAME_BYTES = 1024
_SOFT_LINK = 2  # cache type of a symbol
_NAME_INDEX = 5  # type of the B-tree whose records point to links


def links(source: Source, messages: list[Message]) -> Iterator[tuple[str, int]]:
    """The names in a group and the addresses of their objects; soft and external links are left out.

    Args:
        source: The file.
        messages: Messages of the group's object header.

    Yields:
        (name, address of the object header).

    Raises:
        ValueError: For a damaged group.
    """
    for message in messages:
        if message.kind == SYMBOL_TABLE:
            yield from _symbol_table(source, *struct.unpack_from("<QQ", message.body))
        elif message.kind == LINK:
            yield from _link(message.body)
        elif message.kind == LINK_INFO:
            flags = message.body[1]
            heap, index = struct.unpack_from("<QQ", message.body, 10 if flags & 1 else 2)
            if heap != UNDEFINED:
                yield from _dense_links(source, heap, index)


def _symbol_table(source: Source, tree: int, heap: int) -> Iterator[tuple[str, int]]:
    """A group of the old style: a B-tree of nodes of symbols, whose names lie in a heap."""
    size, address = struct.unpack_from("<Q8xQ", source.read_structure(heap, 32, b"HEAP"), 8)
    names = source.read_structure(address, size)
    pending: list[tuple[int, int | None]] = [(tree, None)]
    while pending:
        address, expected_level = pending.pop()
        kind, level, count = struct.unpack_from("<BBH", source.read_structure(address, 24, b"TREE"), 4)
        if kind != 0 or level != (level if expected_level is None else expected_level):
            raise ValueError("a B-tree of a group that is none")
        children = struct.unpack_from(f"<{2 * count}Q", source.read_structure(address + 24, 16 * count))[1::2]
        if level:
            pending += [(child, level - 1) for child in reversed(children)]
            continue
        for child in children:
            (symbols,) = struct.unpack_from("<H", source.read_structure(child, 8, b"SNOD"), 6)
            table = source.read_structure(child + 8, 40 * symbols)
            for name, target, cache in struct.iter_unpack("<QQI20x", table):
                if cache != _SOFT_LINK:
                    yield _text(names, name), target


def _text(names: bytes, start: int) -> str:
    """The name at a place of a heap."""
    end = names.find(b"\0", start, start + MAX_NAME_BYTES + 1)
    if end < 0:
        raise ValueError("a name without an end")
    return names[start:end].decode("utf-8")


def _link(body: bytes) -> Iterator[tuple[str, int]]:
    """A link message."""
    version, flags = body[:2]
    if version != 1:
        raise ValueError(f"version {version} of a link")
    position, kind = 2, 0
    if flags & 8:
        position, kind = 3, body[2]
    position += (8 if flags & 4 else 0) + (1 if flags & 16 else 0)
    width = 1 << (flags & 3)
    length = int.from_bytes(body[position : position + width], "little")
    position += width
    if length > MAX_NAME_BYTES:
        raise ValueError(f"a name of {length} bytes")
    if kind == 0:  # a hard link
        name = body[position : position + length].decode("utf-8")
        yield name, struct.unpack_from("<Q", body, position + length)[0]


def _dense_links(source: Source, heap: int, index: int) -> Iterator[tuple[str, int]]:
    """A group of the new style with many links: messages in a fractal heap, which a B-tree points to."""
    read_object = _fractal_heap(source, heap)
    head = source.read_structure(index, 38, b"BTHD")
    _version, kind, node_size, record_size, depth, root, count = struct.unpack_from("<BBIHH2xQH", head, 4)
    if kind != _NAME_INDEX or record_size != 11:
        raise ValueError("an index of links that is none")
    for record in _tree_records(source, root, count, depth, node_size):
        yield from _link(read_object(record[4:]))


def _tree_records(source: Source, address: int, count: int, depth: int, node_size: int) -> Iterator[bytes]:
    """The records of a B-tree of version 2, node by node."""
    most = [(node_size - 10) // 11]  # records of a leaf, of a node above it, ...
    pointer_sizes = [0]
    totals = most[0]
    for level in range(1, depth + 1):
        count_width = (most[0].bit_length() + 7) // 8
        total_width = (totals.bit_length() + 7) // 8 if level > 1 else 0
        pointer_sizes.append(8 + count_width + total_width)
        most.append((node_size - 10 - pointer_sizes[level]) // (11 + pointer_sizes[level]))
        if most[level] < 1 or level > 8:
            raise ValueError("a B-tree of absurd depth or nodes")
        totals = (most[level] + 1) * totals + most[level]
    pending = [(address, count, depth)]
    while pending:
        address, count, level = pending.pop()
        signature, length = (b"BTIN", pointer_sizes[level]) if level else (b"BTLF", 0)
        nbytes = 6 + 11 * count + (count + 1) * length
        node = source.read_structure(address, nbytes, signature)
        yield from (node[6 + 11 * number : 17 + 11 * number] for number in range(count))
        count_width = (most[0].bit_length() + 7) // 8
        for number in range(count + 1 if level else 0):
            pointer = node[6 + 11 * count + number * length :][:length]
            child, records = int.from_bytes(pointer[:8], "little"), int.from_bytes(pointer[8:][:count_width], "little")
            pending.append((child, records, level - 1))


def _fractal_heap(source: Source, address: int) -> Callable[[bytes], bytes]:
    """A function that reads an object of a fractal heap by its id."""
    head = source.read_structure(address, 142, b"FRHP")
    _version, id_length, filters = struct.unpack_from("<BHH", head, 4)
    width, start_size, direct_size, bits = struct.unpack_from("<HQQH", head, 110)
    root, rows = struct.unpack_from("<QH", head, 132)
    offset_bytes = (bits + 7) // 8
    if filters or width < 1 or start_size < 1 or bits > 64 or id_length <= 1 + offset_bytes:
        raise ValueError("a heap of links that is compressed or none")

    def block_of(offset: int) -> tuple[int, int]:
        """Address of the direct block that holds an offset, and the offset where it begins."""
        if rows == 0:
            return root, 0
        block, begin, count = root, 0, rows
        for _ in range(64):  # rows double in size, so no heap of 64 bits is deeper
            size, row = start_size, 0
            first = begin
            while row < count and offset >= first + width * size:
                first += width * size
                size *= 2 if row else 1
                row += 1
            column = (offset - first) // size
            begin = first + column * size
            if row >= count:
                raise ValueError("an object beyond the end of its heap")
            entry = block + 13 + offset_bytes + 8 * (row * width + column)
            source.read_structure(block, 4, b"FHIB")
            (block,) = struct.unpack("<Q", source.read_structure(entry, 8))
            if size <= direct_size:
                return block, begin
            # an indirect block as large as a row of this size has so many rows of its own
            count = (size // (start_size * width)).bit_length()
        raise ValueError("a heap without an end")

    def read_object(identifier: bytes) -> bytes:
        if identifier[0] & 0x30:
            raise ValueError("a link that is kept apart from its heap")
        offset = int.from_bytes(identifier[1 : 1 + offset_bytes], "little")
        length = int.from_bytes(identifier[1 + offset_bytes :], "little")
        block, begin = block_of(offset)
        source.read_structure(block, 4, b"FHDB")
        return source.read_structure(block + offset - begin, length)

    return read_object
