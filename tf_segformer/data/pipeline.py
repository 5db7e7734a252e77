"""tf.data pipelines: every example is a pure function of the seed and its number, so that a run can be resumed."""

from __future__ import annotations

import atexit
import gc
from typing import Any

import tensorflow as tf

from tf_segformer.data.augmentation import Augmentation, augment
from tf_segformer.data.examples import IGNORE_INDEX, LabelledDataset
from tf_segformer.data.levels import to_levels
from tf_segformer.imaging.graph.preprocess import preprocess
from tf_segformer.imaging.processor import SegformerImageProcessor


def training_dataset(
    dataset: LabelledDataset,
    augmentation: Augmentation,
    batch_size: int,
    *,
    processor: SegformerImageProcessor,
    ignore_index: int = IGNORE_INDEX,
    seed: int = 0,
    first_step: int = 0,
    last_step: int | None = None,
    parallel_calls: int | None = None,
    part: int = 0,
    parts: int = 1,
) -> tf.data.Dataset:
    """Augmented batches of the steps from `first_step` to `last_step`.

    Example number n is image `shuffle(seed, n // size)[n % size]`, so every epoch has an order of its own, and it is
    augmented by the random numbers of (seed, n): a pipeline that starts at step 1000 gives the same batches as one
    that has run up to there. So do processes that make a part of each batch.

    Args:
        dataset: The training split.
        augmentation: The random changes of each example; decides the size of the crops.
        batch_size: Images per batch.
        processor: The model's, whose rescaling and normalization are applied; `do_resize` is the augmentation's here.
        ignore_index: Label of the pixels that do not count, those of the padding among them.
        seed: Decides order and augmentation.
        first_step: Number of the first batch.
        last_step: Number of the batch after the last; None for no end (`fit` then needs `steps_per_epoch`).
        parallel_calls: Images prepared at once; None lets tf.data decide.
        part: Which part of each batch to make, from 0.
        parts: Parts of a batch: neighbouring images, `batch_size / parts` of them.

    Returns:
        A dataset of (images (B, h, w, C) float32, normalized; labels (B, h, w) int32).

    Raises:
        ValueError: A batch does not divide into so many parts.

    Example:
        >>> processor = SegformerImageProcessor.from_pretrained("camvid-b0")
        >>> batches = training_dataset(dataset, Augmentation((256, 256)), 8, processor=processor, last_step=100)
        >>> batches.element_spec[0].shape
        TensorShape([8, 256, 256, 3])
    """
    if batch_size % parts:
        raise ValueError(f"a batch of {batch_size} images does not divide into {parts} parts")
    size = batch_size // parts
    last = None if last_step is None else last_step * batch_size

    def prepare(number: Any, *record: Any) -> tuple[Any, Any]:
        image, labels = dataset.decode(*record)
        labels = _with_ignore_index(_classes_only(labels, dataset), ignore_index)
        key = tf.stack([tf.constant(seed, tf.int64), number])
        levels, finish = to_levels(image, processor)
        levels, labels = augment(levels, labels, key, augmentation, ignore_index)
        return pad(finish(levels), labels, augmentation.crop_size, ignore_index)  # so that padding is 0

    examples = dataset.records(seed, first_step * batch_size, last)
    if parts > 1:
        examples = examples.filter(lambda number, *_: number % batch_size // size == part)
    examples = examples.map(prepare, num_parallel_calls=parallel_calls or tf.data.AUTOTUNE, deterministic=True)
    return _tuned(examples.batch(size, drop_remainder=True).prefetch(2), parallel_calls)


def validation_dataset(
    dataset: LabelledDataset,
    *,
    processor: SegformerImageProcessor,
    ignore_index: int = IGNORE_INDEX,
    parallel_calls: int | None = None,
) -> tf.data.Dataset:
    """The images as the predictor's mode "resize" sees them, one at a time, in order; the labels at their own size.

    Args:
        dataset: The validation split.
        processor: The model's; with `do_resize=False` the images keep their sizes.
        ignore_index: Label of the pixels that do not count.
        parallel_calls: Images prepared at once; None lets tf.data decide.

    Returns:
        A dataset of (image (1, h, w, C) float32, equal to the processor's pixel values; labels (1, H, W) int32).

    Example:
        >>> processor = SegformerImageProcessor(do_resize=False)
        >>> image, labels = next(iter(validation_dataset(dataset, processor=processor)))
        >>> image.shape[:3] == labels.shape
        True
    """

    def prepare(number: Any, *record: Any) -> tuple[Any, Any]:
        image, labels = dataset.decode(*record)
        return preprocess(image, processor), _with_ignore_index(_classes_only(labels, dataset), ignore_index)

    examples = dataset.records().map(prepare, num_parallel_calls=parallel_calls or tf.data.AUTOTUNE)
    return _tuned(examples.batch(1).prefetch(2), parallel_calls)


def pad(image: Any, labels: Any, size: tuple[int, int], ignore_index: int = IGNORE_INDEX) -> tuple[Any, Any]:
    """Pads below and to the right.

    Args:
        image: Pixel values (h, w, C) float32, at most `size`.
        labels: (h, w) int32.
        size: (height, width) of the results.
        ignore_index: Label of the padding; its pixel values are 0.

    Returns:
        Both with static shapes (height, width, C) and (height, width).

    Example:
        >>> image, labels = pad(tf.ones((1, 1, 3)), tf.ones((1, 1), tf.int32), (2, 2))
        >>> labels.numpy().tolist(), float(image[1, 1, 0])
        ([[1, 255], [255, 255]], 0.0)
    """
    below, right = tf.unstack(tf.constant(size, tf.int32) - tf.shape(labels))
    channels = image.shape[-1]
    image = tf.pad(image, [[0, below], [0, right], [0, 0]])
    labels = tf.pad(labels, [[0, below], [0, right]], constant_values=ignore_index)
    return tf.ensure_shape(image, (*size, channels)), tf.ensure_shape(labels, size)


def _tuned(examples: tf.data.Dataset, parallel_calls: int | None) -> tf.data.Dataset:
    """Without tf.data's tuning where the calls are fixed: its thread can keep an ended iterator for a minute."""
    options = tf.data.Options()
    options.autotune.enabled = parallel_calls is None
    return examples.with_options(options)


def _with_ignore_index(labels: Any, ignore_index: int) -> Any:
    """The labels of a dataset, with another value for the pixels that do not count."""
    return labels if ignore_index == IGNORE_INDEX else tf.where(labels == IGNORE_INDEX, ignore_index, labels)


def _classes_only(labels: Any, dataset: LabelledDataset) -> Any:
    """Labels that are classes or ignored; others stop the training instead of making the loss NaN."""
    beyond = (labels < 0) | ((labels >= dataset.num_labels) & (labels != IGNORE_INDEX))
    message = (
        f"{dataset.name}: labels that are no class (0 to {dataset.num_labels - 1}) and not {IGNORE_INDEX}, which is "
        "ignored. Do they count from 1? check_dataset names the files. The values are"
    )
    known = tf.debugging.Assert(~tf.reduce_any(beyond), [message, tf.unique(labels[beyond])[0]])
    with tf.control_dependencies([known]):
        return tf.identity(labels)


def _end_iterators() -> None:
    """Ends what still prepares images when Python exits: it would wait for ever for a thread that is to read labels.

    Such are the iterators of an ended `fit`, which its cycles keep, and those that an error or a name still holds.
    """
    gc.collect()
    for each in gc.get_objects():
        if issubclass(type(each), tf.data.Iterator):
            vars(each).clear()


atexit.register(_end_iterators)
