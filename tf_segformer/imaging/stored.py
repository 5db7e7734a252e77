"""Opens images of any bands as their files hold them: NumPy's files, TIFF and PNG of more than 8 bits."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from tf_segformer.errors import ImageError
from tf_segformer.imaging.arrays import is_array_file, open_image_array
from tf_segformer.imaging.bands import image_type_of, pillow_bands, stored_bands
from tf_segformer.imaging.files import MAX_FILE_BYTES, MAX_PIXELS, open_image, open_stored
from tf_segformer.imaging.visualize import as_rgb
from tf_segformer.io import read_bytes

_TIFF_SUFFIXES = (".tif", ".tiff")
_BITS, _SAMPLES, _EXTRA_SAMPLES = 258, 277, 338  # TIFF's tags
_ALPHA = {1, 2}  # values of the last
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {2: 3, 4: 1, 6: 3}  # colors, gray and alpha, colors and alpha; without alpha


def open_as_stored(source: str | PathLike | bytes) -> Image.Image | np.ndarray:
    """Opens an image without losing bands or bits.

    Args:
        source: Path of JPEG, PNG, TIFF and so on, .npy or .npz; or encoded bytes.

    Returns:
        A Pillow image where Pillow holds all of it, else (H, W, C) in the file's own type, without alpha; pixels of a
        TIFF that have no data get the mean of their band.

    Raises:
        ImageError: The file cannot be read, or needs the extra `geo`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/a.npy", np.zeros((4, 6, 5), np.uint16))
        ...     open_as_stored(f"{folder}/a.npy").shape
        (4, 6, 5)
    """
    if isinstance(source, (str, PathLike)):
        if is_array_file(source):
            return open_image_array(source)
        if Path(source).suffix.lower() in _TIFF_SUFFIXES and not _pillow_holds_all(source):
            return _open_with_rasterio(fspath(source))
        if Path(source).suffix.lower() == ".png" and (channels := _channels_of_16_bits(source)):
            return _decode_16_bits(source, channels)
    return open_stored(source)


def open_for(processor: Any, source: str | PathLike | bytes | Image.Image, channels: int) -> np.ndarray:
    """Opens an image as a processor takes it.

    Args:
        processor: A `SegformerImageProcessor`.
        source: Path, encoded bytes or Pillow image; or path of a .npy or .npz file.
        channels: Channels of the model.

    Returns:
        (H, W, 3) uint8 where the processor takes 8-bit RGB; else (H, W, C) in the file's own type.

    Raises:
        ImageError: The file cannot be read.
    """
    is_array = isinstance(source, (str, PathLike)) and is_array_file(source)
    if not processor.keeps_values and channels == 3 and not is_array:
        return np.asarray(open_image(source, apply_exif_orientation=processor.apply_exif_orientation))
    image = source if isinstance(source, Image.Image) else open_as_stored(source)
    if isinstance(image, np.ndarray):
        return image
    if processor.apply_exif_orientation:
        image = ImageOps.exif_transpose(image)
    return stored_bands(image, channels, processor.keeps_values)


def open_for_eye(source: str | PathLike | bytes, apply_exif_orientation: bool = False) -> Image.Image:
    """Opens an image to look at.

    Args:
        source: Path or encoded bytes.
        apply_exif_orientation: Turn it as its EXIF tag says.

    Returns:
        The image in mode "RGB"; of bands the first three, or the first in gray, stretched where they are not 8-bit.

    Raises:
        ImageError: The file cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/a.npy", np.zeros((4, 6, 5), np.uint16))
        ...     open_for_eye(f"{folder}/a.npy").mode
        'RGB'
    """
    stored = open_as_stored(source)
    if isinstance(stored, Image.Image) and image_type_of(stored, source).is_rgb:
        return open_image(stored, apply_exif_orientation=apply_exif_orientation)
    return Image.fromarray(as_rgb(as_array(stored)))


def _pillow_holds_all(path: str | PathLike) -> bool:
    """Whether Pillow gives all bands and bits of a TIFF; others become RGB of 8 bits there, or nothing."""
    try:
        with warnings.catch_warnings(), Image.open(path, formats=["TIFF"]) as image:
            warnings.simplefilter("ignore")
            tags = getattr(image, "tag_v2", {})
            bits, samples = set(np.ravel(tags.get(_BITS, 1)).tolist()), int(tags.get(_SAMPLES, 1))
            extra = set(np.ravel(tags.get(_EXTRA_SAMPLES, ())).tolist())
            if image.mode in ("F", "I"):  # whose pixels without data rasterio knows
                return samples == 1 and find_spec("rasterio") is None and (image.mode == "F" or bits == {16})
            if len(image.getbands()) == 1:
                return samples == 1
            return bits <= {8} and (samples == 3 or (samples in (2, 4) and bool(extra) and extra <= _ALPHA))
    except Exception:  # Pillow's readers raise a dozen kinds on TIFF that they do not know, and on hostile bytes
        return not _is_tiff(path)


def _is_tiff(path: str | PathLike) -> bool:
    """Whether a file begins as a TIFF does; others are left to the image reader, which says what is wrong."""
    try:
        return read_bytes(path, MAX_FILE_BYTES)[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    except (OSError, ValueError):
        return False


def _open_with_rasterio(path: str) -> np.ndarray:
    """All bands of a TIFF but alpha, (H, W, C)."""
    if find_spec("rasterio") is None:
        raise ImageError(
            f"{path}: Pillow cannot read this TIFF's bands as they are: pip install 'tf_segformer[geo]', or save them "
            "as .npy."
        )
    import rasterio
    from rasterio.enums import ColorInterp
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            with rasterio.open(path, driver="GTiff") as dataset:
                if dataset.width * dataset.height > MAX_PIXELS:
                    raise ImageError(f"{path}: {dataset.width} x {dataset.height} pixels are more than {MAX_PIXELS}.")
                meanings = enumerate(dataset.colorinterp, 1)
                bands = [band for band, meaning in meanings if meaning != ColorInterp.alpha]
                pixels = np.moveaxis(dataset.read(bands), 0, -1)
                valid = dataset.dataset_mask() > 0
        except RasterioError as error:
            raise ImageError(f"{path}: cannot be read ({error}).") from error
    if pixels.dtype.kind == "f":
        valid &= np.isfinite(pixels).all(axis=-1)
    if not valid.all() and valid.any():
        pixels = np.where(valid[..., None], pixels, pixels[valid].mean(axis=0, dtype=np.float64).astype(pixels.dtype))
    return pixels


def _channels_of_16_bits(path: str | PathLike) -> int | None:
    """Channels of a PNG of 16 bits whose colors Pillow would cut to 8; None for any other file."""
    try:
        with open(path, "rb") as file:
            header = file.read(26)
    except OSError:
        return None
    has_16_bits = header[:8] == _PNG and len(header) == 26 and header[24] == 16
    return _PNG_CHANNELS.get(header[25]) if has_16_bits else None


def _decode_16_bits(path: str | PathLike, channels: int) -> np.ndarray:
    """A PNG as (H, W, C) uint16."""
    import tensorflow as tf

    open_stored(path)  # its limits and errors
    return tf.io.decode_png(read_bytes(path, MAX_FILE_BYTES), channels=channels, dtype=tf.uint16).numpy()


def as_array(stored: Image.Image | np.ndarray) -> np.ndarray:
    """What `open_as_stored` gives as (H, W, C)."""
    return pillow_bands(stored) if isinstance(stored, Image.Image) else stored
