"""The images of one shard through the model: read ahead by threads, batched by size, one row per image."""

from __future__ import annotations

import io
import tempfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np

from tf_segformer.batch.inputs import Shard
from tf_segformer.batch.readers import Columns, EncodedImage, encoded_images
from tf_segformer.errors import ImageError
from tf_segformer.imaging.files import MAX_PIXELS, open_image
from tf_segformer.imaging.processor import SegformerImageProcessor
from tf_segformer.imaging.visualize import mask_image
from tf_segformer.inference.images import read_images
from tf_segformer.inference.predictor import SegmentationPredictor
from tf_segformer.inference.results import SegmentationResult

OK, BROKEN, UNREADABLE = "ok", "broken", "unreadable"
_READERS = 8  # threads
_MOST_WAITING_PIXELS = 1 << 26  # of images that wait for others of their size: 200 MB


@dataclass(frozen=True)
class Batching:
    """How images go through the model together; what a shard gives depends on it in the last bits.

    Args:
        columns: Columns of Parquet files that hold images and ids.
        batch_size: Most images in a batch.
        batch_pixels: Most pixels that the model sees in a batch of several images.
        max_pixels: Largest height times width of an image.
        masks: Whether rows carry the class map.
    """

    columns: Columns = field(default_factory=Columns)
    batch_size: int = 16
    batch_pixels: int = 1 << 22
    max_pixels: int = MAX_PIXELS
    masks: bool = False


@dataclass(frozen=True)
class Row:
    """What the output says of one image.

    Args:
        position: Of the image in its shard.
        id: What identifies it.
        status: `OK`, `BROKEN` (its file is no image) or `UNREADABLE` (its file cannot be had).
        error: Why it was not segmented.
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        class_fractions: Fraction of the pixels by class name, the largest first.
        mask: The class map as PNG, where it was asked for.
    """

    position: int
    id: str
    status: str
    error: str | None = None
    height: int | None = None
    width: int | None = None
    class_fractions: dict[str, float] | None = None
    mask: bytes | None = None


@dataclass(frozen=True)
class _Image:
    """An image that was read."""

    position: int
    id: str
    pixels: np.ndarray  # (H, W, C)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[0], self.pixels.shape[1]


def segment_shard(shard: Shard, predictor: SegmentationPredictor, batching: Batching) -> Iterator[list[Row]]:
    """Segments the images of a shard.

    Args:
        shard: The shard.
        predictor: Made with the batch size of `batching`.
        batching: How.

    Yields:
        The rows of some images, one per image in all; the same for the same shard wherever it is computed.

    Raises:
        DatasetError: A table of the input holds no images.
    """
    failures: list[Row] = []
    images = _readable(_read_ahead(shard, predictor, batching), failures)
    for batch in _batches(images, predictor, batching):
        batch.sort(key=lambda image: image.size)  # a GPU takes neighbours of one size at once
        results = predictor([image.pixels for image in batch])
        rows = [_row(image, result, batching.masks) for image, result in zip(batch, results, strict=True)]
        yield rows + failures
        failures.clear()
    yield failures


def _read_ahead(shard: Shard, predictor: SegmentationPredictor, batching: Batching) -> Iterator[_Image | Row]:
    """The images in order; threads read and decode those that come next."""
    channels = predictor.engine.num_channels  # which loads the network, once
    with ThreadPoolExecutor(_READERS) as pool:
        waiting: deque[Future[_Image | Row]] = deque()
        for position, encoded in enumerate(encoded_images(shard, batching.columns)):
            waiting.append(pool.submit(_open, position, encoded, predictor.processor, channels, batching.max_pixels))
            if len(waiting) > _READERS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _open(
    position: int, encoded: EncodedImage, processor: SegformerImageProcessor, channels: int, max_pixels: int
) -> _Image | Row:
    """An image, read and decoded, or why it cannot be."""
    try:
        content = encoded.read()
    except Exception as error:  # each file system has errors of its own
        return Row(position, encoded.id, UNREADABLE, f"{type(error).__name__}: {error}")
    try:
        return _Image(position, encoded.id, _decode(content, encoded.id, processor, channels, max_pixels))
    except (ValueError, OSError) as error:
        return Row(position, encoded.id, BROKEN, str(error).removeprefix("the image: "))


def _decode(
    content: bytes, name: str, processor: SegformerImageProcessor, channels: int, max_pixels: int
) -> np.ndarray:
    """The pixels (H, W, C) as the predictor takes them."""
    if channels == 3 and not processor.keeps_values:
        exif = processor.apply_exif_orientation
        return np.asarray(open_image(content, max_pixels=max_pixels, apply_exif_orientation=exif))
    with tempfile.TemporaryDirectory() as folder:  # what reads other bands takes paths
        path = Path(folder, f"image{Path(name).suffix}")
        path.write_bytes(content)
        (image,) = read_images([path], channels, processor, "raise", [])
    height, width = image.size
    if height * width > max_pixels:
        raise ImageError(f"{width} x {height} pixels are more than max_pixels={max_pixels}.")
    return image.pixels


def _readable(images: Iterator[_Image | Row], failures: list[Row]) -> Iterator[_Image]:
    """Passes the images on and keeps the rows of those that could not be read."""
    for image in images:
        if isinstance(image, Row):
            failures.append(image)
        else:
            yield image


def _batches(images: Iterator[_Image], predictor: SegmentationPredictor, batching: Batching) -> Iterator[list[_Image]]:
    """Groups images that the model sees in the same sizes; which ones depends on nothing but their order."""
    waiting: dict[tuple[tuple[int, int], ...], list[_Image]] = {}
    for image in images:
        sizes = tuple(predictor.view_sizes(image.size))
        waiting.setdefault(sizes, []).append(image)
        most = min(batching.batch_size, batching.batch_pixels // max(height * width for height, width in sizes))
        if len(waiting[sizes]) >= most:
            yield waiting.pop(sizes)
        while sum(prod(each.size) for group in waiting.values() for each in group) > _MOST_WAITING_PIXELS:
            yield waiting.pop(next(iter(waiting)))
    yield from waiting.values()


def _row(image: _Image, result: SegmentationResult, with_mask: bool) -> Row:
    """The row of an image that was segmented."""
    height, width = result.class_map.shape
    mask = None
    if with_mask:
        buffer = io.BytesIO()
        mask_image(result.class_map, list(result.labels.values()), result.palette).save(buffer, "PNG")
        mask = buffer.getvalue()
    return Row(image.position, image.id, OK, None, height, width, result.class_fractions, mask)
