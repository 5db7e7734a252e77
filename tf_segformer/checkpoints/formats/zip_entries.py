"""Where the bytes of an uncompressed zip entry lie, so that they can be read in place."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path


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
        file.seek(min(entry.header_offset, path.stat().st_size))  # a damaged offset may be larger than any file
        header = file.read(30)
    if len(header) < 30 or not header.startswith(b"PK\x03\x04"):
        raise ValueError(f"the zip entry {entry.filename[:100]!r} has no local header: truncated")
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    return entry.header_offset + 30 + name_length + extra_length
