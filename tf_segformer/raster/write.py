"""Writes rasters of classes and confidences a few rows at a time, in the place of the raster they were made from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np

from tf_segformer.io import atomic_write

TILE = 512
_SMALLEST_OVERVIEW = 256


class RowWriter:
    """Collects rows until they fill the tiles of a raster, so that each tile is compressed once.

    Args:
        dataset: rasterio dataset that is open for writing, with one band.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._rows: list[np.ndarray] = []
        self._written = 0

    def write(self, rows: np.ndarray) -> None:
        """Takes the next rows (N, W) from the top."""
        self._rows.append(rows.astype(self._dataset.dtypes[0]))
        while (held := sum(map(len, self._rows))) >= TILE or (held and self._written + held == self._dataset.height):
            joined = np.concatenate(self._rows)
            self._flush(joined[:TILE])
            self._rows = [joined[TILE:]]

    def _flush(self, rows: np.ndarray) -> None:
        from rasterio.windows import Window

        self._dataset.write(rows, 1, window=Window(0, self._written, self._dataset.width, len(rows)))
        self._written += len(rows)


def class_type(num_classes: int) -> str:
    """The type of a class raster, with one value left over for pixels without a class."""
    return "uint8" if num_classes < 256 else "uint16"


def class_nodata(source_nodata: float | None, num_classes: int) -> int:
    """The value of pixels without a class.

    Args:
        source_nodata: That of the raster that is segmented.
        num_classes: K.

    Returns:
        The same value where it fits and is no class, otherwise the largest of the type.

    Example:
        >>> class_nodata(200.0, 11), class_nodata(0.0, 11), class_nodata(-9999.0, 300)
        (200, 255, 65535)
    """
    largest = int(np.iinfo(class_type(num_classes)).max)
    if source_nodata is not None and num_classes <= source_nodata <= largest and source_nodata == int(source_nodata):
        return int(source_nodata)
    return largest


@contextmanager
def class_raster(
    path: str | PathLike, source: Any, labels: Sequence[str], palette: np.ndarray
) -> Iterator[tuple[RowWriter, int]]:
    """A tiled, compressed GeoTIFF of classes with overviews, color table and class names; whole or not there at all.

    The names go where GDAL keeps them, into PATH.aux.xml, and into the tags CLASS_0, CLASS_1, ... of the band.

    Args:
        path: File to write.
        source: rasterio dataset whose size and place it has.
        labels: Class names.
        palette: (K, 3) uint8.

    Yields:
        A writer of rows, and the value for pixels without a class.
    """
    nodata = class_nodata(source.nodata, len(labels))
    with _raster(path, source, class_type(len(labels)), nodata, "nearest") as dataset:
        colors = {index: (*map(int, color), 255) for index, color in enumerate(palette)}
        dataset.write_colormap(1, {**colors, nodata: (0, 0, 0, 0)})
        dataset.update_tags(1, **{f"CLASS_{index}": name for index, name in enumerate(labels)})
        dataset.set_band_description(1, "class")
        yield RowWriter(dataset), nodata
    names = "".join(f"<Category>{escape(name)}</Category>" for name in labels)
    text = f'<PAMDataset><PAMRasterBand band="1"><CategoryNames>{names}</CategoryNames></PAMRasterBand></PAMDataset>\n'
    with atomic_write(f"{path}.aux.xml") as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def confidence_raster(path: str | PathLike, source: Any) -> Iterator[RowWriter]:
    """A GeoTIFF of the probability of the predicted class, float32; NaN where there is none.

    Args:
        path: File to write.
        source: rasterio dataset whose size and place it has.

    Yields:
        A writer of rows.
    """
    with _raster(path, source, "float32", float("nan"), "average") as dataset:
        dataset.set_band_description(1, "confidence")
        yield RowWriter(dataset)


@contextmanager
def _raster(path: str | PathLike, source: Any, dtype: str, nodata: float, overviews: str) -> Iterator[Any]:
    """A new GeoTIFF of one band in the place of another raster; overviews follow when its rows are there."""
    import rasterio
    from rasterio.enums import Resampling

    points, points_crs = source.gcps if source.transform.is_identity else ([], None)  # a GeoTIFF has one or the other
    options = {
        "driver": "GTiff",
        "width": source.width,
        "height": source.height,
        "count": 1,
        "dtype": dtype,
        "nodata": nodata,
        "tiled": True,
        "blockxsize": TILE,
        "blockysize": TILE,
        "compress": "deflate",
        "predictor": 3 if dtype == "float32" else 1,
        "BIGTIFF": "IF_SAFER",
        **({"gcps": points, "crs": points_crs} if points else {"transform": source.transform, "crs": source.crs}),
    }
    with atomic_write(Path(path)) as partial:
        with rasterio.open(partial, "w", **options) as dataset:
            if source.rpcs:
                dataset.rpcs = source.rpcs
            if "AREA_OR_POINT" in source.tags():
                dataset.update_tags(AREA_OR_POINT=source.tags()["AREA_OR_POINT"])
            yield dataset
        levels = [2**n for n in range(1, 20) if max(source.shape) / 2 ** (n - 1) > _SMALLEST_OVERVIEW]
        if levels:
            with rasterio.open(partial, "r+", driver="GTiff") as dataset:
                dataset.build_overviews(levels, Resampling[overviews])
