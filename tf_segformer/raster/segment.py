"""Segments a raster of any size: windows in, rows of classes out; a small one in one forward pass over the whole."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from os import PathLike, fspath
from typing import Any

import numpy as np

from tf_segformer.errors import ImageError
from tf_segformer.imaging.labels import colors_of
from tf_segformer.imaging.postprocess import softmax
from tf_segformer.imaging.processor import SegformerImageProcessor
from tf_segformer.imaging.values import as_values, divides_by_255
from tf_segformer.inference.predictor import Box, SegmentationPredictor
from tf_segformer.inference.results import WrittenResult
from tf_segformer.inference.windows import row_chunks
from tf_segformer.raster.read import choose_bands, fill_invalid, lies_by_points, open_raster, read_window
from tf_segformer.raster.vector import require_vector, write_polygons
from tf_segformer.raster.write import class_raster, confidence_raster

WHOLE_SIDE = 2048
"""Largest side in pixels of a raster that `predict` segments in one forward pass: B0 takes 2.1 GB for it, B5 3.0."""

_MOST_PIXELS = WHOLE_SIDE**2  # of the reduced view that gives a raster's statistics
_FOR_8_BITS = (
    "but the model's preprocessor_config.json is for 8-bit images (0 to 255): use a model trained on such bands, or "
    "scale the raster to 8 bits first."
)

_Rows = Iterator[tuple[int, int, np.ndarray, np.ndarray | None]]
"""First row and the one after the last, the classes of these rows, and their confidence where it is asked for."""


def fits_whole(path: str | PathLike) -> bool:
    """Whether a raster has at most `WHOLE_SIDE` pixels on both sides.

    Args:
        path: The raster.

    Raises:
        ImageError: It cannot be read.
        ImportError: rasterio is missing.
    """
    with open_raster(path) as source:
        return max(source.shape) <= WHOLE_SIDE


def segment_raster(
    predictor: SegmentationPredictor,
    path: str | PathLike,
    classes: str | PathLike,
    *,
    confidence: str | PathLike | None = None,
    vector: str | PathLike | None = None,
    bands: Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> WrittenResult:
    """Segments a raster and writes a class raster in the same place (extra `geo`).

    With mode="slide" overlapping windows keep memory the same for any size; with mode="whole" the raster is read and
    segmented as a whole, as an array of it would be. `tf-segformer predict` takes "whole" where both sides have at most
    `WHOLE_SIDE` pixels.

    Size, CRS, transform (or ground control points, or RPC) are those of the input; pixels that are nodata, transparent
    or not finite get no class. The file is tiled and compressed, with overviews, color table and class names.

    Args:
        predictor: With mode="slide", where blend="cosine" leaves no seams between windows, or with mode="whole".
        path: GeoTIFF, VRT (a mosaic, for one) or JPEG 2000.
        classes: GeoTIFF to write: uint8, or uint16 from 256 classes on.
        confidence: GeoTIFF to write, if any: the probability of the predicted class, float32.
        vector: Polygons to write, if any: .gpkg or .geojson.
        bands: Which bands the model sees, from 1; None takes all but alpha.
        progress: Called with the rows done and all rows.

    Returns:
        Fractions of the classes, with "crs" and "classified" (fraction of the pixels) among its details.

    Raises:
        ImageError: The raster cannot be read, has other bands or values than the model takes, or has no transform for
            its polygons.
        ValueError: The predictor has another mode, or flips.
        ImportError: rasterio is missing, or pyogrio or shapely for polygons.

    Example:
        >>> import rasterio, tempfile
        >>> from tf_segformer import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor
        >>> model = SegformerForSemanticSegmentation(SegformerConfig(num_labels=2, depths=(1, 1, 1, 1)))
        >>> processor = SegformerImageProcessor(do_resize=False)
        >>> predictor = SegmentationPredictor(model, processor, mode="slide", window=32, stride=16, blend="cosine")
        >>> place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000)}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with rasterio.open(
        ...         f"{folder}/scene.tif", "w", width=48, height=40, count=3, dtype="uint8", **place
        ...     ) as scene:
        ...         scene.write(np.full((3, 40, 48), 128, np.uint8))
        ...     result = segment_raster(predictor, f"{folder}/scene.tif", f"{folder}/classes.tif")
        ...     with rasterio.open(f"{folder}/classes.tif") as classes:
        ...         classes.shape, classes.crs.to_epsg(), classes.transform == place["transform"]
        ((40, 48), 32633, True)
    """
    if predictor.mode not in _ROWS or predictor.flip:
        raise ValueError(f"rasters are segmented with mode={' or '.join(map(repr, _ROWS))} and without flip")
    if vector is not None:
        require_vector(vector)
    with open_raster(path) as source:
        if fspath(classes) == fspath(path):
            raise ValueError(f"{path}: the class raster cannot replace its own source")
        if vector is not None and source.transform.is_identity and lies_by_points(source):
            raise ImageError(
                f"{path}: polygons need a transform, and only ground control points or RPC say where this raster lies: "
                f"warp it first, such as gdalwarp -tps {path} warped.tif (-rpc for RPC)."
            )
        if vector is not None and source.crs is None:
            warnings.warn(
                f"{path}: has no CRS, nor will its polygons have one: coordinates and areas are in units of its "
                "transform, which readers of GeoJSON take for degrees",
                stacklevel=2,
            )
        chosen = choose_bands(source, bands, predictor.engine.num_channels)
        _check_type(predictor.processor, source, chosen)

        labels, rows = _ROWS[predictor.mode](predictor, source, chosen, confidence is not None)
        names = list(labels.values())
        counts = np.zeros(len(names), np.int64)
        with ExitStack() as files:
            colors = colors_of(predictor.engine.config, names)
            class_rows, nodata = files.enter_context(class_raster(classes, source, names, colors))
            confidence_rows = confidence and files.enter_context(confidence_raster(confidence, source))
            for first, last, class_map, probability in rows:
                valid = _valid_rows(source, chosen, first, last)
                counts += np.bincount(class_map[valid], minlength=len(names))
                class_rows.write(np.where(valid, class_map, nodata))
                if confidence_rows and probability is not None:
                    confidence_rows.write(np.where(valid, probability, np.nan))
                if progress is not None:
                    progress(last, source.height)
        crs = source.crs.to_string() if source.crs else None
        details = {"crs": crs, "classified": round(int(counts.sum()) / (source.width * source.height), 6)}
        size = (source.height, source.width)
    if vector is not None:
        details["polygons"] = write_polygons(classes, vector, labels)
    return WrittenResult(fspath(path), size, counts, labels, details)


def _rows_of_windows(
    predictor: SegmentationPredictor, source: Any, bands: Sequence[int], with_confidence: bool
) -> tuple[dict[int, str], _Rows]:
    """The class names, and the rows of a raster that is read a window at a time."""

    def read(box: Box) -> np.ndarray | None:
        pixels, valid = _read_checked(predictor.processor, source, bands, box)
        return fill_invalid(pixels, valid) if valid.any() else None

    processor = _with_statistics(predictor.processor, source, bands)
    logits = predictor.window_logits(source.shape, read, processor)

    def rows() -> _Rows:
        for first, last in row_chunks(source.height, source.width, logits.num_classes):
            values = logits.rows(first, last)  # (rows, W, K)
            yield first, last, values.argmax(axis=-1), softmax(values).max(axis=-1) if with_confidence else None

    return predictor.class_names(logits.num_classes), rows()


def _rows_of_the_whole(
    predictor: SegmentationPredictor, source: Any, bands: Sequence[int], with_confidence: bool
) -> tuple[dict[int, str], _Rows]:
    """The class names, and the rows of a raster that is segmented as an array of it is."""
    pixels, valid = _read_checked(predictor.processor, source, bands, (0, 0, *source.shape))
    processor = predictor.processor
    if not valid.all():  # the statistics of an image would count what is filled in
        processor = _with_statistics(processor, source, bands)
    predictor = predictor.replace(processor=processor, return_confidence=with_confidence, progress=False)
    (result,) = predictor([fill_invalid(pixels, valid) if valid.any() else np.zeros_like(pixels)])
    return result.labels, iter([(0, source.height, result.class_map, result.confidence)])


_ROWS = {"slide": _rows_of_windows, "whole": _rows_of_the_whole}


def _read_checked(
    processor: SegformerImageProcessor, source: Any, bands: Sequence[int], box: Box
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and validity of a window, whose values the processor takes."""
    pixels, valid = read_window(source, bands, box)
    if valid.any():
        _check_values(processor, pixels[valid], source.name)
    return pixels, valid


def _with_statistics(processor: SegformerImageProcessor, source: Any, bands: Sequence[int]) -> SegformerImageProcessor:
    """The processor for all windows: where it takes each image's own statistics, with those of the raster."""
    if processor.value_percentiles is None and processor.normalization is None:
        return processor
    pixels, valid = _reduced(source, bands)
    return processor.with_statistics_of(pixels[valid][None]) if valid.any() else processor


def _reduced(source: Any, bands: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and validity of the whole raster, of a large one every n-th row and column."""
    step = max(1.0, math.sqrt(source.width * source.height / _MOST_PIXELS))
    shape = (max(1, round(source.height / step)), max(1, round(source.width / step)))
    return read_window(source, bands, (0, 0, *source.shape), shape)


def _check_type(processor: SegformerImageProcessor, source: Any, bands: Sequence[int]) -> None:
    """Rejects values that mean something else than those that the model was trained on.

    Raises:
        ImageError: Another type than the processor's, or fractions of 1 where it divides by 255.
    """
    found = np.dtype(source.dtypes[bands[0] - 1])
    if processor.keeps_values:
        try:
            as_values(np.zeros(1, found), processor.value_type)
        except ValueError as error:
            raise ImageError(f"{source.name}: {error}") from error
    elif found.kind == "f" and divides_by_255(processor):
        pixels, valid = _reduced(source, bands)
        if valid.any() and 0 < pixels[valid].max() <= 1:
            raise ImageError(f"{source.name}: values reach {pixels[valid].max():g} ({found}), {_FOR_8_BITS}")


def _valid_rows(source: Any, bands: Sequence[int], first: int, last: int) -> np.ndarray:
    """(rows, W) bool: which pixels of some rows have a class."""
    return read_window(source, bands, (first, 0, last - first, source.width))[1]


def _check_values(processor: SegformerImageProcessor, pixels: np.ndarray, name: str) -> None:
    """Rejects values above 255 that the processor would take for those of an 8-bit image.

    Args:
        processor: How values become pixel values.
        pixels: (N, C) valid pixels.
        name: The raster, for the message.

    Raises:
        ImageError: The processor only divides by 255.
    """
    if divides_by_255(processor) and (largest := pixels.max()) > 255:
        raise ImageError(f"{name}: values reach {largest} ({pixels.dtype}), {_FOR_8_BITS}")
