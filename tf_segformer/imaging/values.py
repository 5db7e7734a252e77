"""From the values of bands of any type to 0..1 and to mean 0 and deviation 1, by constants or by the image itself."""

from __future__ import annotations

from typing import Any

import numpy as np

from tf_segformer.imaging import transforms
from tf_segformer.imaging.fields import VALUE_TYPES


def as_values(array: np.ndarray, value_type: str | None) -> np.ndarray:
    """An image of bands as it is computed with.

    Args:
        array: Image of numbers, any shape.
        value_type: The type that its values must have; None for any.

    Returns:
        The image: uint8 as it is, other types as float32.

    Raises:
        ValueError: Another type, or values that are not finite.

    Example:
        >>> as_values(np.array([4000], np.uint16), "uint16")
        array([4000.], dtype=float32)
    """
    found = type_of(array)
    if found not in VALUE_TYPES:
        raise ValueError(f"The image holds {found}; bands are {', '.join(VALUE_TYPES)}: image.astype('float32').")
    if value_type is not None and found != value_type:
        raise ValueError(
            f"The image holds {found}, but the model was trained on {value_type} (value_type of its processor), "
            f"whose values mean something else. If they are the same values: image.astype({value_type!r})."
        )
    if array.dtype == np.uint8:
        return array
    values = array.astype(np.float32)
    if array.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError(
            "The image holds values that are not finite, such as NaN where there is no data: fill them first, with "
            "the mean of their band, for one."
        )
    return values


def type_of(array: np.ndarray) -> str:
    """The name of an array's type, whatever its byte order; that of doubles is "float32", as they are computed with.

    Args:
        array: Any.

    Returns:
        One of `VALUE_TYPES`, or another.

    Example:
        >>> type_of(np.zeros(2)), type_of(np.zeros(2, ">u2"))
        ('float32', 'uint16')
    """
    return "float32" if array.dtype.kind == "f" else array.dtype.newbyteorder("=").name


def divides_by_255(processor: Any) -> bool:
    """Whether a `SegformerImageProcessor` scales values as those of 8 bits, so that wider ones come out too large."""
    others = (processor.value_range, processor.value_percentiles, processor.normalization)
    return processor.do_rescale and bool(np.isclose(processor.rescale_factor, 1 / 255)) and others == (None,) * 3


def percentile_range(array: np.ndarray, percentiles: Any) -> np.ndarray:
    """The values of each band below which percentages of its pixels lie, interpolated linearly.

    Args:
        array: (H, W, C).
        percentiles: (low, high) in percent.

    Returns:
        (C, 2) float64, low < high also where a band has one value.

    Example:
        >>> percentile_range(np.arange(5)[None, :, None], (0, 50)).tolist()
        [[0.0, 2.0]]
    """
    ordered = np.sort(array.reshape(-1, array.shape[-1]), axis=0).astype(np.float64)  # (N, C)
    places = np.asarray(percentiles, np.float64) / 100 * (len(ordered) - 1)
    below = np.floor(places).astype(np.int64)
    above = np.minimum(below + 1, len(ordered) - 1)
    fraction = (places - below)[:, None]
    low, high = ordered[below] + (ordered[above] - ordered[below]) * fraction  # (C,) each
    return np.stack([low, np.where(high > low, high, low + np.maximum(1, np.abs(low)))], axis=-1)


def scale_to_range(array: np.ndarray, value_range: Any, layout: str) -> np.ndarray:
    """Clips to a range and scales it to 0..1, in float64, rounded once.

    Args:
        array: Image with three axes.
        value_range: (low, high), or (C, 2).
        layout: Where its channels are.

    Returns:
        float32 in 0..1.

    Raises:
        ValueError: Another number of ranges than of bands.

    Example:
        >>> scale_to_range(np.array([[[500, 2000]]]), (0, 1000), "channels_last").tolist()
        [[[0.5, 1.0]]]
    """
    channels = array.shape[0 if layout == transforms.CHANNELS_FIRST else -1]
    low, high = np.moveaxis(np.broadcast_to(_checked(value_range, channels), (channels, 2)), -1, 0)
    if layout == transforms.CHANNELS_FIRST:
        low, high = low[:, None, None], high[:, None, None]
    return ((np.clip(array.astype(np.float64), low, high) - low) / (high - low)).astype(np.float32)


def _checked(value_range: Any, channels: int) -> np.ndarray:
    """The range as an array, one pair or one for each band."""
    pairs = np.asarray(value_range, np.float64)
    if pairs.ndim == 2 and len(pairs) != channels:
        raise ValueError(f"value_range has {len(pairs)} values, but the image has {channels} channels.")
    return pairs


def mean_and_std(array: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation over all bands of an image.

    Args:
        array: Image with three axes, channels last.

    Returns:
        Both; the deviation is at least 1 / sqrt(H W), as Doodleverse's, so that an even image is not divided by 0.

    Source: `standardize` of doodleverse_utils, which is TensorFlow's `per_image_standardization` but for the count.

    Example:
        >>> mean_and_std(np.array([[[1.0], [3.0]]]))
        (2.0, 1.0)
    """
    values = array.astype(np.float64)
    return float(values.mean()), max(float(values.std()), 1 / float(np.sqrt(array.shape[0] * array.shape[1])))


def statistics_fields(image: np.ndarray, processor: Any) -> dict[str, Any]:
    """The fields of a processor that an image decides, as constants.

    Args:
        image: (H, W, C).
        processor: A `SegformerImageProcessor`.

    Returns:
        Fields to replace; empty where the image decides none.
    """
    own: dict[str, Any] = {}
    if processor.normalization is not None and processor.value_type is None:
        own["value_type"] = type_of(image)  # values stay those of bands
    value_range = processor.value_range
    if processor.value_percentiles is not None:
        value_range = percentile_range(image, processor.value_percentiles).tolist()
        own |= {"value_range": value_range, "value_percentiles": None}
    if processor.normalization is not None:
        if value_range is not None:
            image = scale_to_range(image, value_range, transforms.CHANNELS_LAST)
        elif processor.do_rescale:
            image = transforms.rescale(image, processor.rescale_factor)
        mean, std = mean_and_std(image)
        own |= {"image_mean": mean, "image_std": std, "normalization": None}
    return own
