"""TFRecord shards: large datasets as a few large files, read in an order that depends only on the seed."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from PIL import Image

from tf_segformer.data.datasets import SegmentationDataset
from tf_segformer.data.examples import LabelledImage
from tf_segformer.errors import DatasetError, ImageError
from tf_segformer.imaging.bands import MAX_BANDS, RGB, ImageType
from tf_segformer.imaging.fields import VALUE_TYPES
from tf_segformer.imaging.files import open_image, open_label_map, open_stored
from tf_segformer.imaging.graph.decode import decode_image, decode_labels
from tf_segformer.io import count_records, is_plain_name, read_json, write_json

INDEX_NAME = "shards.json"
_SHARDS_AT_ONCE = 8
_SHUFFLE_BUFFER = 1024  # records
_MAX_EPOCHS = 2**32  # more than a run has: keeps the keys of blocks apart from those of epochs


@dataclass(frozen=True)
class ShardedDataset:
    """A split that `write_tfrecords` wrote.

    Args:
        name: Kind and split, for messages.
        paths: The shards, in order.
        size: Number of examples.
        class_names: Class names by index.
        image_type: Bands and type of the images.

    Example:
        >>> len(open_tfrecords("shards/train").paths)
        1
    """

    name: str
    paths: tuple[Path, ...]
    size: int
    class_names: tuple[str, ...]
    image_type: ImageType = RGB

    @property
    def num_labels(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    def __iter__(self) -> Iterator[LabelledImage]:
        """The examples, in the order in which they were written.

        Raises:
            DatasetError: A shard is damaged.
        """
        for path in self.paths:
            try:
                for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
                    yield _labelled_image(record, self.image_type)
            except (tf.errors.OpError, ValueError) as error:
                reason = str(error).splitlines()[0][:200]
                raise DatasetError(f"{path}: a damaged shard ({reason}); write it again") from error

    def records(self, seed: int | None = None, first: int = 0, last: int | None = None) -> tf.data.Dataset:
        """The examples as (number, serialized record); see `LabelledDataset.records`.

        Every epoch has its own order of the shards and of the examples in a buffer. To begin in the middle of an
        epoch, its earlier records are read and dropped without being decoded.
        """
        if seed is not None:
            return _shuffled_records(self, seed, first, last)
        count = (self.size if last is None else last) - first
        return tf.data.TFRecordDataset([str(path) for path in self.paths]).enumerate().skip(first).take(count)

    def decode(self, record: Any) -> tuple[Any, Any]:
        """Image (H, W, C) of `image_type` and labels (H, W) int32 of one record."""

        def image_and_labels(data: Any) -> list[bytes]:
            return _bytes_of(np.array(data, object).item(), ("image", "labels"))  # an array where tensors are eager

        image, labels = tf.numpy_function(image_and_labels, [record], (tf.string, tf.string), stateful=False)
        labels = decode_labels(tf.ensure_shape(labels, ()))
        image = tf.ensure_shape(image, ())
        if self.image_type.is_rgb:
            return decode_image(image), labels
        values = tf.io.decode_raw(image, self.image_type.dtype)
        return tf.reshape(values, [*tf.unstack(tf.shape(labels)), self.image_type.channels]), labels


def write_tfrecords(dataset: SegmentationDataset, folder: str | Path, examples_per_shard: int = 256) -> ShardedDataset:
    """Writes a checked dataset as shards: JPEG and PNG images as they are, the labels as 8-bit PNGs of class indices.

    Bands beyond 8-bit RGB are written as their values, row by row, in little-endian order.

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
                    "name": example.image.name.encode(),
                    "image": _encoded_image(dataset, example.image),
                    "labels": _as_png(dataset.read_labels(example.labels, example.image)),
                }
                writer.write(_serialized(features))
    content = {
        "name": dataset.name,
        "shards": names,
        "size": len(dataset.examples),
        "class_names": list(dataset.class_names),
        **({} if dataset.image_type.is_rgb else {"image_type": asdict(dataset.image_type)}),
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
        DatasetError: The index or a shard is missing, or a shard does not hold what the index says.

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
        names = tuple(map(str, index["class_names"]))
        image_type = ImageType(**index.get("image_type", {}))
        if image_type.dtype not in VALUE_TYPES or image_type.channels not in range(1, MAX_BANDS + 1):
            raise ValueError(f"images of {image_type}")
        dataset = ShardedDataset(str(index["name"]), paths, index["size"], names, image_type)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{folder}: holds no complete shards ({error}); write them again") from error
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise DatasetError(f"{folder}: {len(missing)} shards are missing: {', '.join(missing)}")
    count = 0
    for path in paths:
        within, whole = count_records(path)
        if not whole:
            raise DatasetError(f"{path}: a damaged shard (record {within} reaches out of it); write it again")
        count += within
    if count != dataset.size:
        raise DatasetError(
            f"{folder}: its shards hold {count} records, its index says {dataset.size}; write them again"
        )
    return dataset


def _labelled_image(record: bytes, image_type: ImageType) -> LabelledImage:
    """One record, its images still encoded."""
    encoded, image, labels = _bytes_of(record, ("name", "image", "labels"))
    name = encoded.decode()

    def read_bands() -> np.ndarray:
        size = open_label_map(labels).shape
        try:
            values = np.frombuffer(image, np.dtype(image_type.dtype).newbyteorder("<"))
            return values.astype(image_type.dtype).reshape(*size, image_type.channels)
        except ValueError as error:
            raise ImageError(f"{name}: a damaged image of a shard ({error}); write it again") from error

    is_rgb = image_type.is_rgb
    return LabelledImage(
        name,
        name,
        partial(open_image, image) if is_rgb else read_bands,
        partial(open_label_map, labels),
        partial(open_stored, image) if is_rgb else read_bands,
    )


def _bytes_of(record: bytes, names: tuple[str, ...]) -> list[bytes]:
    """The byte strings of some names in a tf.train.Example.

    Protocol Buffers' own parser reads them: that of `tf.io.parse_single_example` takes a length of 2 GiB and more for a
    negative one and ends the process.
    """
    try:
        features = tf.train.Example.FromString(record).features.feature
        return [features[name].bytes_list.value[0] for name in names]
    except (DecodeError, IndexError) as error:
        raise ValueError(f"a record without {', '.join(names)}") from error


def _shuffled_records(dataset: ShardedDataset, seed: int, first: int, last: int | None) -> tf.data.Dataset:
    """(number, serialized record) of the examples from `first` to `last`, in the order that the seed gives."""
    paths = tf.constant([str(path) for path in dataset.paths])

    def epoch(number: Any) -> tf.data.Dataset:
        key = tf.stack([tf.constant(seed, tf.int64), number])

        def shuffle_block(block: Any, records: Any) -> Any:
            return _permuted(records, key + tf.stack([0, block + 1]) * _MAX_EPOCHS)

        records = tf.data.Dataset.from_tensor_slices(_permuted(paths, key)).interleave(
            tf.data.TFRecordDataset, cycle_length=_SHARDS_AT_ONCE
        )
        return records.batch(_SHUFFLE_BUFFER).enumerate().map(shuffle_block).unbatch()

    first_epoch = first // dataset.size
    start = first_epoch * dataset.size
    last_epoch = _MAX_EPOCHS if last is None else -(-last // dataset.size)
    records = tf.data.Dataset.range(first_epoch, last_epoch).flat_map(epoch).enumerate(start).skip(first - start)
    return records if last is None else records.take(last - first)


def _permuted(values: Any, key: Any) -> Any:
    """The entries of a vector in an order that the key decides; `Dataset.shuffle` takes no seed that is a tensor."""
    count = tf.size(values, out_type=tf.int64)
    return tf.gather(values, tf.random.experimental.index_shuffle(tf.range(count), key, count - 1))


def _serialized(features: dict[str, bytes]) -> bytes:
    """A tf.train.Example of byte strings."""
    as_bytes = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value])) for name, value in features.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=as_bytes)).SerializeToString(deterministic=True)


def _encoded_image(dataset: SegmentationDataset, path: Path) -> bytes:
    """The bytes of a JPEG or PNG file; RGB in another format as PNG, which the pipeline decodes; others as values."""
    if not dataset.image_type.is_rgb:
        bands = np.asarray(dataset.read_image(path))
        return bands.astype(bands.dtype.newbyteorder("<")).tobytes()
    if path.suffix.lower() in (".jpg", ".jpeg", ".png"):
        return path.read_bytes()
    return _as_png(np.asarray(dataset.read_image(path)))


def _as_png(pixels: np.ndarray) -> bytes:
    """Class indices (H, W) or RGB (H, W, 3) as an 8-bit PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
