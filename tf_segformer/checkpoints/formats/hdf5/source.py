"""The bytes of an HDF5 file, within bounds: nothing beyond its end, and only so much work on its structures."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

UNDEFINED = 2**64 - 1
"""The address of something that is not in the file."""

_MAX_WORK = 32 * 2**20  # bytes of structures: a B5 in training has 9 MB of them
_COST_OF_A_READ = 64


class Source:
    """A file, or the part of it that is an HDF5 file of its own, such as an uncompressed entry of a zip archive.

    Args:
        path: The file.
        start: Position of the part's first byte.
        size: Its length in bytes; None for all that follows.
    """

    def __init__(self, path: Path, start: int = 0, size: int | None = None) -> None:
        self.path = path
        self.start = start
        self.size = path.stat().st_size - start if size is None else size
        self._file: BinaryIO | None = None
        self._work = 0

    def __enter__(self) -> Source:
        self._file = self.path.open("rb")
        self._work = min(4 * self.size + 2**16, _MAX_WORK)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._file is not None
        self._file.close()

    def read(self, address: int, length: int) -> bytes:
        """Reads numbers, which count as work only once.

        Args:
            address: Position in the HDF5 file.
            length: Number of bytes.

        Returns:
            Exactly so many bytes.

        Raises:
            ValueError: They lie beyond the end of the file.
        """
        if not 0 <= length <= self.size or not 0 <= address <= self.size - length:
            raise ValueError(f"{length} bytes at {address} in a file of {self.size}")
        assert self._file is not None
        self._file.seek(self.start + address)
        data = self._file.read(length)
        if len(data) != length:
            raise ValueError("it became shorter while it was read")
        return data

    def read_structure(self, address: int, length: int, signature: bytes = b"") -> bytes:
        """Reads a structure of the file, which may lead to others.

        Args:
            address: Position in the HDF5 file.
            length: Number of bytes.
            signature: What they must begin with.

        Returns:
            Exactly so many bytes.

        Raises:
            ValueError: They lie beyond the end of the file or begin with something else, or so many structures were
                read that the file must lead from one to the other in circles.
        """
        self.spend(length + _COST_OF_A_READ)
        data = self.read(address, length)
        if not data.startswith(signature):
            raise ValueError(f"no {signature.decode()} at {address}")
        return data

    def spend(self, work: int) -> None:
        """Counts work, in bytes; a file that causes more than it has bytes, four times over, is damaged."""
        self._work -= work
        if self._work < 0:
            raise ValueError("its structures lead to one another without an end")
