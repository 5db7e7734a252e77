"""Where the bytes of an uncompressed zip entry lie, so that they can be read in place."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any


def start_of_entry(path: Path, entry: zipfile.ZipInfo) -> int:
    """Position of the first byte of a stored zip entry, behind its local header.

    Args:
        path: The archive.
        entry: Its directory's word on the entry.

    Returns:
        Position in the file, in bytes.

    Raises:
        ValueError: Where there is no local header.
    """
    with path.open("rb") as file:
        file.seek(entry.header_offset)
        header = file.read(30)
    if len(header) < 30 or not header.startswith(b"PK\x03\x04"):
        raise ValueError(f"the zip entry {entry.filename[:100]!r} has no local header: truncated")
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    return entry.header_offset + 30 + name_length + extra_length


class Window(io.RawIOBase):
    """A part of a file as a file of its own.

    Args:
        path: The file.
        start: Position of the part's first byte.
        size: Its length in bytes.
    """

    def __init__(self, path: Path, start: int, size: int) -> None:
        self._file = path.open("rb", buffering=0)
        self._start = start
        self._position = 0
        self.size = size

    def readable(self) -> bool:
        """Whether it can be read, which is all it can."""
        return True

    def seekable(self) -> bool:
        """Whether it has positions."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves to a position in the part."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = max(origin + offset, 0)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fills a buffer from the part and returns how many bytes there were."""
        length = max(min(len(buffer), self.size - self._position), 0)
        self._file.seek(self._start + self._position)
        count = self._file.readinto(memoryview(buffer)[:length]) or 0
        self._position += count
        return count

    def close(self) -> None:
        """Closes the file behind it."""
        self._file.close()
        super().close()
