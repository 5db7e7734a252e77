"""Image classification folders: one folder a class, ImageNet's crops, in the resumable order of `pipeline`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tf_segformer.data.augmentation import random_flip, resized_window
from tf_segformer.data.check import reject
from tf_segformer.data.datasets import IMAGE_SUFFIXES
from tf_segformer.data.pipeline import decode_image, normalize
from tf_segformer.errors import DatasetError, ImageError
from tf_segformer.imaging.files import open_image

_CROP_TRIES = 10
_AREA_RANGE, _ASPECT_RANGE = (0.08, 1.0), (3 / 4, 4 / 3)
_CENTRE_SHARE = 0.875  # 224 of 256 pixels


@dataclass(frozen=True)
class ClassificationDataset:
    """Images with one class each.

    Args:
        name: Folder, for messages.
        paths: The images.
        labels: Class of each image.
        class_names: Names of the folders, in order.

    Example:
        >>> find_image_folders("imagenet/train").class_names[0]
        'n01440764'
    """

    name: str
    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]


def find_image_folders(root: str | Path) -> ClassificationDataset:
    """Finds `root/CLASS/*.jpg`; the classes are numbered in the order of their names.

    Args:
        root: Folder of one split.

    Returns:
        The dataset; its files are not opened yet (see `check_images`).

    Raises:
        DatasetError: No such folder, or no class folder with an image.

    Example:
        >>> find_image_folders("imagenet/train").labels[0]
        0
    """
    root = Path(root)
    if not root.is_dir():
        raise DatasetError(f"{root}: there is no such folder; it needs one folder of images a class")
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    found = [
        (path, label)
        for label, folder in enumerate(folders)
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in IMAGE_SUFFIXES
    ]
    empty = sorted({folder.name for folder in folders} - {path.parent.name for path, _ in found})
    if not found or empty:
        what = f"no images in {', '.join(empty)}" if empty else "no folders of images"
        raise DatasetError(f"{root}: {what}; it needs one folder of images a class")
    paths, labels = zip(*found, strict=True)
    return ClassificationDataset(str(root), paths, labels, tuple(folder.name for folder in folders))


def check_images(dataset: ClassificationDataset) -> None:
    """Decodes every image.

    Args:
        dataset: What `find_image_folders` found.

    Raises:
        DatasetError: Listing every image that cannot be read.

    Example:
        >>> check_images(find_image_folders("imagenet/val"))
    """
    problems = []
    for path in dataset.paths:
        try:
            open_image(path)
        except ImageError as error:
            problems.append(" ".join(str(error).split()))
    reject(problems, dataset.name)


def classification_batches(
    dataset: ClassificationDataset,
    size: int,
    batch_size: int,
    *,
    seed: int = 0,
    first_step: int = 0,
    last_step: int,
    parallel_calls: int | None = None,
) -> tf.data.Dataset:
    """Training batches: random resized crop and flip, each epoch in an order of its own.

    Args:
        dataset: The training images.
        size: Height and width of the crop.
        batch_size: Images a batch.
        seed: Decides order and crops.
        first_step: Number of the first batch.
        last_step: Number of the batch after the last.
        parallel_calls: Images prepared at once; None lets tf.data decide.

    Returns:
        A dataset of (images (B, size, size, 3) float32, normalized; classes (B,) int32).

    Source: Szegedy et al. 2015, section 6, for the crop: 8 to 100 % of the area, aspect 3/4 to 4/3.

    Example:
        >>> dataset = find_image_folders("imagenet/train")
        >>> batches = classification_batches(dataset, 224, 128, last_step=1000)
    """
    paths, labels = _as_tensors(dataset)
    count = len(dataset.paths)

    def prepare(number: Any) -> tuple[Any, Any]:
        wide_seed = tf.constant(seed, tf.int64)
        order_key = tf.stack([wide_seed, number // count])
        index = tf.random.experimental.index_shuffle(number % count, order_key, count - 1)
        seeds = tf.random.split(tf.stack([wide_seed, number]), 2)
        image = decode_image(paths[index])
        begin, window = random_area(tf.shape(image)[:2], seeds[0])
        scale = size / tf.cast(window, tf.float32)
        whole = tf.cast(tf.shape(image)[:2], tf.float32) * scale
        image = resized_window(image, whole, tf.cast(begin, tf.float32) * scale, (size, size))
        image, _ = random_flip(image, image[..., 0], seeds[1])
        return tf.ensure_shape(normalize(image), (size, size, 3)), labels[index]

    numbers = tf.data.Dataset.range(first_step * batch_size, last_step * batch_size)
    batches = numbers.map(prepare, num_parallel_calls=parallel_calls or tf.data.AUTOTUNE, deterministic=True)
    return batches.batch(batch_size, drop_remainder=True).prefetch(2)


def classification_images(dataset: ClassificationDataset, size: int, batch_size: int = 32) -> tf.data.Dataset:
    """Validation batches: shorter side to size / 0.875, then the central square.

    Args:
        dataset: The validation images.
        size: Height and width of the square.
        batch_size: Images a batch; the last may be smaller.

    Returns:
        A dataset of (images (B, size, size, 3) float32, normalized; classes (B,) int32), in the order of the names.

    Example:
        >>> images, labels = next(iter(classification_images(find_image_folders("imagenet/val"), 224)))
        >>> images.shape[1:]
        TensorShape([224, 224, 3])
    """

    def prepare(path: Any, label: Any) -> tuple[Any, Any]:
        image = decode_image(path)
        extent = tf.cast(tf.shape(image)[:2], tf.float32)
        new_size = tf.round(extent * (size / _CENTRE_SHARE) / tf.reduce_min(extent))
        begin = tf.round((new_size - size) / 2)
        image = resized_window(image, new_size, begin, (size, size))
        return tf.ensure_shape(normalize(image), (size, size, 3)), label

    images = tf.data.Dataset.from_tensor_slices(_as_tensors(dataset))
    return images.map(prepare, num_parallel_calls=tf.data.AUTOTUNE).batch(batch_size).prefetch(2)


def random_area(size: Any, seed: Any) -> tuple[Any, Any]:
    """A window of 8 to 100 % of the area with an aspect of 3/4 to 4/3, the first of ten draws that fits.

    Args:
        size: (2,) int32, height and width of the image.
        seed: (2,) integers.

    Returns:
        Offset (2,) and size (2,) of the window, int32; the whole image where none of the ten fits.

    Example:
        >>> begin, window = random_area((100, 200), (0, 1))
    """
    size = tf.convert_to_tensor(size, tf.int32)
    draws = tf.random.stateless_uniform((_CROP_TRIES, 4), seed)
    area = tf.cast(tf.reduce_prod(size), tf.float32) * _between(draws[:, 0], *_AREA_RANGE)
    aspect = tf.exp(_between(draws[:, 1], *np.log(_ASPECT_RANGE).tolist()))
    windows = tf.cast(tf.round(tf.sqrt(tf.stack([area / aspect, area * aspect], axis=1))), tf.int32)  # (10, 2)
    fits = tf.reduce_all((windows <= size) & (windows > 0), axis=1)
    chosen = tf.argmax(fits)
    window = tf.where(tf.reduce_any(fits), windows[chosen], size)
    begin = tf.cast(draws[chosen, 2:] * tf.cast(size - window + 1, tf.float32), tf.int32)
    return begin, window


def _between(draw: Any, low: float, high: float) -> Any:
    return low + draw * (high - low)


def _as_tensors(dataset: ClassificationDataset) -> tuple[Any, Any]:
    return tf.constant([str(path) for path in dataset.paths]), tf.constant(dataset.labels, tf.int32)
