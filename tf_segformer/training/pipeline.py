"""tf.data pipelines whose examples are a pure function of (seed, number of the example): a resumed run continues them."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tf_segformer.imaging.processor import IMAGENET_MEAN, IMAGENET_STD
from tf_segformer.training.augmentation import Augmentation, augment, pad
from tf_segformer.training.datasets import IGNORE_INDEX, SegmentationDataset


def training_batches(
    dataset: SegmentationDataset,
    augmentation: Augmentation,
    batch_size: int,
    *,
    seed: int = 0,
    first_step: int = 0,
    last_step: int,
    worker: int = 0,
    workers: int = 1,
    parallel_calls: int | None = None,
) -> tf.data.Dataset:
    """Augmented batches of the steps from `first_step` to `last_step`.

    Example number n is picture `shuffle(seed, n // size)[n % size]`, so every epoch has an order of its own, and it is
    augmented by the random numbers of (seed, n): a pipeline that starts at step 1000 gives the same batches as one
    that has run up to there. With several workers, worker w takes the examples n with `n % workers == w`.

    Args:
        dataset: The training split.
        augmentation: What is drawn for each example.
        batch_size: Pictures a batch over all workers; divisible by `workers`.
        seed: Decides order and augmentation.
        first_step: Number of the first batch.
        last_step: Number of the batch after the last.
        worker: Index of this worker.
        workers: Number of workers.
        parallel_calls: Pictures prepared at once; None lets tf.data decide.

    Returns:
        A dataset of (pictures (B, h, w, 3) float32, normalized; labels (B, h, w) int32).

    Raises:
        ValueError: The batch cannot be shared evenly among the workers.

    Example:
        >>> batches = training_batches(dataset, Augmentation((256, 256)), 8, last_step=100)  # doctest: +SKIP
    """
    if batch_size % workers or not 0 <= worker < workers:
        raise ValueError(f"batch_size={batch_size} cannot be shared among workers={workers} (this is worker {worker})")
    read = _reader(dataset)
    size, wide_seed = len(dataset.examples), tf.constant(seed, tf.int64)

    def prepare(number: Any) -> tuple[Any, Any]:
        epoch, position = number // size, number % size
        index = tf.random.experimental.index_shuffle(position, tf.stack([wide_seed, epoch]), size - 1)
        image, labels = read(index)
        image, labels = augment(image, labels, tf.stack([wide_seed, number]), augmentation, IGNORE_INDEX)
        return pad(normalize(image), labels, augmentation.crop_size, IGNORE_INDEX)

    numbers = tf.data.Dataset.range(first_step * batch_size + worker, last_step * batch_size, workers)
    batches = numbers.map(prepare, num_parallel_calls=parallel_calls or tf.data.AUTOTUNE, deterministic=True)
    return batches.batch(batch_size // workers, drop_remainder=True).prefetch(2)


def validation_pictures(dataset: SegmentationDataset) -> tf.data.Dataset:
    """The pictures as they are, one at a time, in the order of their names.

    Args:
        dataset: The validation split.

    Returns:
        A dataset of (picture (1, H, W, 3) float32, normalized; labels (1, H, W) int32).

    Example:
        >>> pictures = validation_pictures(dataset)  # doctest: +SKIP
    """
    read = _reader(dataset)

    def prepare(index: Any) -> tuple[Any, Any]:
        image, labels = read(index)
        return normalize(tf.cast(image, tf.float32)), labels

    numbers = tf.data.Dataset.range(len(dataset.examples))
    return numbers.map(prepare, num_parallel_calls=tf.data.AUTOTUNE).batch(1).prefetch(2)


def normalize(image: Any) -> Any:
    """ImageNet's mean and deviation, as the processor applies them.

    Args:
        image: (..., 3) float32, 0..255.

    Returns:
        The normalized picture.

    Example:
        >>> normalize(tf.zeros((1, 1, 3))).shape
        TensorShape([1, 1, 3])
    """
    mean, deviation = 255.0 * np.array(IMAGENET_MEAN), 255.0 * np.array(IMAGENET_STD)
    return (image - tf.constant(mean, tf.float32)) / tf.constant(deviation, tf.float32)


def decode_picture(path: Any) -> Any:
    """Decodes a JPEG or PNG file as Pillow does; TensorFlow's default transform is up to 7 levels off.

    Args:
        path: Scalar string tensor.

    Returns:
        (H, W, 3) uint8.

    Example:
        >>> decode_picture("photo.jpg")  # doctest: +SKIP
    """
    return tf.io.decode_jpeg(tf.io.read_file(path), channels=3, dct_method="INTEGER_ACCURATE")  # reads PNG, too


def _reader(dataset: SegmentationDataset) -> Any:
    """A function from the index of an example to (picture uint8, labels int32)."""
    image_paths = tf.constant([str(example.image) for example in dataset.examples])
    label_paths = tf.constant([str(example.labels) for example in dataset.examples])

    def read_labels(path: bytes) -> np.ndarray:
        return dataset.read_labels(path.decode())

    def read(index: Any) -> tuple[Any, Any]:
        labels = tf.numpy_function(read_labels, [label_paths[index]], tf.int32)
        return decode_picture(image_paths[index]), tf.ensure_shape(labels, (None, None))

    return read
