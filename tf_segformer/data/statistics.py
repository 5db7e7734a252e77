"""Statistics of the bands of a dataset, in one pass and bounded memory, and the processor that they make."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tf_segformer.data.examples import LabelledDataset
from tf_segformer.imaging.bands import ImageType
from tf_segformer.imaging.processor import SegformerImageProcessor

PERCENTILES = (2, 98)

_NEAR_MEAN, _NEAR_STD = 0.2, 1.6  # difference and ratio up to which bands count as those of photographs
_FLOAT_SHIFT = 14  # of the 32 bits of a float, the upper 18 decide its bin: 1/512 of its value
_SIGN = np.uint32(1 << 31)


@dataclass(frozen=True)
class BandStatistics:
    """What the values of each band are, over all pixels of a dataset.

    Args:
        image_type: Bands and type.
        images: Number of images.
        mean: Mean of each band.
        std: Standard deviation of each band.
        low: Lowest value of each band.
        high: Highest value of each band.
        percentiles: 2nd and 98th percentile of each band.
        value_range: The range of each band that becomes 0..1: from the 2nd to the 98th percentile, widened by their
            distance at both ends, but not beyond the values; 0 to 255 for uint8.
        unit_mean: Mean of each band in that range.
        unit_std: Standard deviation of each band in that range.

    Example:
        >>> statistics = dataset_statistics(find_dataset("camvid", "CamVid", "train"))
        >>> statistics.image_type.channels, len(statistics.processor_fields()["image_mean"])
        (3, 3)
    """

    image_type: ImageType
    images: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    percentiles: tuple[tuple[float, float], ...]
    value_range: tuple[tuple[float, float], ...]
    unit_mean: tuple[float, ...]
    unit_std: tuple[float, ...]

    def processor_fields(self) -> dict[str, Any]:
        """The fields of preprocessor_config.json for such images; those of uint8 are such that the Hub knows them.

        Returns:
            Arguments of `SegformerImageProcessor`.
        """
        fields: dict[str, Any] = {"image_mean": list(self.unit_mean), "image_std": list(self.unit_std)}
        if self.image_type.dtype != "uint8":
            fields["value_type"] = self.image_type.dtype
            fields["value_range"] = [list(pair) for pair in self.value_range]
        return fields

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `tf-segformer check --statistics --json` prints them."""
        rows = zip(self.mean, self.std, self.low, self.high, self.percentiles, strict=True)
        return {
            "bands": [
                {"mean": mean, "std": std, "min": low, "max": high, "percentile_2": pair[0], "percentile_98": pair[1]}
                for mean, std, low, high, pair in rows
            ],
            "images": self.images,
            "preprocessor_config": self.processor_fields(),
        }

    def __str__(self) -> str:
        header = f"{'band':>4} {'mean':>12} {'std':>12} {'min':>12} {'2 %':>12} {'98 %':>12} {'max':>12}"
        rows = zip(self.mean, self.std, self.low, self.percentiles, self.high, strict=True)
        lines = [
            f"{band:>4} " + " ".join(f"{value:>12.6g}" for value in (mean, std, low, *pair, high))
            for band, (mean, std, low, pair, high) in enumerate(rows, 1)
        ]
        return "\n".join([f"{self.images:,} training images, {self.image_type}", header, *lines])


def dataset_statistics(dataset: LabelledDataset, *, threads: int = 4) -> BandStatistics:
    """Mean, deviation, range and percentiles of each band of the images.

    Whole numbers are counted one by one, so that these are exact; floats in bins of 1/512 of their value, so that
    mean, deviation and percentiles are within 0.1 %.

    Args:
        dataset: From `find_dataset` or `open_tfrecords`; the training split, for a model's processor.
        threads: Files opened at once.

    Returns:
        The statistics.

    Raises:
        ImageError: An image cannot be read, or differs in bands or type.

    Example:
        >>> print(dataset_statistics(find_dataset("camvid", "CamVid", "train")))
        4 training images, 3 bands of uint8
        band ...
    """
    kind = dataset.image_type
    values = _values_of_bins(kind.dtype)  # (bins,)
    counts = np.zeros((kind.channels, len(values)), np.int64)
    low, high = np.full(kind.channels, np.inf), np.full(kind.channels, -np.inf)
    images = 0
    for image in _in_threads(dataset, threads):
        pixels = image.reshape(-1, kind.channels)
        low, high = np.minimum(low, pixels.min(axis=0)), np.maximum(high, pixels.max(axis=0))
        for band in range(kind.channels):
            counts[band] += np.bincount(_bins(pixels[:, band]), minlength=len(values))
        images += 1
    pairs = np.clip([_percentiles(each, values) for each in counts], low[:, None], high[:, None])  # (C, 2)
    ranges = np.array([[0.0, 255.0]] * kind.channels) if kind.dtype == "uint8" else _ranges(low, high, pairs)
    units = [(np.clip(values, *each) - each[0]) / (each[1] - each[0]) for each in ranges]
    mean, std = _mean_and_std(counts, [values] * kind.channels)
    unit_mean, unit_std = _mean_and_std(counts, units)
    return BandStatistics(
        kind, images, _rounded(mean), _rounded(std), _rounded(low), _rounded(high), tuple(map(_rounded, pairs)),
        tuple(map(_rounded, ranges)), _rounded(unit_mean), _rounded(np.where(unit_std > 0, unit_std, 1.0)),
    )  # fmt: skip


def fits(processor: SegformerImageProcessor, image_type: ImageType) -> bool:
    """Whether a processor is for such images.

    Args:
        processor: Of a checkpoint.
        image_type: Of a dataset.

    Returns:
        False where it has another number of means, or no range for values beyond 8 bits.

    Example:
        >>> fits(SegformerImageProcessor(), ImageType()), fits(SegformerImageProcessor(), ImageType(3, "uint16"))
        (True, False)
    """
    counts = processor.num_bands in (None, image_type.channels)
    values = processor.keeps_values or image_type.dtype == "uint8"
    return counts and values and processor.value_type in (None, image_type.dtype)


def with_statistics(processor: SegformerImageProcessor, statistics: BandStatistics) -> SegformerImageProcessor:
    """A processor that scales and normalizes by the statistics of a dataset.

    Three first bands that are distributed as the processor's RGB keep its mean and std, those that the weights know.

    Args:
        processor: The checkpoint's; its other fields are kept.
        statistics: Of the training split.

    Returns:
        The new processor.

    Example:
        >>> statistics = dataset_statistics(find_dataset("camvid", "CamVid", "train"))
        >>> with_statistics(SegformerImageProcessor(size=64), statistics).target_size
        (64, 64)
    """
    plain = dict.fromkeys(("value_type", "value_range", "value_percentiles", "normalization"))
    scaling = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
    fields = statistics.processor_fields()
    own: tuple[Any, Any] = (processor.image_mean, processor.image_std)
    known = np.array([np.broadcast_to(each, 3) if np.size(each) in (1, 3) else np.zeros(3) for each in own])  # (2, 3)
    found = np.array([statistics.unit_mean[:3], statistics.unit_std[:3]])
    if processor.num_bands == 3 and not processor.keeps_values and found.shape == (2, 3):
        near = np.abs(found[0] - known[0]) < _NEAR_MEAN
        alike = (found[1] < _NEAR_STD * known[1]) & (known[1] < _NEAR_STD * found[1])
        if near.all() and alike.all():
            fields["image_mean"][:3], fields["image_std"][:3] = known.tolist()
    return replace(processor, **{**plain, **scaling, **fields})  # type: ignore[arg-type]


def _in_threads(dataset: LabelledDataset, threads: int) -> Iterator[np.ndarray]:
    """The images as (H, W, C), some of them opened at once."""
    examples = iter(dataset)
    with ThreadPoolExecutor(threads) as pool:
        while group := list(itertools.islice(examples, 2 * threads)):
            yield from pool.map(lambda each: np.asarray(each.read_image()), group)


def _bins(values: np.ndarray) -> np.ndarray:
    """The bin of each value (N,): the value itself, or the upper bits of a float, in the order of the values."""
    if values.dtype == np.float32:
        bits = values.view(np.uint32) if values.flags.c_contiguous else values.copy().view(np.uint32)
        return (np.where(bits & _SIGN, ~bits, bits | _SIGN) >> _FLOAT_SHIFT).astype(np.int64)
    return values.astype(np.int64) - (-(2**15) if values.dtype == np.int16 else 0)


def _values_of_bins(dtype: str) -> np.ndarray:
    """The value of each bin, float64: in the middle of it, where it has several."""
    if dtype != "float32":
        limits = np.iinfo(dtype)
        return np.arange(limits.min, limits.max + 1, dtype=np.float64)
    middle = (np.arange(1 << (32 - _FLOAT_SHIFT), dtype=np.uint32) << _FLOAT_SHIFT) | np.uint32(1 << (_FLOAT_SHIFT - 1))
    bits = np.where(middle & _SIGN, middle ^ _SIGN, ~middle)
    with np.errstate(invalid="ignore"):  # the bins of NaN stay empty
        values = bits.astype(np.uint32).view(np.float32).astype(np.float64)
    return np.where(np.isfinite(values), values, 0.0)


def _percentiles(counts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The values below which 2 and 98 % of the pixels of one band lie."""
    below = np.cumsum(counts)
    return values[np.searchsorted(below, np.asarray(PERCENTILES) / 100 * (below[-1] - 1), side="right")]


def _ranges(low: np.ndarray, high: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """The range (C, 2) of each band that becomes 0..1: outliers alone are clipped."""
    spread = pairs[:, 1] - pairs[:, 0]
    lowest, highest = np.maximum(low, pairs[:, 0] - spread), np.minimum(high, pairs[:, 1] + spread)
    even = np.array([low, high]).T
    chosen = np.where((spread > 0)[:, None], np.stack([lowest, highest], axis=-1), even)
    return np.where((chosen[:, 1] > chosen[:, 0])[:, None], chosen, chosen[:, :1] + [0.0, 1.0])


def _mean_and_std(counts: np.ndarray, values: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Of each band, from the counts of its values."""
    means = np.array([np.average(each, weights=count) for count, each in zip(counts, values, strict=True)])
    squares = [
        np.average((each - mean) ** 2, weights=count) for count, each, mean in zip(counts, values, means, strict=True)
    ]
    return means, np.sqrt(squares)


def _rounded(values: Any) -> Any:
    """Seven digits, which are those of float32."""
    return tuple(float(f"{value:.7g}") for value in values)
