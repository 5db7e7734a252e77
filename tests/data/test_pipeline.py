"""Batches depend on the seed and the step alone, in every epoch, from files and from shards."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.training.scenes import NAMES, write_dataset
from tf_segformer.data.augmentation import Augmentation
from tf_segformer.data.check import check_dataset
from tf_segformer.data.datasets import Example, SegmentationDataset, find_dataset
from tf_segformer.data.pipeline import pad, training_dataset, validation_dataset
from tf_segformer.data.splits import open_splits
from tf_segformer.data.tfrecords import _as_png, _serialized, open_tfrecords, write_tfrecords
from tf_segformer.errors import DatasetError
from tf_segformer.imaging.processor import SegformerImageProcessor

WHOLE = Augmentation(
    (64, 64), scale_range=(1.0, 1.0), max_class_ratio=1.0, flip=False, brightness=0, contrast=0, saturation=0, hue=0
)
RANDOM = Augmentation((32, 32))
PROCESSOR = SegformerImageProcessor(do_resize=False, image_mean=(0.1, 0.5, 0.7), image_std=0.3, rescale_factor=1 / 200)


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


def batches(source, augmentation=RANDOM, batch_size=2, processor=PROCESSOR, **options):
    dataset = training_dataset(source, augmentation, batch_size, processor=processor, **options)
    return [(x.numpy(), y.numpy()) for x, y in dataset]


def index_of(image, dataset):
    """Which example an unchanged image is, prepared as the processor does."""
    images = [PROCESSOR(example.read_image())["pixel_values"][0] for example in dataset]
    return [np.allclose(image, each, atol=1e-5) for each in images].index(True)


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


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_of_the_batches_are_those_of_the_whole_batches(source, parts):
    whole = batches(source, batch_size=4, first_step=1, last_step=4)
    shares = [batches(source, batch_size=4, first_step=1, last_step=4, part=part, parts=parts) for part in range(parts)]
    for step, (images, labels) in enumerate(whole):
        np.testing.assert_array_equal(np.concatenate([share[step][0] for share in shares]), images)
        np.testing.assert_array_equal(np.concatenate([share[step][1] for share in shares]), labels)
    with pytest.raises(ValueError, match="a batch of 4 images does not divide into 3 parts"):
        batches(source, batch_size=4, part=0, parts=3)


def test_another_seed_gives_another_order_and_other_crops(source):
    one, other = batches(source, last_step=4, seed=0), batches(source, last_step=4, seed=1)
    assert not any((a[0] == b[0]).all() for a, b in zip(one, other, strict=True))


def test_parallel_calls_do_not_change_the_batches(dataset):
    one, many = (batches(dataset, last_step=5, parallel_calls=calls) for calls in (1, 4))
    for (x, y), (again, y_again) in zip(one, many, strict=True):
        np.testing.assert_array_equal(x, again)
        np.testing.assert_array_equal(y, y_again)


def test_shapes_are_static_and_types_fixed(source):
    spec = training_dataset(source, RANDOM, 2, processor=PROCESSOR, last_step=1).element_spec
    assert spec == (tf.TensorSpec((2, 32, 32, 3), tf.float32), tf.TensorSpec((2, 32, 32), tf.int32))


def test_without_a_last_step_the_batches_have_no_end(source):
    endless = training_dataset(source, RANDOM, 2, processor=PROCESSOR)
    assert len(list(endless.take(9))) == 9  # more than three epochs
    ((pixels, _),) = endless.skip(8).take(1)
    np.testing.assert_array_equal(pixels, batches(source, last_step=9)[8][0])


@pytest.mark.parametrize(
    "processor",
    [
        PROCESSOR,
        SegformerImageProcessor(do_resize=False),
        SegformerImageProcessor(do_resize=False, do_normalize=False),
        SegformerImageProcessor(do_resize=False, do_rescale=False, image_mean=120.0, image_std=60.0),
    ],
    ids=["own", "ImageNet", "rescaled", "normalized"],
)
def test_images_are_normalized_as_by_the_models_processor_and_then_padded(source, dataset, processor):
    larger = replace(WHOLE, crop_size=(70, 80))
    (pixels, labels) = batches(source, larger, 5, processor=processor, last_step=1)[0]
    expected = [processor(example.read_image())["pixel_values"][0] for example in dataset]
    for image, label_map in zip(pixels, labels, strict=True):
        assert any(np.allclose(image[:64, :64], each, rtol=1e-5, atol=1e-5) for each in expected)
        assert not image[64:].any() and not image[:, 64:].any()
        assert (label_map[64:] == 255).all() and (label_map[:, 64:] == 255).all()
        assert (label_map[:64, :64] != 255).all()


def test_padding_is_zero_in_the_image_and_ignored_in_the_labels():
    image, labels = pad(tf.ones((2, 3, 3)), tf.ones((2, 3), tf.int32), (4, 5), ignore_index=9)
    assert labels.numpy().tolist() == [[1, 1, 1, 9, 9]] * 2 + [[9] * 5] * 2
    assert float(tf.reduce_sum(image)) == 2 * 3 * 3
    assert float(tf.reduce_sum(image[:2, :3])) == 2 * 3 * 3


def test_another_ignored_label_takes_the_place_of_255(tmp_path):
    folder = write_dataset(tmp_path / "scenes", train=1, val=1)
    for split in ("train", "val"):
        Image.fromarray(np.full((64, 64), 255, np.uint8)).save(folder / split / "labels/000.png")
    dataset = find_dataset("folder", folder, "train", class_names=NAMES)
    options = {"processor": PROCESSOR, "ignore_index": 3}
    ((_, labels),) = training_dataset(dataset, RANDOM, 1, last_step=1, **options)
    ((_, whole),) = validation_dataset(dataset, **options)
    assert (labels.numpy() == 3).all()
    assert (whole.numpy() == 3).all()


@pytest.mark.parametrize("do_resize", [False, True])
def test_validation_images_are_whole_in_order_and_equal_to_the_processors(source, dataset, do_resize):
    processor = replace(PROCESSOR, do_resize=do_resize, size=40)
    seen = list(validation_dataset(source, processor=processor))
    assert len(seen) == 5
    for (pixels, labels), example in zip(seen, dataset, strict=True):
        np.testing.assert_array_equal(pixels, processor(example.read_image())["pixel_values"])
        np.testing.assert_array_equal(labels[0], example.read_labels())


def test_files_and_shards_give_the_same_examples(dataset, shards):
    for one, other in zip(dataset, shards, strict=True):
        assert one.name.endswith(f"images/{other.name}")
        np.testing.assert_array_equal(one.read_image(), other.read_image())
        np.testing.assert_array_equal(one.read_labels(), other.read_labels())
    assert check_dataset(dataset).class_pixels == check_dataset(shards).class_pixels


def test_damaged_shard_is_named(shards, tmp_path):
    for path in [*shards.paths, shards.paths[0].parent / "shards.json"]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    damaged = tmp_path / shards.paths[1].name
    damaged.write_bytes(damaged.read_bytes()[:-9])
    with pytest.raises(DatasetError, match=rf"{damaged.name}: a damaged shard"):
        open_tfrecords(tmp_path)
    damaged.write_bytes(shards.paths[1].read_bytes().replace(b"IHDR", b"IHDX"))
    with pytest.raises(DatasetError, match=rf"{damaged.name}: a damaged shard"):
        list(open_tfrecords(tmp_path))
    damaged.write_bytes(b"")
    with pytest.raises(DatasetError, match="hold 3 records, its index says 5"):
        open_tfrecords(tmp_path)


def test_a_record_of_a_petabyte_is_no_reason_to_ask_for_memory(shards, tmp_path):
    """TensorFlow's reader asks for it and ends the process."""
    for path in [*shards.paths, shards.paths[0].parent / "shards.json"]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    length = (2**50).to_bytes(8, "little") + bytes.fromhex("1d703049")  # and its checksum
    (tmp_path / shards.paths[0].name).write_bytes(length + bytes(64))
    with pytest.raises(DatasetError, match="record 0 reaches out of it"):
        open_tfrecords(tmp_path)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        # In a list of byte strings, a length of 4 GiB, at which `tf.io.parse_single_example` ends the process.
        (b"\x0a\x15\x0a\x13\x0a\x05image\x12\x0a\x0a\x08\x0a\xa1\xfe\xff\xd8\x0f12", "a record without image"),
        (_serialized({"image": _as_png(np.zeros((2, 2))), "labels": b"GIF89a"}), "no PNG file|neither a JPEG nor"),
        (_serialized({"image": b"GIF89a", "labels": _as_png(np.zeros((2, 2)))}), "neither a JPEG nor a PNG"),
        (_serialized({"image": _as_png(np.zeros((2, 2)))}), "a record without image, labels"),
    ],
    ids=["absurd-length", "labels-are-gif", "image-is-gif", "no-labels"],
)
def test_a_broken_record_is_an_error_of_its_batch(shards, features, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        next(iter(tf.data.Dataset.from_tensors(features).map(shards.decode)))


def test_both_splits_are_opened_from_files_or_from_shards(tmp_path):
    folder = write_dataset(tmp_path / "scenes", train=3, val=1)
    files = open_splits("folder", folder, NAMES)
    for split, dataset in zip(("train", "val"), files, strict=True):
        write_tfrecords(dataset, tmp_path / "shards" / split)
    shards = open_splits("folder", tmp_path / "shards")
    for one, other in zip(files, shards, strict=True):
        assert (one.name, one.size, one.class_names) == (other.name, other.size, other.class_names)


def test_jpeg_is_decoded_as_by_pillow(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (33, 47, 3), np.uint8)
    path = tmp_path / "noise.jpg"
    Image.fromarray(noise).save(path, quality=60)
    Image.new("L", (47, 33)).save(tmp_path / "labels.png")
    dataset = SegmentationDataset("x", (Example(path, tmp_path / "labels.png"),), ("a",), np.arange(256))
    ((image, _),) = dataset.records().map(lambda number, *record: dataset.decode(*record))
    np.testing.assert_array_equal(image, np.asarray(Image.open(path)))


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


@pytest.mark.parametrize("calls", [None, 1])
def test_tf_data_tunes_only_what_is_left_open(dataset, calls):
    """Its tuning thread misses the end of an iterator now and then, and holds the program back for up to a minute."""
    processor = SegformerImageProcessor(do_resize=False)
    training = training_dataset(dataset, Augmentation((32, 32)), 2, processor=processor, parallel_calls=calls)
    validation = validation_dataset(dataset, processor=processor, parallel_calls=calls)
    assert [each.options().autotune.enabled for each in (training, validation)] == [calls is None] * 2


EXIT = """
import sys, time
from pathlib import Path
from tests.training.scenes import NAMES, write_dataset
from tf_segformer import SegformerImageProcessor
from tf_segformer.data import Augmentation, SegmentationDataset, find_dataset, training_dataset

read_labels = SegmentationDataset.read_labels
def slowly(*arguments):
    time.sleep(0.2)
    return read_labels(*arguments)
SegmentationDataset.read_labels = slowly

class Fit:
    pass

dataset = find_dataset("folder", write_dataset(Path(sys.argv[1])), "train", class_names=NAMES)
batches = training_dataset(dataset, Augmentation((32, 32)), 4, processor=SegformerImageProcessor(do_resize=False))
fit = Fit()
fit.itself, fit.batches = fit, iter(batches)
held = iter(batches)
next(fit.batches), next(held)
del fit
print("trained", flush=True)
"""


@pytest.mark.slow
def test_python_exits_while_images_are_prepared(tmp_path):
    """Without `_end_iterators` it waits for a thread that cannot read labels any more."""
    program = [sys.executable, "-c", EXIT, str(tmp_path / "scenes")]
    assert subprocess.run(program, stdout=subprocess.PIPE, text=True, timeout=300, check=True).stdout == "trained\n"
