"""Files that are read within bounds and appear whole or not at all, whoever is killed while writing."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import stat
import struct
import time
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

MAX_TEXT_BYTES = 4 * 2**20
"""Largest configuration, index or list of names that is read: the largest published ones have less than 1 MB."""

MAX_ZIP_READ = 16 * 2**20
"""Largest directory of a zip archive: more entries than a hundred times those of the largest model."""

_RECORD_HEADER, _RECORD_FOOTER = 12, 4  # bytes around a record of a TFRecord file: its length (8) and checksums

# What zipfile raises for damaged and encrypted archives, apart from its own error. RuntimeError covers unknown
# compression (NotImplementedError) and RecursionError of what is parsed from an entry.
_ZIP_DAMAGE = (RuntimeError, OverflowError, EOFError, struct.error, zlib.error)

_ABANDONED_SECONDS = 3600  # whose temporary file has not grown for so long was killed
_COMMITTED = ".committed"  # subfolder of files that are whole, on their way to their places


@contextmanager
def atomic_write(path: str | os.PathLike, *, fsync: bool = False) -> Iterator[Path]:
    """Gives a temporary path to write to, in the same folder, and renames it to `path` once the block ends.

    Where the block raises, the temporary file is removed and `path` is untouched. Every call has a temporary name of
    its own, so two processes that write the same path do not mix: the last one wins.

    Args:
        path: File to write; replaced where it exists. Its folder is made where it is missing. A block may make a
            folder instead, which then takes the place of `path` if nothing, or an empty folder, is there.
        fsync: Wait until the bytes are on the disk before renaming, so that even a power cut leaves the old or the
            new file. For hours of work (weights, training state); others only have to survive a killed process.
            Such files are large: what killed processes left of earlier writes of this path is removed, too.

    Yields:
        Path that does not exist yet.

    Raises:
        OSError: `path` cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic_write(Path(folder, "log.csv")) as partial:
        ...         _ = partial.write_text("step,loss")
        ...     Path(folder, "log.csv").read_text()
        'step,loss'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if fsync:
        _remove_abandoned(path)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield partial
        if fsync:
            _force_to_disk(partial)
        os.replace(partial, path)
    finally:
        _remove(partial)


def write_json(path: str | os.PathLike, value: Any, *, fsync: bool = False, **options: Any) -> Path:
    """Writes a value as indented JSON, whole or not at all.

    Args:
        path: File to write; replaced where it exists.
        value: JSON-ready value.
        fsync: As for `atomic_write`.
        **options: Further arguments of `json.dumps`, such as `sort_keys`.

    Returns:
        The path of the file.

    Raises:
        OSError: The file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_json(Path(folder, "x.json"), {"name": "Straße"}, indent=None).read_text(encoding="utf-8")
        '{"name": "Straße"}\\n'
    """
    text = json.dumps(value, **{"indent": 2, "ensure_ascii": False, **options}) + "\n"
    with atomic_write(path, fsync=fsync) as partial:
        partial.write_text(text, encoding="utf-8")
    return Path(path)


def read_bytes(path: str | os.PathLike, max_bytes: int) -> bytes:
    """Reads a file that nobody has checked, after a look at its size.

    Args:
        path: The file.
        max_bytes: Largest size that is read.

    Returns:
        Its content.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is larger, or a pipe or a device, which may have no end.

    Example:
        >>> read_bytes(__file__, max_bytes=10)
        Traceback (most recent call last):
        ValueError: more than 10 bytes
    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for a writer
        raise ValueError("not a regular file")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise ValueError(f"more than {max_bytes} bytes")
        return file.read(size)


def read_text(path: str | os.PathLike, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Reads a UTF-8 file within bounds.

    Args:
        path: The file.
        max_bytes: Largest size that is read.

    Returns:
        Its text.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is larger, no regular file or not UTF-8.

    Example:
        >>> "max_bytes" in read_text(__file__)
        True
    """
    return read_bytes(path, max_bytes).decode("utf-8")


class _BoundedFile(io.FileIO):
    """A file that gives no more than `MAX_ZIP_READ` bytes at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(os.fstat(self.fileno()).st_size - self.tell(), 0)  # a damaged size is not allocated
        wanted = left if size is None or size < 0 else min(size, left)
        if wanted > MAX_ZIP_READ:
            raise zipfile.BadZipFile(f"a directory or an entry of more than {MAX_ZIP_READ} bytes")
        return super().read(wanted) or b""


@contextmanager
def open_zip(path: str | os.PathLike) -> Iterator[zipfile.ZipFile]:
    """Opens a zip archive that nobody has checked: its directory, which becomes objects at once, is bounded.

    Args:
        path: The archive.

    Yields:
        The archive. Entries of up to `MAX_ZIP_READ` bytes can be read whole, larger ones in pieces.

    Raises:
        OSError: The file cannot be read.
        zipfile.BadZipFile: It is no archive, its directory is larger, or an entry that is read in the block is damaged.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "x.zip")
        ...     with zipfile.ZipFile(path, "w") as archive:
        ...         archive.writestr("data.pkl", b"x")
        ...     with open_zip(path) as archive:
        ...         archive.namelist()
        ['data.pkl']
    """
    try:
        with _BoundedFile(path) as file, zipfile.ZipFile(file) as archive:
            yield archive
    except _ZIP_DAMAGE as error:
        raise zipfile.BadZipFile(str(error) or type(error).__name__) from error


def count_records(path: str | os.PathLike) -> tuple[int, bool]:
    """Counts the records of a TFRecord file by their lengths alone.

    TensorFlow asks for as much memory as a length says, and ends the process where there is not so much: no record
    that reaches out of the file may come before it.

    Args:
        path: The file.

    Returns:
        How many records lie within the file, and whether it ends with the last of them.

    Raises:
        OSError: The file cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "x.tfrecord")
        ...     _ = path.write_bytes((2**50).to_bytes(8, "little") + bytes(100))
        ...     count_records(path)
        (0, False)
    """
    count = position = 0
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        while position < size:
            file.seek(position)
            header = file.read(_RECORD_HEADER) or b""
            position += _RECORD_HEADER + int.from_bytes(header[:8], "little") + _RECORD_FOOTER
            count += position <= size
    return count, position == size


def is_plain_name(name: Any) -> bool:
    """Whether a value from a file is the plain name of another one, which cannot lead out of its folder.

    Args:
        name: The value.

    Returns:
        False for what is no text, for paths, and for names that begin with a dot.

    Example:
        >>> [is_plain_name(name) for name in ("model-1.safetensors", "../model", "/etc/passwd", ".hidden", 3)]
        [True, False, False, False, False]
    """
    return isinstance(name, str) and re.fullmatch(r"[\w-][\w.-]*", name) is not None


def read_json(path: str | os.PathLike, max_bytes: int = MAX_TEXT_BYTES) -> Any:
    """Reads a JSON file within bounds.

    Args:
        path: The file.
        max_bytes: Largest size that is read.

    Returns:
        Its value.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is larger, no regular file, not JSON, or nested more deeply than Python's stack.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     read_json(write_json(Path(folder, "x.json"), {"depths": [2, 2]}))
        {'depths': [2, 2]}
    """
    try:
        return json.loads(read_text(path, max_bytes))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


@contextmanager
def atomic_update(folder: str | os.PathLike, *, fsync: bool = False) -> Iterator[Path]:
    """Gives a temporary folder whose files then replace those of the same names in `folder`, all of them together.

    Two files cannot be renamed at once. The temporary folder is therefore first renamed to a subfolder whose files
    count as `folder`'s own (`committed_file` finds them), then they are moved to their places one by one. Whoever is
    killed before that rename leaves the old files, whoever is killed after it the new ones.

    Args:
        folder: Folder to update; made where it is missing. Its other files stay.
        fsync: As for `atomic_write`.

    Yields:
        Path of an empty folder, for files without subfolders.

    Raises:
        OSError: The folder cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic_update(folder) as partial:
        ...         _ = Path(partial, "config.json").write_text("{}")
        ...         _ = Path(partial, "model.safetensors").write_bytes(b"weights")
        ...     sorted(os.listdir(folder))
        ['config.json', 'model.safetensors']
    """
    folder = Path(folder)
    _move_committed(folder)
    with atomic_write(folder / _COMMITTED, fsync=fsync) as partial:
        partial.mkdir()
        yield partial
    _move_committed(folder)


def committed_file(path: str | os.PathLike) -> Path:
    """Where a file of a folder is: in its place, unless an `atomic_update` was killed before it had moved it there.

    Args:
        path: Path of the file in its folder.

    Returns:
        The path to read, which may not exist.

    Example:
        >>> committed_file("model/config.json") == Path("model/config.json")
        True
    """
    path = Path(path)
    moving = path.parent / _COMMITTED / path.name
    return moving if moving.is_file() else path


def _move_committed(folder: Path) -> None:
    """Moves the files of an update that is whole to their places."""
    committed = folder / _COMMITTED
    if committed.is_dir():
        for path in sorted(committed.iterdir()):
            os.replace(path, folder / path.name)
        committed.rmdir()


def _remove_abandoned(path: Path) -> None:
    """Removes what killed processes left of earlier writes of a path."""
    prefix = f".{path.name}."
    with os.scandir(path.parent) as entries:
        names = [each.name for each in entries if each.name.startswith(prefix) and each.name.endswith(".partial")]
    for name in names:
        with suppress(OSError):  # another process may have renamed or removed it
            if time.time() - (path.parent / name).stat().st_mtime > _ABANDONED_SECONDS:
                _remove(path.parent / name)


def _remove(path: Path) -> None:
    """Removes a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _force_to_disk(path: Path) -> None:
    """Waits until the bytes of a file, or of all files of a folder, are on the disk."""
    for each in path.iterdir() if path.is_dir() else [path]:
        with each.open("rb") as file:
            os.fsync(file.fileno())
