"""TFRecord shards: large datasets as a few large files, read in an order that depends only on the seed."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from tf_segformer.data.datasets import SegmentationDataset
from tf_segformer.errors import DatasetError
from tf_segformer.io import is_plain_name, read_json, write_json

INDEX_NAME = "shards.json"
_SHARDS_AT_ONCE = 8
_EPOCHS = 2**32  # more than a run has: parts the keys of blocks from those of epochs
_FEATURES = {"image": tf.io.FixedLenFeature((), tf.string), "labels": tf.io.FixedLenFeature((), tf.string)}


@dataclass(frozen=True)
class ShardedDataset:
    """A split that `write_tfrecords` wrote.

    Args:
        name: Kind and split, for messages.
        paths: The shards, in order.
        size: Number of examples.
        class_names: Class names by index.

    Example:
        >>> len(open_tfrecords("shards/train").paths)
        1
    """

    name: str
    paths: tuple[Path, ...]
    size: int
    class_names: tuple[str, ...]

    @property
    def num_labels(self) -> int:
        """The number of classes."""
        return len(self.class_names)


def write_tfrecords(dataset: SegmentationDataset, folder: str | Path, examples_per_shard: int = 256) -> ShardedDataset:
    """Writes a checked dataset as shards: the images' own bytes, the labels as 8-bit PNGs of class indices.

    Args:
        dataset: Checked with `check_dataset`.
        folder: New or empty folder.
        examples_per_shard: Examples in each file but the last.

    Returns:
        The written dataset.

    Raises:
        DatasetError: The folder is not empty.

    Example:
        >>> write_tfrecords(find_dataset("camvid", "CamVid", "val"), "shards/val").class_names[:2]
        ('Sky', 'Building')
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise DatasetError(f"{folder}: is not empty; shards are written into a folder of their own")
    count = -(-len(dataset.examples) // examples_per_shard)
    names = [f"shard-{index:05d}-of-{count:05d}.tfrecord" for index in range(count)]
    for index, name in enumerate(names):
        with tf.io.TFRecordWriter(str(folder / name)) as writer:
            for example in dataset.examples[index * examples_per_shard : (index + 1) * examples_per_shard]:
                features = {
                    "image": example.image.read_bytes(),
                    "labels": _as_png(dataset.read_labels(example.labels)),
                }
                writer.write(_serialized(features))
    content = {
        "name": dataset.name,
        "shards": names,
        "size": len(dataset.examples),
        "class_names": list(dataset.class_names),
    }
    write_json(folder / INDEX_NAME, content)  # last: a folder without the index is not complete
    return open_tfrecords(folder)


def open_tfrecords(folder: str | Path) -> ShardedDataset:
    """Opens what `write_tfrecords` wrote.

    Args:
        folder: Folder with `shards.json`.

    Returns:
        The dataset.

    Raises:
        DatasetError: The index or a shard is missing.

    Example:
        >>> open_tfrecords("shards/train").num_labels
        11
    """
    folder = Path(folder)
    try:
        index = read_json(folder / INDEX_NAME)
        if not all(is_plain_name(name) for name in index["shards"]):
            raise ValueError("a shard's name leads out of the folder")
        if not isinstance(index["size"], int) or index["size"] < 1:
            raise ValueError(f"a size of {index['size']!r}")
        paths = tuple(folder / name for name in index["shards"])
        dataset = ShardedDataset(str(index["name"]), paths, index["size"], tuple(map(str, index["class_names"])))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{folder}: holds no complete shards ({error}); write them again") from error
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise DatasetError(f"{folder}: {len(missing)} shards are missing: {', '.join(missing)}")
    return dataset


def indexed_records(dataset: ShardedDataset, seed: int, first: int, last: int, buffer: int = 1024) -> tf.data.Dataset:
    """The records of examples number `first` to `last`; those of epoch e are n = e * size to (e + 1) * size.

    Every epoch has its own order of the shards and of the examples in a buffer. To begin in the middle of an epoch,
    its earlier records are read and dropped undecoded.

    Args:
        dataset: The shards.
        seed: Decides the order.
        first: Number of the first example.
        last: Number of the example after the last.
        buffer: Records that are shuffled at a time.

    Returns:
        A dataset of (number int64, serialized record).

    Example:
        >>> records = indexed_records(open_tfrecords("shards/train"), seed=0, first=0, last=8)
    """
    paths = tf.constant([str(path) for path in dataset.paths])

    def epoch(number: Any) -> tf.data.Dataset:
        key = tf.stack([tf.constant(seed, tf.int64), number])

        def shuffle_block(block: Any, records: Any) -> Any:
            return _permuted(records, key + tf.stack([0, block + 1]) * _EPOCHS)

        records = tf.data.Dataset.from_tensor_slices(_permuted(paths, key)).interleave(
            tf.data.TFRecordDataset, cycle_length=_SHARDS_AT_ONCE
        )
        return records.batch(buffer).enumerate().map(shuffle_block).unbatch()

    first_epoch = first // dataset.size
    epochs = tf.data.Dataset.range(first_epoch, -(-last // dataset.size))
    start = first_epoch * dataset.size
    return epochs.flat_map(epoch).enumerate(start).skip(first - start).take(last - first)


def parse_record(record: Any) -> tuple[Any, Any]:
    """Image and labels of one record.

    Args:
        record: Scalar string tensor.

    Returns:
        (H, W, 3) uint8 and (H, W) int32.

    Example:
        >>> records = tf.data.TFRecordDataset("shards/train/shard-00000-of-00001.tfrecord")
        >>> image, labels = next(iter(records.map(parse_record)))
        >>> image.shape[:2] == labels.shape
        True
    """
    features = tf.io.parse_single_example(record, _FEATURES)
    image = tf.io.decode_jpeg(features["image"], channels=3, dct_method="INTEGER_ACCURATE")  # reads PNG, too
    labels = tf.io.decode_png(features["labels"], channels=1)[..., 0]
    return image, tf.cast(labels, tf.int32)


def _permuted(values: Any, key: Any) -> Any:
    """The entries of a vector in an order that the key decides; `Dataset.shuffle` takes no seed that is a tensor."""
    count = tf.size(values, out_type=tf.int64)
    return tf.gather(values, tf.random.experimental.index_shuffle(tf.range(count), key, count - 1))


def _serialized(features: dict[str, bytes]) -> bytes:
    """A tf.train.Example of byte strings."""
    as_bytes = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value])) for name, value in features.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=as_bytes)).SerializeToString()


def _as_png(labels: np.ndarray) -> bytes:
    """Class indices as an 8-bit grayscale PNG."""
    buffer = io.BytesIO()
    Image.fromarray(labels.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
