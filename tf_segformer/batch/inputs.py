"""Which images INPUT means, on any file system, listed in an order that stays the same and cut into shards."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any

from tf_segformer.errors import DatasetError
from tf_segformer.imaging.files import IMAGE_SUFFIXES
from tf_segformer.requirements import import_extra

NAME = "predict-dataset"  # in messages
_KINDS = {
    "parquet": r"\.(parquet|pq)",
    "webdataset": r"\.(tar|tgz|tar\.gz)",
    "tfrecord": r"(\.tfrecords?|-\d+-of-\d+)",
    "image": "(" + "|".join(map(re.escape, IMAGE_SUFFIXES)) + ")",
}
_LIST = r"\.(txt|lst|list)"
_MAGIC = re.compile(r"[*?[]")
_LOCAL = ("file", "local")
_FOOTERS_AT_ONCE = 16


@dataclass(frozen=True)
class Source:
    """A file of the input: an image, or a file that holds many.

    Args:
        path: Where it is, for fsspec.
        name: What identifies it in the output, such as its path in the folder INPUT.
        kind: "image", "parquet", "webdataset" or "tfrecord".
        size: Bytes, where the listing knows them.
    """

    path: str
    name: str
    kind: str
    size: int | None = None


@dataclass(frozen=True)
class Shard:
    """A part of the input that is segmented as a whole and written as one file.

    Args:
        number: Its position.
        sources: Image files, or the one file that holds the images.
        row_groups: Which row groups of a Parquet file these are.
        images: Their number, where it is known without reading the file.
    """

    number: int
    sources: tuple[Source, ...]
    row_groups: tuple[int, ...] = ()
    images: int | None = None


def open_file_system(path: str) -> tuple[Any, str]:
    """The file system of a path, and the path within it.

    Args:
        path: Local path, or one with a protocol, such as "s3://bucket/folder".

    Returns:
        An fsspec file system and its own form of the path.

    Raises:
        ImportError: The library of the protocol is not installed.
        DatasetError: Nobody knows the protocol.

    Example:
        >>> open_file_system("memory://photos/a.jpg")[1]
        '/photos/a.jpg'
    """
    try:
        return import_extra("fsspec.core", "ray", NAME).url_to_fs(path)
    except ValueError as error:
        raise DatasetError(f"{path}: {error}") from error


def is_local(file_system: Any) -> bool:
    """Whether a file system is this machine's own."""
    protocol = file_system.protocol
    return bool({protocol} & set(_LOCAL) if isinstance(protocol, str) else set(protocol) & set(_LOCAL))


def list_sources(inputs: str | PathLike | Sequence[str | PathLike], output: str) -> list[Source]:
    """Lists the files of the input.

    Args:
        inputs: A folder, with all folders below it; a pattern such as "photos/*.jpg"; a list file (.txt, .lst, .list)
            of one path per line, relative to its folder; one file; or several of these.
        output: Folder of the results, whose files are left out.

    Returns:
        The files, sorted by name, each once.

    Raises:
        DatasetError: There is no such file, or none that is an image or holds images.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "b.jpg").touch(), Path(folder, "a.tar").touch(), Path(folder, "notes.md").touch()
        ...     [source.name for source in list_sources(folder, "segmented")]
        (None, None, None)
        ['a.tar', 'b.jpg']
    """
    several = [inputs] if isinstance(inputs, (str, PathLike)) else list(inputs)
    results = full_path(output).rstrip("/") + "/"
    found: dict[str, Source] = {}
    for each in [fspath(path) for path in several]:
        listed = [source for source in _expand(each) if not source.path.startswith(results)]
        if not listed:
            raise DatasetError(f"{each}: holds no image and no .parquet, .tar or .tfrecord file")
        found |= {source.path: source for source in listed}
    return sorted(found.values(), key=lambda source: (source.name, source.path))


def full_path(path: str) -> str:
    """A path that means the same in every folder and on every machine that sees the file.

    Args:
        path: Local path, or one with a protocol.

    Returns:
        The absolute local path, or the path with its protocol.

    Example:
        >>> full_path("memory://photos/a.jpg"), full_path("/photos/a.jpg")
        ('memory:///photos/a.jpg', '/photos/a.jpg')
    """
    return _full(*open_file_system(path))


def _full(file_system: Any, path: str) -> str:
    """The same of a path within its file system."""
    return path if is_local(file_system) else file_system.unstrip_protocol(path)


def _expand(text: str) -> Iterator[Source]:
    """The sources that one input names."""
    file_system, path = open_file_system(text)
    if file_system.isdir(path):
        yield from _in_folder(file_system, path, file_system.find(path, detail=True))
    elif file_system.exists(path):
        is_list = re.search(_LIST + "$", path, re.IGNORECASE) is not None
        yield from _in_list(file_system, path) if is_list else [_source(file_system, path, path.rpartition("/")[2])]
    elif _MAGIC.search(path):
        folder = _MAGIC.split(path, maxsplit=1)[0].rpartition("/")[0]
        files = file_system.glob(path, detail=True)
        yield from _in_folder(file_system, folder, {k: v for k, v in files.items() if v["type"] != "directory"})
    else:
        raise DatasetError(f"{text}: there is no such file, folder or pattern with matches")


def _in_folder(file_system: Any, folder: str, files: dict[str, dict[str, Any]]) -> Iterator[Source]:
    """The files that are images or hold some; hidden ones and those of unfinished writers are left out."""
    for path, details in files.items():
        name = path.removeprefix(folder).lstrip("/")
        if _kind(name) is not None and not any(part.startswith((".", "_")) for part in name.split("/")):
            yield _source(file_system, path, name, details.get("size"))


def _in_list(file_system: Any, path: str) -> Iterator[Source]:
    """The files that the lines of a list name."""
    lines = file_system.cat_file(path).decode("utf-8").splitlines()
    for line in filter(None, map(str.strip, lines)):
        target = resolve(line, file_system.unstrip_protocol(path))
        yield _source(*open_file_system(target), line)


def resolve(path: str, named_in: str) -> str:
    """A path that a file names: as it is where it is absolute, else relative to the folder of that file.

    Args:
        path: The path.
        named_in: Path of the file that names it.

    Returns:
        Path for fsspec.

    Example:
        >>> resolve("photos/a.jpg", "s3://bucket/list.txt"), resolve("/a.jpg", "list.txt")
        ('s3://bucket/photos/a.jpg', '/a.jpg')
    """
    return path if "://" in path or path.startswith("/") else f"{named_in.rpartition('/')[0]}/{path}"


def _source(file_system: Any, path: str, name: str, size: int | None = None) -> Source:
    """A file whose name says of what kind it is; what says nothing is taken for an image."""
    return Source(_full(file_system, path), name, _kind(path) or "image", size)


def _kind(path: str) -> str | None:
    """The kind that a file's name implies."""
    matches = (kind for kind, ending in _KINDS.items() if re.search(ending + "$", path, re.IGNORECASE))
    return next(matches, None)


def fingerprint(sources: Iterable[Source]) -> str:
    """What changes when a file comes, goes, or gets another size.

    Args:
        sources: The files of the input.

    Returns:
        SHA-256 in hexadecimal digits.

    Example:
        >>> fingerprint([Source("a.jpg", "a.jpg", "image", 3)])[:8]
        '8f455e36'
    """
    digest = hashlib.sha256()
    for source in sources:
        digest.update(f"{source.kind}\t{source.name}\t{source.size}\n".encode())
    return digest.hexdigest()


def cut_into_shards(sources: Sequence[Source], images_per_shard: int) -> list[Shard]:
    """Cuts the input into parts that depend on the listing alone.

    Args:
        sources: The files, sorted.
        images_per_shard: Image files in each shard; rows of a Parquet file, whose row groups stay whole. A WebDataset
            or TFRecord file is one shard, whatever it holds.

    Returns:
        The shards.

    Raises:
        DatasetError: A Parquet file is damaged.

    Example:
        >>> files = [Source(f"{number}.jpg", f"{number}.jpg", "image") for number in range(5)]
        >>> [shard.images for shard in cut_into_shards(files, 2)]
        [2, 2, 1]
    """
    images = [source for source in sources if source.kind == "image"]
    parts: list[dict[str, Any]] = []
    for first in range(0, len(images), images_per_shard):
        some = tuple(images[first : first + images_per_shard])
        parts.append({"sources": some, "images": len(some)})
    tables = [source for source in sources if source.kind == "parquet"]
    with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
        for source, rows in zip(tables, pool.map(rows_of_groups, tables), strict=True):
            for groups in _neighbours(rows, images_per_shard):
                count = sum(rows[group] for group in groups)
                parts.append({"sources": (source,), "row_groups": tuple(groups), "images": count})
    parts += [{"sources": (source,)} for source in sources if source.kind in ("webdataset", "tfrecord")]
    return [Shard(number, **part) for number, part in enumerate(parts)]


def rows_of_groups(source: Source) -> list[int]:
    """How many rows each row group of a Parquet file has.

    Args:
        source: The file.

    Returns:
        One number per row group.

    Raises:
        DatasetError: Its footer cannot be read.
        ImportError: pyarrow is not installed.
    """
    pyarrow = require_pyarrow()
    file_system, path = open_file_system(source.path)
    try:
        with file_system.open(path) as file:
            metadata = pyarrow.parquet.ParquetFile(file).metadata
    except (pyarrow.ArrowException, OSError) as error:
        raise DatasetError(f"{source.path}: not a Parquet file that can be read ({error})") from error
    return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]


def require_pyarrow() -> Any:
    """The library that reads and writes Parquet.

    Returns:
        The module pyarrow, with pyarrow.parquet.

    Raises:
        ImportError: It is not installed.
    """
    import_extra("pyarrow.parquet", "ray", NAME)
    return import_extra("pyarrow", "ray", NAME)


def _neighbours(rows: Sequence[int], most: int) -> Iterator[list[int]]:
    """Neighbouring row groups of at least one and, where they are small, up to `most` rows together."""
    groups: list[int] = []
    for group, count in enumerate(rows):
        if groups and sum(rows[each] for each in groups) + count > most:
            yield groups
            groups = []
        groups.append(group)
    if groups:
        yield groups
