"""Reads the images that a predictor is given: paths, bytes, Pillow images, arrays, one or any number of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any

import numpy as np
from PIL import Image

from tf_segformer.imaging import transforms
from tf_segformer.imaging.processor import SegformerImageProcessor
from tf_segformer.imaging.stored import open_for
from tf_segformer.imaging.values import as_values, divides_by_255
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
    images: Iterable[Any], channels: int, processor: SegformerImageProcessor, on_error: str, failures: list[Failure]
) -> Iterator[InputImage]:
    """Opens images one after the other, each when it is asked for.

    Args:
        images: Path, encoded bytes, Pillow image, array or tensor (H, W), (H, W, C) or (C, H, W), each.
        channels: C of the model.
        processor: The model's: says whether files are read as 8-bit RGB or as their bands.
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
            pixels = _pixels(image, channels, processor)
        except (ValueError, OSError) as error:
            if on_error == "raise":
                raise
            failures.append(Failure(index, source, error))
        else:
            yield InputImage(index, source, pixels)


def _pixels(image: Any, channels: int, processor: SegformerImageProcessor) -> np.ndarray:
    """An image of any kind as (H, W, C)."""
    if isinstance(image, (str, PathLike, bytes, Image.Image)):
        array = open_for(processor, image, channels)
    else:
        array = transforms.to_array(image)
        if array.size == 0:
            raise ValueError(f"the image is empty: its shape is {array.shape}")
        if array.ndim == 2:
            array = array[..., None]
        elif array.ndim == 3 and array.shape[-1] != channels and array.shape[0] == channels:
            array = transforms.change_layout(array, transforms.CHANNELS_FIRST, transforms.CHANNELS_LAST)
    array = _with_channels(array, channels, image)
    _check_range(array, processor, image)
    return array


def _check_range(array: np.ndarray, processor: SegformerImageProcessor, image: Any) -> None:
    """Rejects values of a type that the processor does not take, and those above 255 that it would divide by 255."""
    if processor.keeps_values:
        try:
            as_values(array if array.dtype.kind == "f" else array[:0], processor.value_type)  # floats may be NaN
        except ValueError as error:
            if not isinstance(image, (str, PathLike)):
                raise
            raise ValueError(f"{fspath(image)}: {error}") from error
    elif divides_by_255(processor) and array.dtype.kind in "iu" and array.max() > 255:
        raise ValueError(
            f"{_name_of(image)}: values reach {array.max()} ({array.dtype}), but the processor is for 8-bit "
            "images: give it a value_range or value_percentiles if the model was trained on such values, or scale them"
        )


def _name_of(image: Any) -> str:
    return fspath(image) if isinstance(image, (str, PathLike)) else "the image"


def _with_channels(array: np.ndarray, channels: int, image: Any) -> np.ndarray:
    """An image with as many channels as the model takes; a single one is repeated for RGB."""
    if array.ndim == 3 and array.shape[-1] == 1 and channels == 3:
        return np.repeat(array, 3, axis=-1)
    if array.ndim != 3 or array.shape[-1] != channels:
        raise ValueError(
            f"{_name_of(image)}: the model takes images of {channels} channels, but this one's shape is {array.shape}"
        )
    return array
