"""The encoded images of a shard one after the other: files, rows of Parquet, members of a tar, TFRecords."""

from __future__ import annotations

import contextlib
import gzip
import os
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tf_segformer.batch.inputs import (
    NAME,
    Shard,
    Source,
    is_local,
    open_file_system,
    require_pyarrow,
    resolve,
    rows_of_groups,
)
from tf_segformer.errors import DatasetError
from tf_segformer.imaging.files import IMAGE_SUFFIXES, MAX_FILE_BYTES
from tf_segformer.io import count_records, read_bytes
from tf_segformer.requirements import import_extra

_IMAGE_COLUMNS = ("image", "image_bytes", "bytes", "img", "jpg", "jpeg", "png", "content", "data")
_PATH_COLUMNS = ("path", "image_path", "file", "filename", "file_name", "url", "image_url", "uri")
_ID_COLUMNS = ("id", "image_id", "key", "__key__", "name", *_PATH_COLUMNS)
_RECORD_IMAGES = ("image/encoded", "image", "image_raw", "image_bytes", "encoded", "jpg", "jpeg", "png")
_RECORD_NAMES = ("image/filename", "filename", "name", "image/source_id", "image_id", "id", "__key__", "key")
_ROWS_AT_ONCE = 16
_ATTEMPTS = 3
_PERMANENT = (FileNotFoundError, IsADirectoryError, PermissionError, ValueError)


@dataclass(frozen=True)
class Columns:
    """Which columns of a Parquet file (features of a TFRecord) hold the image, or its path, and its id.

    Args:
        image: Name of the column; None takes the first of the usual names, or the only column of bytes.
        id: Name of the column; None takes the first of the usual names, or else the number of the row.
    """

    image: str | None = None
    id: str | None = None


@dataclass(frozen=True)
class EncodedImage:
    """An image of the input that is not read yet.

    Args:
        id: What identifies it in the output.
        read: Gives the bytes of its file.
    """

    id: str
    read: Callable[[], bytes]


def encoded_images(shard: Shard, columns: Columns) -> Iterator[EncodedImage]:
    """The images of a shard in their order.

    Args:
        shard: The shard.
        columns: Columns of Parquet files and features of TFRecords.

    Yields:
        The images. Where a file of many is damaged, those before the damage, and one under the name of the file
        that cannot be read, for the rest.

    Raises:
        DatasetError: No column holds images.

    Example:
        >>> from tf_segformer.batch.inputs import Source
        >>> [image.id for image in encoded_images(Shard(0, (Source("/a.jpg", "a.jpg", "image"),)), Columns())]
        ['a.jpg']
    """
    for source in shard.sources:
        yield from _READERS[source.kind](source, shard, columns)


def read_file(path: str, size: int | None = None) -> bytes:
    """The bytes of a file, asked for three times where the connection fails.

    Args:
        path: Path for fsspec.
        size: Its size, where it is known.

    Returns:
        At most `MAX_FILE_BYTES` bytes.

    Raises:
        ValueError: The file is larger.
        OSError: It cannot be read.
    """
    file_system, inner = open_file_system(path)
    for attempt in range(_ATTEMPTS):
        try:
            if is_local(file_system):
                return read_bytes(inner, MAX_FILE_BYTES)
            if size is not None and size > MAX_FILE_BYTES:
                raise ValueError(f"more than {MAX_FILE_BYTES} bytes")
            content = file_system.cat_file(inner, start=0, end=MAX_FILE_BYTES + 1)
        except Exception as error:  # each file system has errors of its own
            if isinstance(error, _PERMANENT) or attempt == _ATTEMPTS - 1:
                raise
            time.sleep(2.0**attempt)
        else:
            break
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"more than {MAX_FILE_BYTES} bytes")
    return content


def _failing(error: Exception) -> Callable[[], bytes]:
    """What is read of an image that is known to be unreadable."""

    def read() -> bytes:
        raise error

    return read


def _damaged(source: Source, error: Exception) -> EncodedImage:
    """Stands for what could not be read of a file of many images."""
    return EncodedImage(source.name, _failing(OSError(f"{source.name} is damaged from here on ({error})")))


def _from_file(source: Source, shard: Shard, columns: Columns) -> Iterator[EncodedImage]:
    yield EncodedImage(source.name, lambda: read_file(source.path, source.size))


@contextlib.contextmanager
def _local_copy(source: Source) -> Iterator[str]:
    """The path of a file on this machine, where it is copied if it is on another."""
    file_system, path = open_file_system(source.path)
    if is_local(file_system):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, "shard" + ("".join(os.path.splitext(path)[1:])))
        file_system.get_file(path, copy)
        yield copy


def _from_webdataset(source: Source, shard: Shard, columns: Columns) -> Iterator[EncodedImage]:
    """Members such as "0001.jpg"; "0001.seg.png" and "0001.json" are other fields of the same sample."""
    with _local_copy(source) as path:
        try:
            with tarfile.open(path) as archive:
                for member in archive:
                    ending = member.name.rpartition("/")[2].partition(".")[2]
                    if member.isfile() and f".{ending.lower()}" in IMAGE_SUFFIXES:
                        yield EncodedImage(f"{source.name}/{member.name}", _member_reader(archive, member))
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            yield _damaged(source, error)


def _member_reader(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Callable[[], bytes]:
    """The bytes of a member, read now, since the archive is read from front to back."""
    if member.size > MAX_FILE_BYTES:
        return _failing(ValueError(f"more than {MAX_FILE_BYTES} bytes"))
    file = archive.extractfile(member)
    content = b"" if file is None else file.read()
    return lambda: content


def _from_tfrecord(source: Source, shard: Shard, columns: Columns) -> Iterator[EncodedImage]:
    """Serialized `tf.train.Example`s; TensorFlow checks their sums."""
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    with _local_copy(source) as path:
        count, whole = count_records(path)
        try:
            for number, record in enumerate(tf.data.TFRecordDataset(path).take(count).as_numpy_iterator()):
                try:
                    features = tf.train.Example.FromString(record).features.feature
                except DecodeError as error:
                    reason = ValueError(f"not a tf.train.Example ({error})")
                    yield EncodedImage(f"{source.name}#{number}", _failing(reason))
                    continue
                yield _image_of_record(source, number, features, columns)
            if not whole:
                yield _damaged(source, ValueError(f"record {count} reaches out of it"))
        except tf.errors.OpError as error:
            yield _damaged(source, error)


def _image_of_record(source: Source, number: int, features: Any, columns: Columns) -> EncodedImage:
    """The image and the name among the features of an example."""
    held = {name: feature.bytes_list.value[0] for name, feature in features.items() if feature.bytes_list.value}
    image = _choose(columns.image, _RECORD_IMAGES, list(held), f"{source.name}: no feature of bytes holds images")
    named = columns.id or next((name for name in _RECORD_NAMES if name in held), None)
    name = f"/{held[named].decode('utf-8', 'replace')}" if named in held else f"#{number}"
    content = held[image]
    return EncodedImage(source.name + name, lambda: content)


def _from_parquet(source: Source, shard: Shard, columns: Columns) -> Iterator[EncodedImage]:
    """Rows with the bytes of an image, or with its path."""
    pyarrow = require_pyarrow()
    file_system, path = open_file_system(source.path)
    number = sum(rows_of_groups(source)[: shard.row_groups[0]])
    with file_system.open(path) as file:
        table = pyarrow.parquet.ParquetFile(file)
        image, named = _columns(source, table.schema_arrow, columns)
        wanted = list(dict.fromkeys(filter(None, (image, named))))
        batches = table.iter_batches(_ROWS_AT_ONCE, row_groups=list(shard.row_groups), columns=wanted)
        try:
            for batch in batches:
                for row in batch.to_pylist():
                    name = f"{source.name}#{number}" if named is None or row[named] is None else str(row[named])
                    yield EncodedImage(name, _cell_reader(row[image], source))
                    number += 1
        except pyarrow.ArrowException as error:
            yield _damaged(source, error)


def _columns(source: Source, schema: Any, columns: Columns) -> tuple[str, str | None]:
    """The columns of the image and of the id."""
    types = import_extra("pyarrow.types", "ray", NAME)
    of_bytes = [each.name for each in schema if types.is_binary(each.type) or types.is_large_binary(each.type)]
    of_bytes += [each.name for each in schema if types.is_struct(each.type) and each.type.get_field_index("bytes") >= 0]
    of_text = [each.name for each in schema if types.is_string(each.type) or types.is_large_string(each.type)]
    problem = f"{source.name}: none of the columns {', '.join(schema.names)} is known to hold images or paths"
    if columns.image is not None or of_bytes:
        image = _choose(columns.image, _IMAGE_COLUMNS, of_bytes + of_text if columns.image else of_bytes, problem)
    else:
        image = _choose(None, _PATH_COLUMNS, [name for name in of_text if name in _PATH_COLUMNS], problem)
    if columns.id is not None and columns.id not in schema.names:
        raise DatasetError(f"{source.name}: has no column {columns.id!r}, but {', '.join(schema.names)}")
    usual = (name for name in _ID_COLUMNS if name in schema.names and (name != image or name in of_text))
    return image, columns.id or next(usual, None)


def _choose(wanted: str | None, usual: Sequence[str], there: Sequence[str], problem: str) -> str:
    """The name that was asked for, or the first of the usual ones, or the only one."""
    if wanted is None:
        wanted = next((name for name in usual if name in there), there[0] if len(there) == 1 else None)
    if wanted not in there:
        raise DatasetError(f"{problem}: name one by --image-column")
    return str(wanted)


def _cell_reader(cell: Any, source: Source) -> Callable[[], bytes]:
    """The bytes in a cell, or those of the file that it names; Hugging Face's cells hold both."""
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, str):
        return lambda: read_file(resolve(cell, source.path))
    if cell is None:
        return _failing(ValueError("the cell is empty"))
    return lambda: cell


_READERS: dict[str, Callable[[Source, Shard, Columns], Iterator[EncodedImage]]] = {
    "image": _from_file,
    "webdataset": _from_webdataset,
    "tfrecord": _from_tfrecord,
    "parquet": _from_parquet,
}
