"""The folder of the results: what it was computed from, and one file per finished shard, each whole or absent."""

from __future__ import annotations

import io
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tf_segformer.batch.inputs import open_file_system, require_pyarrow
from tf_segformer.batch.segment import OK, Row
from tf_segformer.errors import DatasetError

MANIFEST = "manifest.json"
# File systems on which a file appears when its upload ends; on others it is written elsewhere and renamed.
_WHOLE_PUTS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "memory"}
_PART = re.compile(r"part-(\d{6,})\.parquet")
_FOOTERS_AT_ONCE = 16


@dataclass(frozen=True)
class ShardReport:
    """What a finished shard holds.

    Args:
        number: The shard's.
        images: Rows.
        failed: Those of images that could not be segmented.
    """

    number: int
    images: int
    failed: int


class OutputFolder:
    """Where the results go.

    Args:
        path: Folder on any file system that fsspec opens.
        masks: Where class maps go: None (nowhere), "parquet" (the column `mask`) or "png" (a file each, which the
            column `mask_path` names).

    Example:
        >>> folder = OutputFolder("memory://segmented")
        >>> folder.write_shard(0, [Row(0, "a.jpg", "broken", "the file is empty")])
        ShardReport(number=0, images=1, failed=1)
        >>> folder.finished_shards()
        [ShardReport(number=0, images=1, failed=1)]
    """

    def __init__(self, path: str, masks: str | None = None) -> None:
        self.path = path
        self.masks = masks
        self._files, self._root = open_file_system(path)

    def claim(self, settings: Mapping[str, Any], notes: Mapping[str, Any]) -> None:
        """Writes what the results are computed from, or checks that earlier ones were computed from the same.

        Args:
            settings: What the results depend on, JSON-ready.
            notes: What else is good to know, such as the names of the classes.

        Raises:
            DatasetError: The folder holds results of other settings, or files of another program.
        """
        path = f"{self._root}/{MANIFEST}"
        if not self._files.exists(path):
            names = self._files.ls(self._root, detail=False) if self._files.isdir(self._root) else []
            if any(not name.rpartition("/")[2].startswith(".") for name in names):  # a killed writer's may be there
                raise DatasetError(f"{self.path}: holds files, but no {MANIFEST}: choose a new or empty folder")
            text = json.dumps({"settings": settings, **notes}, indent=2, ensure_ascii=False)
            self._put(path, text.encode())
            return
        try:
            earlier = json.loads(self._files.cat_file(path))["settings"]
            different = [name for name in {**earlier, **settings} if earlier.get(name) != settings.get(name)]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DatasetError(f"{self.path}/{MANIFEST}: damaged ({error}): choose another folder") from error
        if different:
            reasons = ", ".join(f"{name} {earlier.get(name)!r} instead of {settings.get(name)!r}" for name in different)
            raise DatasetError(f"{self.path}: holds results of other settings: {reasons}. Choose another folder")

    def finished_shards(self) -> list[ShardReport]:
        """The shards whose files are there, of which nothing is done again.

        Raises:
            DatasetError: A file of theirs is damaged.
        """
        if not self._files.isdir(self._root):
            return []
        self._files.invalidate_cache(self._root)
        names = (path.rpartition("/")[2] for path in self._files.ls(self._root, detail=False))
        numbers = sorted(int(match[1]) for name in names if (match := _PART.fullmatch(name)))
        with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
            return list(pool.map(self._report, numbers))

    def finished(self, number: int) -> ShardReport | None:
        """The report of one shard, if its file is there."""
        self._files.invalidate_cache(self._root)
        return self._report(number) if self._files.exists(self._part(number)) else None

    def write_shard(self, number: int, rows: Sequence[Row]) -> ShardReport:
        """Writes the rows of a shard; its file appears last and whole, so that whoever is killed leaves none.

        Args:
            number: The shard's.
            rows: One row per image.

        Returns:
            What the file holds.
        """
        pyarrow = require_pyarrow()
        columns: dict[str, list[Any]] = {name: [] for name in _schema(pyarrow, self.masks).names}
        for row in rows:
            values = {**vars(row), "mask_path": self._write_mask(number, row)}
            values["class_fractions"] = None if row.class_fractions is None else list(row.class_fractions.items())
            for name, column in columns.items():
                column.append(values[name])
        report = ShardReport(number, len(rows), sum(row.status != OK for row in rows))
        schema = _schema(pyarrow, self.masks).with_metadata({"failed": str(report.failed)})
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.table(columns, schema=schema), buffer)
        self._put(self._part(number), buffer.getvalue())
        return report

    def _write_mask(self, number: int, row: Row) -> str | None:
        """Writes a class map as a file of its own, whose name cannot lead out of the folder."""
        if self.masks != "png" or row.mask is None:
            return None
        stem = re.sub(r"[^\w.-]", "_", row.id.rpartition("/")[2])[-80:]
        path = f"masks/{number:06d}/{row.position:06d}_{stem}.png"
        self._put(f"{self._root}/{path}", row.mask)
        return path

    def _part(self, number: int) -> str:
        """Path of a shard's file."""
        return f"{self._root}/part-{number:06d}.parquet"

    def _report(self, number: int) -> ShardReport:
        """What the footer of a shard's file says."""
        pyarrow = require_pyarrow()
        try:
            with self._files.open(self._part(number)) as file:
                footer = pyarrow.parquet.ParquetFile(file)
                failed = footer.schema_arrow.metadata[b"failed"]
                return ShardReport(number, footer.metadata.num_rows, int(failed))
        except (pyarrow.ArrowException, OSError, KeyError, TypeError) as error:
            path = f"{self.path}/part-{number:06d}.parquet"
            raise DatasetError(f"{path}: not written by this program ({error}): remove it and run again") from error

    def _put(self, path: str, content: bytes) -> None:
        """Writes a file whole or not at all."""
        protocol = self._files.protocol
        if _WHOLE_PUTS & ({protocol} if isinstance(protocol, str) else set(protocol)):
            self._files.pipe_file(path, content)
            return
        folder, _, name = path.rpartition("/")
        partial = f"{folder}/.{name}.{uuid.uuid4().hex[:8]}.partial"
        self._files.makedirs(folder, exist_ok=True)
        try:
            self._files.pipe_file(partial, content)
            self._files.mv(partial, path)
        except BaseException:
            if self._files.exists(partial):
                self._files.rm_file(partial)
            raise


def _schema(pyarrow: Any, masks: str | None) -> Any:
    """The columns of the output."""
    text, whole = pyarrow.string(), pyarrow.int32()
    columns = [("id", text), ("status", text), ("error", text), ("height", whole), ("width", whole)]
    columns.append(("class_fractions", pyarrow.map_(text, pyarrow.float64())))
    columns += {None: [], "parquet": [("mask", pyarrow.binary())], "png": [("mask_path", text)]}[masks]
    return pyarrow.schema(columns)
