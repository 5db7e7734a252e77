"""The fields of an image processor: every spelling that is understood, and what is out of range."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from PIL import Image

VALUE_TYPES = ("uint8", "uint16", "int16", "float32")
"""Types of the values of bands."""

BAND_FIELDS = ("value_type", "value_range", "value_percentiles", "normalization")
"""Fields of images that are more than 8-bit RGB, which the Hub does not know."""

NORMALIZATIONS = ("per_image",)

Range = tuple[float, float]


def defaults_note(size: tuple[int, int] | None, remedy: str = "put the file next to them") -> str:
    """What it means that the default processor stands in for a checkpoint's own; size None: without resizing."""
    resized = "" if size is None else f"resized to {size[1]}x{size[0]} and "
    ranges = f"images are {resized}normalized with ImageNet's mean and std."
    return f"{ranges} If the weights were trained with others, {remedy}."


def as_size(size: Any) -> dict[str, int]:
    """Reads every spelling of the target size."""
    if isinstance(size, Integral):
        size = (int(size), int(size))
    if not isinstance(size, Mapping) and isinstance(size, Sequence) and len(size) == 2:
        size = {"height": size[0], "width": size[1]}
    if not isinstance(size, Mapping) or set(size) != {"height", "width"}:
        raise ValueError(f'size must be {{"height": int, "width": int}}, one int or (height, width), but is {size!r}.')
    if not all(isinstance(side, Integral) and int(side) > 0 for side in size.values()):
        raise ValueError(f"size must hold whole numbers of at least 1, but is {dict(size)!r}.")
    return {name: int(size[name]) for name in ("height", "width")}


def as_filter(resample: Any) -> int:
    """Reads the number of a filter of Pillow's."""
    if resample not in list(Image.Resampling):
        known = ", ".join(f"{one.value} {one.name.lower()}" for one in Image.Resampling)
        raise ValueError(f"resample must be one of Pillow's filters ({known}), but is {resample!r}.")
    return int(resample)


def as_channel_values(name: str, values: Any, default: Sequence[float]) -> float | list[float]:
    """Reads one number or one number a channel; None is the default."""
    values = default if values is None else values
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if is_finite(values):
        return float(values)
    if isinstance(values, Sequence) and len(values) > 0 and all(map(is_finite, values)):
        return [float(value) for value in values]
    raise ValueError(f"{name} must be a finite number or a list of them, one a channel, but is {values!r}.")


def as_value_range(values: Any) -> list[float] | list[list[float]] | None:
    """Reads (low, high), or such a pair for each band."""
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if values is None or _is_pair(values):
        return None if values is None else [float(value) for value in values]
    if isinstance(values, Sequence) and len(values) > 0 and all(map(_is_pair, values)):
        return [[float(low), float(high)] for low, high in values]
    raise ValueError(
        f"value_range must be [low, high] with low < high, or a list of such pairs, one a band, but is {values!r}."
    )


def as_percentiles(values: Any) -> list[float] | None:
    """Reads (low, high) in percent."""
    if values is None:
        return None
    if not _is_pair(values) or values[0] < 0 or values[1] > 100:
        raise ValueError(f"value_percentiles must be [low, high] with 0 <= low < high <= 100, but is {values!r}.")
    return [float(value) for value in values]


def check_fields(processor: Any) -> None:
    """Rejects values that are out of range or unknown, and fields that another would ignore.

    Raises:
        ValueError: Naming both.
    """
    if not is_finite(processor.rescale_factor):
        raise ValueError(f"rescale_factor must be a finite number, but is {processor.rescale_factor!r}.")
    if np.any(np.equal(processor.image_std, 0)):
        raise ValueError(f"image_std must not hold 0, but is {processor.image_std!r}.")
    for name, known in (("value_type", VALUE_TYPES), ("normalization", NORMALIZATIONS)):
        value = getattr(processor, name)
        if value is not None and value not in known:
            raise ValueError(f"{name} must be None or one of {', '.join(known)}, but is {value!r}.")
    ranges = [name for name in ("value_range", "value_percentiles") if getattr(processor, name) is not None]
    if len(ranges) == 2:
        raise ValueError("value_range and value_percentiles exclude each other.")
    if ranges and not processor.do_rescale:
        raise ValueError(f"{ranges[0]} is what do_rescale scales by: do_rescale=False would ignore it.")
    if processor.normalization and not processor.do_normalize:
        raise ValueError("normalization is what do_normalize does: do_normalize=False would ignore it.")
    counts = band_counts(processor)
    if len(set(counts.values())) > 1 and "value_range" in counts:
        found = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise ValueError(f"{found} values: give one for each band of the image to all of them.")


def band_counts(processor: Any) -> dict[str, int]:
    """For how many bands each field is that is used and has one value a band."""
    fields = {"value_range": processor.value_range if np.ndim(processor.value_range or 0) == 2 else None}
    if processor.do_normalize and processor.normalization is None:
        fields |= {"image_mean": processor.image_mean, "image_std": processor.image_std}
    return {name: len(value) for name, value in fields.items() if isinstance(value, list)}


def is_finite(value: Any) -> bool:
    """Whether a value is a finite real number."""
    try:
        return isinstance(value, Real) and math.isfinite(value)
    except OverflowError:  # a whole number larger than any float
        return False


def _is_pair(values: Any) -> bool:
    """Whether a value is (low, high), low being lower."""
    return (
        isinstance(values, Sequence)
        and not isinstance(values, str)
        and len(values) == 2
        and all(map(is_finite, values))
        and values[0] < values[1]
    )
