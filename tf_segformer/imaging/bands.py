"""Images as arrays of their bands, in the type that their file has: nothing is cut to 8 bits."""

from __future__ import annotations

from os import PathLike
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from tf_segformer.imaging import transforms
from tf_segformer.imaging.arrays import is_array_file, open_image_array
from tf_segformer.imaging.files import SIXTEEN_BIT_MODES, open_image, open_stored, to_rgb

MAX_BANDS = 16

_SAMPLE_FORMAT, _SIGNED = 339, 2  # TIFF's tag, and its value for whole numbers below 0 too


def stored_bands(image: Image.Image, num_bands: int | None, keeps_values: bool) -> np.ndarray:
    """A Pillow image as the bands that a processor takes.

    Args:
        image: In any mode.
        num_bands: Number of the processor's bands; None for any.
        keeps_values: Whether it takes more than 8-bit RGB.

    Returns:
        (H, W, 3) uint8 for a processor of RGB; else (H, W, C) in the image's own type, without alpha where that leaves
        as many bands as the processor takes.

    Example:
        >>> stored_bands(Image.new("I;16", (4, 3), 900), 1, True).max()
        np.uint16(900)
    """
    if not keeps_values and num_bands in (None, 3):
        return np.asarray(to_rgb(image))
    array = pillow_bands(image)
    if image.mode in ("LA", "RGBA") and array.shape[-1] - 1 == num_bands:
        return array[..., :-1]
    return np.repeat(array, 3, axis=-1) if array.shape[-1] == 1 and num_bands == 3 else array


def pillow_bands(image: Image.Image) -> np.ndarray:
    """All bands of a Pillow image in its own type.

    Args:
        image: In any mode; colors of a palette are looked up.

    Returns:
        (H, W, C): uint8, uint16, int16, int32 or float32.

    Example:
        >>> pillow_bands(Image.new("RGBA", (4, 3))).shape
        (3, 4, 4)
    """
    if image.mode in ("1", "P", "PA"):
        image = image.convert("L") if image.mode == "1" else to_rgb(image)
    array = np.asarray(image)
    if image.mode in SIXTEEN_BIT_MODES or (image.mode == "I" and image.format == "PNG"):
        array = array.astype(np.uint16)
    elif image.mode == "I" and _SIGNED in np.ravel(getattr(image, "tag_v2", {}).get(_SAMPLE_FORMAT, 0)):
        array = array.astype(np.int16) if array.min() >= -(2**15) and array.max() < 2**15 else array
    return array[..., None] if array.ndim == 2 else array


def as_bands(array: np.ndarray, num_bands: int | None, keeps_values: bool) -> tuple[np.ndarray, str]:
    """An array with its bands, and where they are: last, if in doubt; for RGB as transformers does.

    Args:
        array: Image with three axes, or (H, W), which is repeated for RGB.
        num_bands: Number of the processor's bands; None for any.
        keeps_values: Whether it takes more than 8-bit RGB.

    Returns:
        Image with three axes, and "channels_first" or "channels_last".

    Raises:
        ValueError: Neither the first nor the last axis can hold the bands.

    Example:
        >>> as_bands(np.zeros((5, 40, 60)), 5, False)[1]
        'channels_first'
    """
    if array.ndim == 2:
        copies = 3 if num_bands in (None, 3) else 1
        return np.repeat(array[..., None], copies, axis=-1), transforms.CHANNELS_LAST
    if num_bands in (None, 3) and not keeps_values:
        return array, transforms.infer_layout(array)
    counts = range(1, MAX_BANDS + 1) if num_bands is None else (num_bands,)
    last = array.ndim == 3 and array.shape[-1] in counts
    return array, transforms.CHANNELS_LAST if last else transforms.infer_layout(array, counts)


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
    if isinstance(source, (str, PathLike)) and is_array_file(source):
        return open_image_array(source)
    if not processor.keeps_values and channels == 3:
        return np.asarray(open_image(source, apply_exif_orientation=processor.apply_exif_orientation))
    image = source if isinstance(source, Image.Image) else open_stored(source)
    if processor.apply_exif_orientation:
        image = ImageOps.exif_transpose(image)
    return stored_bands(image, channels, processor.keeps_values)
