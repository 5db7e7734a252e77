"""Reads the images that a predictor is given: paths, bytes, Pillow images, arrays, one or any number of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any

import numpy as np
from PIL import Image

from tf_segformer.imaging import transforms
from tf_segformer.imaging.files import open_image
from tf_segformer.inference.results import Failure

ON_ERROR = ("raise", "skip")


@dataclass(frozen=True)
class InputImage:
    """An image that was read.

    Args:
        index: Position of the image among those given.
        source: Its path as it was given, or None where it did not come from a file.
        pixels: (H, W, C).
    """

    index: int
    source: str | None
    pixels: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[0], self.pixels.shape[1]


def as_images(images: Any) -> Iterable[Any]:
    """One image as a list of it; an iterable of images, or an array with four axes, as it is."""
    is_one = isinstance(images, (str, PathLike, bytes, Image.Image)) or getattr(images, "ndim", None) in (2, 3)
    return [images] if is_one else images


def read_images(
    images: Iterable[Any], channels: int, apply_exif_orientation: bool, on_error: str, failures: list[Failure]
) -> Iterator[InputImage]:
    """Opens images one after the other, each when it is asked for.

    Args:
        images: Path, encoded bytes, Pillow image, array or tensor (H, W), (H, W, C) or (C, H, W), each.
        channels: C of the model.
        apply_exif_orientation: Turn images from files as their EXIF tag says.
        on_error: "raise" stops at an image that cannot be read; "skip" notes it and goes on.
        failures: Where images that cannot be read are noted.

    Yields:
        The images that can be read.

    Raises:
        ValueError: For an array that is no image.
        ImageError: For a file that cannot be read.
    """
    for index, image in enumerate(images):
        source = fspath(image) if isinstance(image, (str, PathLike)) else None
        try:
            pixels = _pixels(image, channels, apply_exif_orientation)
        except (ValueError, OSError) as error:
            if on_error == "raise":
                raise
            failures.append(Failure(index, source, error))
        else:
            yield InputImage(index, source, pixels)


def _pixels(image: Any, channels: int, apply_exif_orientation: bool) -> np.ndarray:
    """An image of any kind as (H, W, C)."""
    if isinstance(image, (str, PathLike, bytes, Image.Image)):
        return np.asarray(open_image(image, apply_exif_orientation=apply_exif_orientation))
    array = transforms.to_array(image)
    if array.size == 0:
        raise ValueError(f"the image is empty: its shape is {array.shape}")
    if array.ndim == 2:
        return np.repeat(array[..., None], channels, axis=-1)
    layout = transforms.CHANNELS_LAST
    if array.shape[-1] != channels:
        layout = transforms.infer_layout(array, (channels,))
    return transforms.change_layout(array, layout, transforms.CHANNELS_LAST)
