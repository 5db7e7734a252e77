"""Resize, rescale and normalize one array exactly as the Pillow-based processors of transformers 4 do."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

CHANNELS_FIRST = "channels_first"
CHANNELS_LAST = "channels_last"
_REMEDY = " `tf-segformer check DATA --statistics` computes those of other bands."
LAYOUTS = (CHANNELS_FIRST, CHANNELS_LAST)


def to_array(image: Any) -> np.ndarray:
    """Returns a Pillow image, array or tensor of any framework as a NumPy array."""
    if isinstance(image, np.ndarray):
        return image
    if hasattr(image, "detach"):  # a torch tensor, which may need gradients or live on a GPU
        image = image.detach().cpu()
    if isinstance(image, Image.Image) or hasattr(image, "__array__"):
        return np.asarray(image)
    raise ValueError(
        f"Expected a PIL image, an array or a tensor, but got {type(image).__name__}. "
        "Open files and bytes with tf_segformer.imaging.files.open_image first."
    )


def infer_layout(array: np.ndarray, channel_counts: Sequence[int] = (1, 3)) -> str:
    """Says where the channels of an (.., .., ..) array are; ambiguous shapes count as channels first, with a warning.

    Args:
        array: Image with three axes.
        channel_counts: Numbers of channels that an image may have.

    Returns:
        "channels_first" or "channels_last".

    Raises:
        ValueError: Neither the first nor the last axis can hold the channels.
    """
    if array.ndim != 3:
        raise ValueError(f"An image needs three axes (height, width, channels), but the shape is {array.shape}.")
    first = array.shape[0] in channel_counts
    last = array.shape[2] in channel_counts
    if first and last:
        warnings.warn(
            f"The channel dimension is ambiguous. Got image shape {array.shape}. Assuming channels are the first "
            "dimension; pass input_data_format to say otherwise.",
            stacklevel=2,
        )
    if not first and not last:
        raise ValueError(
            f"Cannot infer the channels of an image of shape {array.shape}: neither its first nor its last axis has "
            f"{' or '.join(map(str, channel_counts))} entries. Pass input_data_format, or convert the image to RGB."
        )
    return CHANNELS_FIRST if first else CHANNELS_LAST


def change_layout(array: np.ndarray, layout: str, target: str) -> np.ndarray:
    """Moves the channel axis of a three-axis array from one layout to the other."""
    if layout == target or array.ndim != 3:
        return array
    return array.transpose(2, 0, 1) if target == CHANNELS_FIRST else array.transpose(1, 2, 0)


def looks_rescaled(array: np.ndarray) -> bool:
    """Whether the values of an image lie in [0, 1] already (an 8-bit image never counts)."""
    return array.dtype != np.uint8 and bool(array.min() >= 0 and array.max() <= 1)


def rescale(array: np.ndarray, factor: float) -> np.ndarray:
    """Multiplies in float64 and rounds once to float32."""
    return (array.astype(np.float64) * factor).astype(np.float32)


def normalize(
    array: np.ndarray, mean: float | Sequence[float], std: float | Sequence[float], layout: str
) -> np.ndarray:
    """Computes `(array - mean) / std` per channel, in float32 unless the array has another floating type."""
    if not np.issubdtype(array.dtype, np.floating):
        array = array.astype(np.float32)
    channels = array.shape[0 if layout == CHANNELS_FIRST else -1]
    means = _per_channel(mean, channels, "image_mean", array.dtype)
    stds = _per_channel(std, channels, "image_std", array.dtype)
    if layout == CHANNELS_FIRST:
        means, stds = means[:, None, None], stds[:, None, None]
    return (array - means) / stds


def resize(array: np.ndarray, size: tuple[int, int], resample: int, layout: str) -> np.ndarray:
    """Resizes through 8-bit Pillow images: gray and RGB as transformers 4 does, each of other bands by itself.

    Args:
        array: Image in `layout`, or (H, W); uint8, whole numbers in [0, 255], or floats in [0, 1].
        size: Target (height, width).
        resample: Pillow's number of the filter.
        layout: Where the channels of `array` are, and will be.

    Returns:
        uint8 image, or float32 in [0, 1] where the input was fractional.

    Raises:
        ValueError: Values that do not fit in 8 bits.
    """
    pixels = change_layout(array, layout, CHANNELS_LAST)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    fractional = _is_fractional(pixels)
    if fractional:
        pixels = rescale(pixels, 255)
    if pixels.ndim == 2 or pixels.shape[-1] == 3:
        resized = _resize_8_bit(pixels, size, resample)
    else:  # each band by itself: of 2 or 4, Pillow would take the last for alpha and multiply the others by it
        resized = np.stack([_resize_8_bit(band, size, resample) for band in np.moveaxis(pixels, -1, 0)], axis=-1)
    if resized.ndim == 2:
        resized = resized[..., None]
    resized = change_layout(resized, CHANNELS_LAST, layout)
    return rescale(resized, 1 / 255) if fractional else resized


def resize_bands(array: np.ndarray, size: tuple[int, int], resample: int, layout: str) -> np.ndarray:
    """Resizes each band by itself: 8-bit values as Pillow's mode "L", others in float32 as its mode "F".

    Args:
        array: Image in `layout`, uint8 or float32.
        size: Target (height, width).
        resample: Pillow's number of the filter.
        layout: Where the channels of `array` are, and will be.

    Returns:
        Image of the same type.
    """
    if array.dtype == np.uint8:
        return resize(array, size, resample, layout)
    bands = change_layout(array, layout, CHANNELS_FIRST)
    images = [Image.fromarray(np.ascontiguousarray(band, np.float32)) for band in bands]
    resized = np.stack([np.asarray(image.resize((size[1], size[0]), resample)) for image in images])
    return change_layout(resized, CHANNELS_FIRST, layout)


def _resize_8_bit(pixels: np.ndarray, size: tuple[int, int], resample: int) -> np.ndarray:
    """One band (H, W) or RGB (H, W, 3) through Pillow."""
    image = Image.fromarray(np.ascontiguousarray(pixels.astype(np.uint8)))
    return np.array(image.resize((size[1], size[0]), resample=resample))


def reduce_labels(labels: np.ndarray) -> np.ndarray:
    """Turns label 0 into 255 (ignored) and lowers the others by one; 255 stays. Returns int64."""
    labels = labels.astype(np.int64)
    return np.where((labels == 0) | (labels == 255), 255, labels - 1)


def _per_channel(values: float | Sequence[float], channels: int, name: str, dtype: np.dtype) -> np.ndarray:
    """Returns one value for each channel."""
    if not isinstance(values, Sequence):
        values = [values] * channels
    if len(values) != channels:
        remedy = _REMEDY if channels not in (1, 3) else ""
        raise ValueError(f"{name} has {len(values)} values, but the image has {channels} channels.{remedy}")
    return np.array(values, dtype=dtype)


def _is_fractional(image: np.ndarray) -> bool:
    """Whether an image holds floats in [0, 1] that must be scaled to fit in 8 bits."""
    if image.dtype == np.uint8:
        return False
    whole = np.allclose(image, image.astype(int))
    upper = 255 if whole else 1
    if not (np.all(image >= 0) and np.all(image <= upper)):
        raise ValueError(
            f"An image of {'whole numbers' if whole else 'floats'} to be resized must lie in [0, {upper}], but its "
            f"values reach from {image.min()} to {image.max()}. Scale it first, or pass do_resize=False."
        )
    return not whole
