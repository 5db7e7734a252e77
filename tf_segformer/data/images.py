"""The images of a dataset: 8-bit RGB, or bands of any type, the same for all of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from tf_segformer.errors import ImageError
from tf_segformer.imaging.arrays import is_array_file, open_image_array
from tf_segformer.imaging.bands import RGB, ImageType, image_type_of
from tf_segformer.imaging.files import open_image
from tf_segformer.imaging.stored import as_array, open_as_stored

_TRIED = 16  # images; the checks name those that cannot be read


def find_image_type(sources: Iterable[str | Path | bytes]) -> ImageType:
    """What the images of a dataset are.

    Args:
        sources: Paths or encoded bytes.

    Returns:
        RGB where one of the first images is that, or none can be read: images of one band of 16 bits among them are
        cut to 8; else the type of the first readable one.

    Example:
        >>> find_image_type(["CamVid/val/images/000.png"])
        ImageType(channels=3, dtype='uint8')
    """
    found = []
    for source in itertools.islice(sources, _TRIED):
        try:
            found.append(image_type_of(open_as_stored(source), source))
        except ImageError:
            continue
        if found[-1].is_rgb:
            return RGB
    return found[0] if found else RGB


def read_image(source: str | Path | bytes, image_type: ImageType) -> Image.Image | np.ndarray:
    """Opens an image as its dataset has it.

    Args:
        source: Path or encoded bytes.
        image_type: Of the dataset.

    Returns:
        The image in mode "RGB", or (H, W, C) of another type.

    Raises:
        ImageError: The file cannot be read, has other bands or values, or values that are not finite.

    Example:
        >>> read_image("CamVid/val/images/000.png", ImageType()).size
        (64, 64)
    """
    if image_type.is_rgb and not (isinstance(source, (str, Path)) and is_array_file(source)):
        return open_image(source)
    stored = open_image_array(source) if image_type.is_rgb else open_as_stored(source)  # type: ignore[arg-type]
    name = "the image" if isinstance(source, bytes) else source
    found = image_type_of(stored, name)
    if found != image_type:
        raise ImageError(f"{name}: holds {found}, but the first image holds {image_type}: all need the same.")
    array = as_array(stored)
    if image_type.is_rgb:
        return Image.fromarray(np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3))))
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ImageError(f"{name}: holds values that are not finite: fill them, and label such pixels 255 (ignored).")
    return array.astype(image_type.dtype)
