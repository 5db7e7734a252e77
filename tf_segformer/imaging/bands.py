"""Images as arrays of their bands, in the type that their file has: nothing is cut to 8 bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from tf_segformer.errors import ImageError
from tf_segformer.imaging import transforms
from tf_segformer.imaging.fields import VALUE_TYPES
from tf_segformer.imaging.files import SIXTEEN_BIT_MODES, to_rgb
from tf_segformer.imaging.values import type_of

MAX_BANDS = 16

_SAMPLE_FORMAT, _SIGNED = 339, 2  # TIFF's tag, and its value for whole numbers below 0 too


@dataclass(frozen=True)
class ImageType:
    """What the images of a dataset are.

    Args:
        channels: Bands, 1 to 16.
        dtype: Type of their values, one of `VALUE_TYPES`.

    Example:
        >>> ImageType().is_rgb, str(ImageType(5, "uint16"))
        (True, '5 bands of uint16')
    """

    channels: int = 3
    dtype: str = "uint8"

    @property
    def is_rgb(self) -> bool:
        """Whether these are images as most checkpoints take them."""
        return (self.channels, self.dtype) == (3, "uint8")

    def __str__(self) -> str:
        return f"{self.channels} band{'' if self.channels == 1 else 's'} of {self.dtype}"


RGB = ImageType()


def image_type_of(stored: Image.Image | np.ndarray, name: object) -> ImageType:
    """What an image is.

    Args:
        stored: As `open_as_stored` gives it.
        name: What messages call it.

    Returns:
        The type; 8-bit grayscale, palettes and alpha count as RGB.

    Raises:
        ImageError: More than 16 bands, or values of another type.

    Example:
        >>> image_type_of(Image.new("RGBA", (4, 3)), "x"), image_type_of(np.zeros((3, 4, 5), np.int16), "x")
        (ImageType(channels=3, dtype='uint8'), ImageType(channels=5, dtype='int16'))
    """
    if isinstance(stored, Image.Image):
        if stored.mode not in (*SIXTEEN_BIT_MODES, "I", "F"):
            return ImageType()
        stored = pillow_bands(stored)
    found = ImageType(stored.shape[-1], type_of(stored))
    if found.dtype not in VALUE_TYPES or not 1 <= found.channels <= MAX_BANDS:
        raise ImageError(f"{name}: holds {found}; images have 1 to {MAX_BANDS} bands of {', '.join(VALUE_TYPES)}.")
    return ImageType() if found in (ImageType(1), ImageType(3)) else found


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
