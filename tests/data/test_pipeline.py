"""Batches depend on the seed and the step alone, in every epoch, on every worker, from files and from shards."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.training.scenes import NAMES, write_dataset
from tf_segformer.data.augmentation import Augmentation
from tf_segformer.data.datasets import find_dataset
from tf_segformer.data.pipeline import denormalize, training_dataset, validation_dataset
from tf_segformer.data.tfrecords import open_tfrecords, write_tfrecords
from tf_segformer.errors import DatasetError
from tf_segformer.imaging.processor import SegformerImageProcessor

WHOLE = Augmentation(
    (64, 64), scale_range=(1.0, 1.0), max_class_ratio=1.0, flip=False, brightness=0, contrast=0, saturation=0, hue=0
)
RANDOM = Augmentation((32, 32))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = write_dataset(tmp_path_factory.mktemp("data") / "scenes", train=5, val=3)
    return find_dataset("folder", folder, "train", class_names=NAMES)


@pytest.fixture(scope="module")
def shards(dataset, tmp_path_factory):
    return write_tfrecords(dataset, tmp_path_factory.mktemp("shards"), examples_per_shard=2)


@pytest.fixture(params=["files", "shards"])
def source(request, dataset, shards):
    return dataset if request.param == "files" else shards


def batches(source, augmentation=RANDOM, batch_size=2, **options):
    return [(x.numpy(), y.numpy()) for x, y in training_dataset(source, augmentation, batch_size, **options)]


def index_of(image, dataset):
    """Which example an unchanged image is."""
    images = [np.asarray(Image.open(example.image)) for example in dataset.examples]
    return [(denormalize(image) == each).all() for each in images].index(True)


def test_every_epoch_has_every_image_once_in_its_own_order(source, dataset):
    order = [index_of(x[0], dataset) for x, _ in batches(source, WHOLE, 1, last_step=20)]
    epochs = [tuple(order[start : start + 5]) for start in range(0, 20, 5)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len(set(epochs)) > 2


def test_batches_from_the_middle_are_those_of_the_whole_run(source):
    whole = batches(source, last_step=9, seed=3)
    resumed = batches(source, first_step=4, last_step=9, seed=3)
    for (x, y), (again, y_again) in zip(whole[4:], resumed, strict=True):
        np.testing.assert_array_equal(x, again)
        np.testing.assert_array_equal(y, y_again)


def test_another_seed_gives_another_order_and_other_crops(source):
    one, other = batches(source, last_step=4, seed=0), batches(source, last_step=4, seed=1)
    assert not any((a[0] == b[0]).all() for a, b in zip(one, other, strict=True))


def test_workers_share_each_batch(source):
    whole = batches(source, batch_size=4, last_step=3)
    parts = [batches(source, batch_size=4, last_step=3, worker=worker, workers=2) for worker in (0, 1)]
    for step in range(3):
        np.testing.assert_array_equal(whole[step][0][0::2], parts[0][step][0])
        np.testing.assert_array_equal(whole[step][0][1::2], parts[1][step][0])


def test_parallel_calls_do_not_change_the_batches(dataset):
    one, many = (batches(dataset, last_step=5, parallel_calls=calls) for calls in (1, 4))
    for (x, y), (again, y_again) in zip(one, many, strict=True):
        np.testing.assert_array_equal(x, again)
        np.testing.assert_array_equal(y, y_again)


def test_batch_that_cannot_be_shared_is_rejectd(dataset):
    with pytest.raises(ValueError, match="batch_size=3"):
        training_dataset(dataset, RANDOM, 3, last_step=1, workers=2)


def test_shapes_are_static_and_types_fixed(source):
    spec = training_dataset(source, RANDOM, 2, last_step=1).element_spec
    assert spec == (tf.TensorSpec((2, 32, 32, 3), tf.float32), tf.TensorSpec((2, 32, 32), tf.int32))


def test_validation_images_are_whole_in_order_and_normalized_as_by_the_processor(source, dataset):
    processor = SegformerImageProcessor(do_resize=False)
    seen = list(validation_dataset(source))
    assert len(seen) == 5
    for (pixels, labels), example in zip(seen, dataset.examples, strict=True):
        expected = processor(Image.open(example.image), Image.open(example.labels))
        np.testing.assert_allclose(pixels, expected["pixel_values"], atol=1e-5)
        np.testing.assert_array_equal(labels, expected["labels"])


def test_jpeg_is_decoded_as_by_pillow(tmp_path):
    from tf_segformer.data.pipeline import decode_image

    noise = np.random.default_rng(0).integers(0, 256, (33, 47, 3), np.uint8)
    path = tmp_path / "noise.jpg"
    Image.fromarray(noise).save(path, quality=60)
    np.testing.assert_array_equal(decode_image(str(path)), np.asarray(Image.open(path)))


def test_shards_open_again_and_say_what_is_missing(shards, tmp_path):
    folder = shards.paths[0].parent
    again = open_tfrecords(folder)
    assert again == shards
    assert [path.name for path in again.paths] == [f"shard-{i:05d}-of-00003.tfrecord" for i in range(3)]
    with pytest.raises(DatasetError, match="holds no complete shards"):
        open_tfrecords(tmp_path)
    (tmp_path / "shards.json").write_bytes((folder / "shards.json").read_bytes())
    with pytest.raises(DatasetError, match="3 shards are missing"):
        open_tfrecords(tmp_path)


def test_shards_are_not_written_among_other_files(dataset, tmp_path):
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(DatasetError, match="is not empty"):
        write_tfrecords(dataset, tmp_path)
