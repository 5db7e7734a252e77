"""tf.data pipelines: every example is a pure function of the seed and its number, so that a run can be resumed."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tf_segformer.data.augmentation import Augmentation, augment, pad
from tf_segformer.data.datasets import IGNORE_INDEX, SegmentationDataset
from tf_segformer.data.tfrecords import ShardedDataset, indexed_records, parse_record
from tf_segformer.imaging.processor import IMAGENET_MEAN, IMAGENET_STD


def training_dataset(
    dataset: SegmentationDataset | ShardedDataset,
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

    Example number n is image `shuffle(seed, n // size)[n % size]`, so every epoch has an order of its own, and it is
    augmented by the random numbers of (seed, n): a pipeline that starts at step 1000 gives the same batches as one
    that has run up to there. With several workers, worker w takes the examples n with `n % workers == w`.

    Args:
        dataset: The training split.
        augmentation: What is drawn for each example.
        batch_size: Images a batch over all workers; divisible by `workers`.
        seed: Decides order and augmentation.
        first_step: Number of the first batch.
        last_step: Number of the batch after the last.
        worker: Index of this worker.
        workers: Number of workers.
        parallel_calls: Images prepared at once; None lets tf.data decide.

    Returns:
        A dataset of (images (B, h, w, 3) float32, normalized; labels (B, h, w) int32).

    Raises:
        ValueError: The batch cannot be shared evenly among the workers.

    Example:
        >>> batches = training_dataset(dataset, Augmentation((256, 256)), 8, last_step=100)
    """
    if batch_size % workers or not 0 <= worker < workers:
        raise ValueError(f"batch_size={batch_size} cannot be shared among workers={workers} (this is worker {worker})")
    first, last = first_step * batch_size, last_step * batch_size
    if isinstance(dataset, ShardedDataset):
        examples = indexed_records(dataset, seed, first, last)
    else:
        examples = tf.data.Dataset.range(first, last)
    read = _reader(dataset, seed)

    def prepare(number: Any, *record: Any) -> tuple[Any, Any]:
        image, labels = read(number, *record)
        key = tf.stack([tf.constant(seed, tf.int64), number])
        image, labels = augment(image, labels, key, augmentation, IGNORE_INDEX)
        return pad(normalize(image), labels, augmentation.crop_size, IGNORE_INDEX)

    examples = examples.shard(workers, worker)
    examples = examples.map(prepare, num_parallel_calls=parallel_calls or tf.data.AUTOTUNE, deterministic=True)
    return examples.batch(batch_size // workers, drop_remainder=True).prefetch(2)


def validation_dataset(
    dataset: SegmentationDataset | ShardedDataset, parallel_calls: int | None = None
) -> tf.data.Dataset:
    """The images as they are, one at a time, in the order of their names.

    Args:
        dataset: The validation split.
        parallel_calls: Images prepared at once; None lets tf.data decide.

    Returns:
        A dataset of (image (1, H, W, 3) float32, normalized; labels (1, H, W) int32).

    Example:
        >>> images = validation_dataset(dataset)
    """
    read = _reader(dataset, seed=None)
    if isinstance(dataset, ShardedDataset):
        paths = [str(path) for path in dataset.paths]
        examples = tf.data.TFRecordDataset(paths).enumerate()
    else:
        examples = tf.data.Dataset.range(len(dataset.examples))

    def prepare(number: Any, *record: Any) -> tuple[Any, Any]:
        image, labels = read(number, *record)
        return normalize(tf.cast(image, tf.float32)), labels

    return examples.map(prepare, num_parallel_calls=parallel_calls or tf.data.AUTOTUNE).batch(1).prefetch(2)


def normalize(image: Any) -> Any:
    """ImageNet's mean and std, as the processor applies them.

    Args:
        image: (..., 3) float32, 0..255.

    Returns:
        The normalized image.

    Example:
        >>> normalize(tf.zeros((1, 1, 3))).shape
        TensorShape([1, 1, 3])
    """
    mean, std = 255.0 * np.array(IMAGENET_MEAN), 255.0 * np.array(IMAGENET_STD)
    return (image - tf.constant(mean, tf.float32)) / tf.constant(std, tf.float32)


def denormalize(image: Any) -> np.ndarray:
    """Undoes `normalize`.

    Args:
        image: (H, W, 3) normalized.

    Returns:
        (H, W, 3) uint8.

    Example:
        >>> denormalize(normalize(tf.fill((1, 1, 3), 7.0))).tolist()
        [[[7, 7, 7]]]
    """
    levels = (np.asarray(image) * np.array(IMAGENET_STD) + np.array(IMAGENET_MEAN)) * 255.0
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def decode_image(path: Any) -> Any:
    """Decodes a JPEG or PNG file as Pillow does; TensorFlow's default transform is up to 7 levels off.

    Args:
        path: Scalar string tensor.

    Returns:
        (H, W, 3) uint8.

    Example:
        >>> decode_image("photo.jpg").dtype
        tf.uint8
    """
    return tf.io.decode_jpeg(tf.io.read_file(path), channels=3, dct_method="INTEGER_ACCURATE")  # reads PNG, too


def _reader(dataset: SegmentationDataset | ShardedDataset, seed: int | None) -> Any:
    """A function from the number of an example (and its record) to (image uint8, labels int32).

    With a seed, every epoch has its own order; without, the order is that of the names.
    """
    if isinstance(dataset, ShardedDataset):
        return lambda number, record: parse_record(record)
    image_paths = tf.constant([str(example.image) for example in dataset.examples])
    label_paths = tf.constant([str(example.labels) for example in dataset.examples])
    size = len(dataset.examples)

    def read_labels(path: bytes) -> np.ndarray:
        return dataset.read_labels(path.decode())

    def read(number: Any) -> tuple[Any, Any]:
        index = number % size
        if seed is not None:
            key = tf.stack([tf.constant(seed, tf.int64), number // size])
            index = tf.random.experimental.index_shuffle(index, key, size - 1)
        labels = tf.numpy_function(read_labels, [label_paths[index]], tf.int32)
        return decode_image(image_paths[index]), tf.ensure_shape(labels, (None, None))

    return read
