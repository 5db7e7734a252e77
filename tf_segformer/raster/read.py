"""Reads windows of a raster: GeoTIFF, VRT (mosaics too) and JPEG 2000, with what of them is valid."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tf_segformer.errors import ImageError
from tf_segformer.imaging.files import MAX_PIXELS

DRIVERS = {
    ".tif": "GTiff", ".tiff": "GTiff", ".vrt": "VRT", ".jp2": "JP2OpenJPEG", ".j2k": "JP2OpenJPEG"
}  # fmt: skip
INSTALL = "pip install 'tf_segformer[geo]'"

_CACHE_BYTES = 256 * 2**20  # of decoded blocks; GDAL's own default grows with the machine
_GEOTIFF_TAGS = {33550, 33922, 34264, 34735, 50844}  # pixel scale, tie points, transform, keys, RPC
_JP2_MARKS = (bytes.fromhex("b14bf8bd083d4b43a5ae8cd7d5a6ce03"), b"gml.root-instance")  # GeoJP2's box, GMLJP2's


def is_raster(path: str | PathLike) -> bool:
    """Whether a file needs this package rather than an image reader.

    Args:
        path: The file.

    Returns:
        True for a VRT, and for a TIFF or JPEG 2000 that has a place, is larger than `MAX_PIXELS`, or holds bands that
        no image reader shows. Without rasterio only a place is seen.

    Example:
        >>> is_raster("photo.jpg"), is_raster("mosaic.vrt")
        (False, True)
    """
    path = Path(path)
    if path.suffix.lower() not in DRIVERS:
        return False
    if path.suffix.lower() == ".vrt":
        return True
    if find_spec("rasterio") is None:
        return _has_place(path)
    try:
        with open_raster(path) as dataset:
            bands = len(color_bands(dataset))
            has_place = dataset.crs is not None or not dataset.transform.is_identity or lies_by_points(dataset)
            odd = bands not in (1, 3) or (bands > 1 and set(dataset.dtypes) != {"uint8"})
            return has_place or odd or dataset.width * dataset.height > MAX_PIXELS
    except ImageError:
        return False  # the image reader says what is wrong


@contextmanager
def open_raster(path: str | PathLike) -> Iterator[Any]:
    """Opens a raster for reading, with a bounded cache of blocks.

    Args:
        path: GeoTIFF, VRT or JPEG 2000.

    Yields:
        The rasterio dataset.

    Raises:
        ImageError: The file cannot be read.
        ImportError: rasterio is missing.
    """
    require_rasterio(path)
    if Path(path).suffix.lower() not in DRIVERS:
        raise ImageError(f"{path}: a raster ends in {', '.join(DRIVERS)}.")
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioIOError

    with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=_CACHE_BYTES):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            dataset = rasterio.open(path, driver=DRIVERS[Path(path).suffix.lower()])
        except RasterioIOError as error:
            raise ImageError(f"{path}: no raster that can be read ({error}).") from error
        with dataset:
            yield dataset


def lies_by_points(dataset: Any) -> bool:
    """Whether ground control points or rational polynomial coefficients (RPC) say where a raster lies.

    Args:
        dataset: rasterio dataset.

    Returns:
        False where it has neither.
    """
    return bool(dataset.gcps[0]) or dataset.rpcs is not None


def require_rasterio(path: object) -> None:
    """Says what to install where the extra is missing.

    Args:
        path: The raster, for the message.

    Raises:
        ImportError: rasterio is missing.
    """
    if find_spec("rasterio") is None:
        raise ImportError(f"{path}: this raster's place on the earth is kept by rasterio alone: {INSTALL}")


def color_bands(dataset: Any) -> list[int]:
    """The numbers, from 1, of all bands but alpha.

    Args:
        dataset: rasterio dataset.

    Returns:
        The bands in order.
    """
    from rasterio.enums import ColorInterp

    return [band for band, meaning in enumerate(dataset.colorinterp, 1) if meaning != ColorInterp.alpha]


def choose_bands(dataset: Any, bands: Sequence[int] | None, channels: int) -> list[int]:
    """The bands that the model sees.

    Args:
        dataset: rasterio dataset.
        bands: Numbers from 1; None takes all but alpha.
        channels: C of the model.

    Returns:
        As many bands as the model has channels; a single one three times for a model of RGB.

    Raises:
        ImageError: Bands that the raster lacks, another number of them, or a color table for a model of other bands.
    """
    chosen = color_bands(dataset) if bands is None else list(bands)
    missing = [band for band in chosen if not 1 <= band <= dataset.count]
    if missing:
        raise ImageError(f"{dataset.name}: there is no band {missing[0]}, only 1 to {dataset.count}.")
    if len(chosen) != channels and not (len(chosen) == 1 and channels == 3):
        example = f", such as --bands {','.join(map(str, range(1, channels + 1)))} (bands=...)"
        remedy = f": name the ones it was trained on{example}" if dataset.count >= channels else ""
        raise ImageError(f"{dataset.name}: the model takes {channels} bands, not {len(chosen)}{remedy}.")
    if channels != 3 and _has_color_table(dataset, chosen[0]):
        raise ImageError(
            f"{dataset.name}: band {chosen[0]} has a color table, but the model takes {channels} bands, not RGB: name "
            "a band of values (--bands), or save the values without their colors."
        )
    return chosen * (channels // len(chosen))


def read_window(
    dataset: Any, bands: Sequence[int], box: tuple[int, int, int, int], shape: tuple[int, int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Reads one window.

    Args:
        dataset: rasterio dataset.
        bands: Numbers from 1; the same one three times is looked up in its color table, if it has one.
        box: (top, left, height, width).
        shape: Height and width of the result, of every n-th row and column; None takes all.

    Returns:
        Pixels (height, width, C) in the raster's own type; and (height, width) bool, False at pixels that are nodata,
        transparent or not finite.

    Raises:
        ImageError: The file is damaged there, or a mosaic's part is missing.
    """
    from rasterio.errors import RasterioIOError
    from rasterio.windows import Window

    top, left, height, width = box
    window, shape = Window(left, top, width, height), shape or (height, width)
    try:
        stored = dataset.read(list(bands), window=window, out_shape=(len(bands), *shape))
        pixels = np.moveaxis(stored, 0, -1)  # (height, width, C)
        valid = dataset.dataset_mask(window=window, out_shape=shape) > 0
    except RasterioIOError as error:
        reason = error.__cause__ or error  # "See previous exception for details", which names the file
        raise ImageError(f"{dataset.name}: cannot be read at rows {top} to {top + height} ({reason}).") from error
    if pixels.dtype.kind == "f":
        valid &= np.isfinite(pixels).all(axis=-1)
    if list(bands) != [bands[0]] * 3 or not _has_color_table(dataset, bands[0]):
        return pixels, valid
    table = np.zeros((256, 3), np.uint8)
    for value, color in dataset.colormap(bands[0]).items():
        table[value % 256] = color[:3]
    return table[pixels[..., 0]], valid


def fill_invalid(pixels: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Replaces invalid pixels by the mean of the valid ones, so that a value of -9999 does not reach the network.

    Args:
        pixels: (H, W, C).
        valid: (H, W) bool, at least one of them True.

    Returns:
        (H, W, C) of the same type.

    Example:
        >>> fill_invalid(np.array([[[4], [8], [-9999]]]), np.array([[True, True, False]])).ravel().tolist()
        [4, 8, 6]
    """
    if valid.all():
        return pixels
    mean = pixels[valid].mean(axis=0, dtype=np.float64).astype(pixels.dtype)  # (C,)
    return np.where(valid[..., None], pixels, mean)


def _has_color_table(dataset: Any, band: int) -> bool:
    """Whether the values of a band are indices of colors."""
    from rasterio.enums import ColorInterp

    return dataset.colorinterp[band - 1] == ColorInterp.palette


def _has_place(path: Path) -> bool:
    """Whether a TIFF or JPEG 2000 says where it lies, seen without rasterio."""
    try:
        if path.suffix.lower() in (".jp2", ".j2k"):
            with path.open("rb") as file:
                header = file.read(2**16)
            return any(mark in header for mark in _JP2_MARKS)
        with warnings.catch_warnings(), Image.open(path, formats=["TIFF"]) as image:
            warnings.simplefilter("ignore")
            return bool(_GEOTIFF_TAGS & set(getattr(image, "tag_v2", ())))
    except Exception:  # Pillow's readers raise a dozen kinds on hostile bytes; the image reader says what is wrong
        return False
