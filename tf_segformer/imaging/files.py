"""Opens images and label maps from files that nobody has checked: every bad one ends in an ImageError."""

from __future__ import annotations

import io
import threading
import warnings
from os import PathLike
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from tf_segformer.errors import ImageError
from tf_segformer.io import read_bytes

MAX_PIXELS = 178_956_970
"""Largest image opened by default: where Pillow itself begins to reject (a 10,000 x 10,000 image fits)."""

MAX_FILE_BYTES = 8 * MAX_PIXELS
"""Largest encoded image that is read: what `MAX_PIXELS` take uncompressed with four channels of 16 bits."""

# The formats whose decoders only decode: Pillow's EPS reader, for one, starts Ghostscript.
_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")

IMAGE_SUFFIXES = (".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Endings of the files that a folder's images are taken from."""

FULL_16_BITS = 1 << 14
"""16-bit values that stay below it come from sensors of 10 to 14 bits: their upper byte alone is nearly black."""

SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
"""Pillow's modes of one band of 16 bits."""

_header_lock = threading.Lock()  # warning filters are global, and the predictor opens files from several threads


def open_image(
    source: str | PathLike | bytes | Image.Image,
    *,
    max_pixels: int = MAX_PIXELS,
    apply_exif_orientation: bool = False,
) -> Image.Image:
    """Opens an image as 8-bit RGB.

    Args:
        source: Path, encoded bytes, or an image that Pillow has opened already.
        max_pixels: Largest height times width; a larger image is rejected from its header, before any pixel is
            decoded. Above 178,956,970 Pillow's own limit (`PIL.Image.MAX_IMAGE_PIXELS`) must be raised too.
        apply_exif_orientation: Turn the image as its EXIF tag says. Off by default, as in `transformers`.

    Returns:
        The decoded image in mode "RGB": grayscale is repeated, palettes are looked up, alpha is dropped,
        16 bits are cut to their upper 8 (as PNG decoders do; Pillow's own conversion would clip them to white), with
        a warning where that leaves almost nothing.

    Raises:
        ImageError: The file is missing, empty, truncated, too large, or not an image; the message names it.

    Example:
        >>> open_image(Image.new("L", (4, 3))).mode
        'RGB'
    """
    image = _decode(source, max_pixels)
    if apply_exif_orientation:
        try:
            image = ImageOps.exif_transpose(image)
        except Exception as error:  # Pillow's readers raise a dozen kinds on hostile bytes
            raise ImageError(f"{_describe(source)}: its EXIF data is damaged ({error}).") from error
    return to_rgb(image, _describe(source))


def open_stored(source: str | PathLike | bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Opens an image as its file holds it: its own mode, 16-bit values, alpha, EXIF data.

    Args:
        source: Path or encoded bytes.
        max_pixels: Largest height times width, as in `open_image`.

    Returns:
        The decoded image.

    Raises:
        ImageError: As `open_image` does.

    Example:
        >>> open_stored(b"")
        Traceback (most recent call last):
        tf_segformer.errors.ImageError: the image: the file is empty (0 bytes).
    """
    return _decode(source, max_pixels)


def open_label_map(source: str | PathLike | bytes | Image.Image, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Opens a segmentation map as class indices.

    Args:
        source: Path, encoded bytes or Pillow image with one channel: 8-bit, palette (its indices) or 16-bit.
        max_pixels: Largest height times width, as in `open_image`.

    Returns:
        Class indices (H, W), int32.

    Raises:
        ImageError: The file cannot be read, or it has several channels.

    Example:
        >>> open_label_map(Image.new("P", (4, 3), color=7)).max()
        np.int32(7)
    """
    image = _decode(source, max_pixels)
    labels = np.asarray(image)
    if labels.ndim != 2 or image.mode == "F":
        raise ImageError(
            f"{_describe(source)}: a segmentation map needs one channel of whole numbers, but this one has mode "
            f"{image.mode}. Save the class indices as an 8-bit or palette PNG."
        )
    return labels.astype(np.int32)


def to_rgb(image: Image.Image, name: str = "the image") -> Image.Image:
    """Converts any Pillow image to 8-bit RGB as `open_image` describes.

    Args:
        image: Image in any mode that has a fixed range.
        name: What messages call it.

    Returns:
        Image in mode "RGB".

    Warns:
        UserWarning: 16-bit values stay below `FULL_16_BITS`.

    Raises:
        ImageError: Modes "F" and "I", whose values have no fixed range (except a 16-bit PNG read as "I").
    """
    if image.mode == "RGB":
        return image
    if image.mode in SIXTEEN_BIT_MODES or (image.mode == "I" and image.format == "PNG"):
        values = np.asarray(image).astype(np.uint16)
        if values.max() < FULL_16_BITS:
            warnings.warn(
                f"{name}: 16-bit values that reach only {values.max()} of 65535 become nearly black, because their "
                "upper byte is used. Scale the values to 0..255 and save them as 8 bits.",
                stacklevel=2,
            )
        upper_byte = (values >> 8).astype(np.uint8)
        return Image.fromarray(upper_byte).convert("RGB")
    if image.mode in ("F", "I"):
        raise ImageError(
            f"An image of mode {image.mode} has no fixed range of values: scale it to 0..255 and convert it to uint8."
        )
    if "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow asks for this step, then drops the alpha all the same
    return image.convert("RGB")


def _decode(source: str | PathLike | bytes | Image.Image, max_pixels: int) -> Image.Image:
    """Reads the header, rejects what is too large, then decodes all pixels."""
    try:
        with _header_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is ours
            image = source if isinstance(source, Image.Image) else _open_header(source)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{_describe(source)}: rejected before decoding: {error} Raise max_pixels and "
            "PIL.Image.MAX_IMAGE_PIXELS if you trust the file."
        ) from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{_describe(source)}: not an image in one of the formats {', '.join(_FORMATS)}.") from error
    except Exception as error:  # Pillow's readers raise a dozen kinds on hostile bytes
        raise ImageError(f"{_describe(source)}: not an image that can be read ({error}).") from error
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            f"{_describe(source)}: {width} x {height} pixels are more than max_pixels={max_pixels}. "
            "Raise max_pixels if you trust the file."
        )
    if width * height == 0:
        raise ImageError(f"{_describe(source)}: the image is empty ({width} x {height} pixels).")
    try:
        image.load()
    except Exception as error:
        raise ImageError(f"{_describe(source)}: truncated or damaged ({error}).") from error
    return image


def _open_header(source: str | PathLike | bytes) -> Image.Image:
    """Opens bytes or a file with the harmless formats only; no pixel is decoded yet."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        encoded = bytes(source)
    else:
        path = Path(source)
        if not path.exists():
            raise ImageError(f"{path}: there is no such file.")
        if path.is_dir():
            raise ImageError(f"{path}: this is a folder, not an image.")
        try:
            encoded = read_bytes(path, MAX_FILE_BYTES)
        except (OSError, ValueError) as error:
            raise ImageError(f"{path}: cannot be read ({error}).") from error
    if not encoded:
        raise ImageError(f"{_describe(source)}: the file is empty (0 bytes).")
    Image.init()
    return Image.open(io.BytesIO(encoded), formats=[name for name in _FORMATS if name in Image.OPEN])


def _describe(source: object) -> str:
    """Names the source in an error message."""
    return str(source) if isinstance(source, (str, PathLike)) else "the image"
