"""What would be learned wrongly without a word is named by the check, with its remedy."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.training.scenes import NAMES, write_dataset
from tf_segformer.data.augmentation import Augmentation
from tf_segformer.data.check import balanced_weights, check_dataset, check_splits
from tf_segformer.data.datasets import find_dataset
from tf_segformer.data.pipeline import training_dataset, validation_dataset
from tf_segformer.data.previews import write_previews
from tf_segformer.errors import DatasetError
from tf_segformer.imaging.processor import SegformerImageProcessor
from tf_segformer.imaging.visualize import draw_overlay


@pytest.fixture
def folder(tmp_path):
    return write_dataset(tmp_path / "scenes", train=4, val=2)


def relabel(folder, change):
    for path in folder.glob("*/labels/*.png"):
        Image.fromarray(change(np.asarray(Image.open(path)))).save(path)


def replace_image(path, array, **options):
    Image.fromarray(array).save(path, **options)


def test_masks_of_zero_and_255_are_an_error_until_somebody_says_which_class_255_is(folder):
    relabel(folder, lambda labels: np.where(labels > 0, 255, 0).astype(np.uint8))
    with pytest.raises(DatasetError, match=r"255 is ignored, so class 1 \(crack\) never occurs.*--kind binary"):
        check_dataset(find_dataset("folder", folder, "train", ["background", "crack"]))
    mapped = find_dataset("folder", folder, "train", class_of_value={"background": 0, "crack": [255]})
    for dataset in (find_dataset("binary", folder, "train", ["background", "crack"]), mapped):
        report = check_dataset(dataset)
        assert report.class_names == ("background", "crack")
        assert report.ignored_pixels == 0
        assert report.class_fractions["crack"] > 0.2
    with pytest.raises(DatasetError, match=r"255 is ignored in the kind 'folder'.*--kind binary"):
        find_dataset("folder", folder)  # the folder alone decides where nobody names the kind
    found = find_dataset(root=folder)
    assert (found.name, found.class_names) == ("binary/train", ("background", "object"))


def test_255_is_ignored_next_to_other_classes_and_in_a_validation_without_the_object(folder):
    relabel(folder, lambda labels: np.where(labels == 1, 255, labels).astype(np.uint8))
    check_dataset(find_dataset("folder", folder, "train", NAMES))
    for path in (folder / "val/labels").iterdir():
        Image.fromarray(np.where(np.asarray(Image.open(path)) > 0, 255, 0).astype(np.uint8)).save(path)
    report = check_dataset(folder, kind="folder", class_names=NAMES)
    assert any(warning.startswith("never labelled: ground, house, sun") for warning in report.splits["val"].warnings)


def test_the_same_images_in_training_and_validation_are_an_error(folder):
    train = find_dataset("folder", folder, "train", NAMES)
    with pytest.raises(DatasetError, match="training and validation are the same images, 4 files"):
        check_splits((train, train))
    for path in (folder / "val/images").iterdir():  # copies under other names
        path.write_bytes((folder / "train/images" / path.name).read_bytes())
    with pytest.raises(DatasetError, match="training and validation are the same images, 2 files"):
        check_dataset(folder, class_names=NAMES)
    report = check_dataset(folder, class_names=NAMES, raise_on_problems=False)
    assert "leave its folder out, so that --val-fraction" in str(report)
    (folder / "val/images/001.png").write_bytes((folder / "train/labels/001.png").read_bytes())
    report = check_dataset(folder, class_names=NAMES)
    assert any("1 image of the validation are among those of the training" in warning for warning in report.warnings)


def test_a_validation_without_some_class_is_named(folder):
    for path in (folder / "val/labels").iterdir():
        Image.fromarray(np.where(np.asarray(Image.open(path)) == 3, 0, 1).astype(np.uint8)).save(path)
    report = check_dataset(folder, class_names=NAMES)
    expected = "never labelled: house, sun; their IoU is undefined and left out of mIoU"
    assert any(warning.startswith(expected) for warning in report.splits["val"].warnings)
    assert not report.splits["train"].warnings


def test_images_turned_by_exif_are_named(folder):
    path = folder / "train/images/000.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    replace_image(path, np.zeros((64, 64, 3), np.uint8), exif=exif)
    report = check_dataset(find_dataset("folder", folder, "train", NAMES))
    assert any("1 image with an EXIF orientation" in each and "000.png" in each for each in report.warnings)
    replace_image(path, np.zeros((48, 64, 3), np.uint8), exif=exif)
    Image.new("L", (48, 64)).save(folder / "train/labels/000.png")  # as the image is seen
    with pytest.raises(DatasetError, match="save the image upright, as its EXIF orientation says"):
        check_dataset(find_dataset("folder", folder, "train", NAMES))


@pytest.mark.parametrize(
    ("array", "suffix", "words"),
    [
        (np.full((64, 64), 900, np.uint16), "png", "1 image of 16 bits with values below 16384"),
        (np.full((64, 64), 900, np.uint16), "tif", "scale the values to 0..255"),
        (np.full((64, 64, 4), 7, np.uint8), "tif", "a band after the first three"),
        (np.full((64, 64, 2), 7, np.uint8), "png", "a band after the first three"),
    ],
)
def test_bands_and_values_that_are_dropped_are_named(folder, array, suffix, words):
    (folder / "train/images/000.png").unlink()
    replace_image(folder / f"train/images/000.{suffix}", array)
    report = check_dataset(find_dataset("folder", folder, "train", NAMES))
    assert any(words in warning and f"000.{suffix}" in warning for warning in report.warnings), report.warnings


def test_full_16_bits_and_opaque_alpha_are_no_doubt(folder):
    replace_image(folder / "train/images/000.png", np.full((64, 64), 60_000, np.uint16))
    replace_image(folder / "train/images/001.png", np.full((64, 64, 4), 255, np.uint8))
    report = check_dataset(find_dataset("folder", folder, "train", NAMES))
    assert report.warnings == ()
    assert (report.channels, report.dtypes, report.value_range[1]) == ((1, 3, 4), ("uint16", "uint8"), 60_000)


def test_labels_from_one_stop_the_training_and_the_validation(folder):
    """Inside `fit` the loss became NaN, and nobody said why."""
    relabel(folder, lambda labels: labels + 1)
    dataset = find_dataset("folder", folder, "train", NAMES)
    processor = SegformerImageProcessor(do_resize=False)
    batches = training_dataset(dataset, Augmentation((32, 32)), 4, processor=processor, last_step=1)
    for pipeline in (batches, validation_dataset(dataset, processor=processor)):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"no class \(0 to 3\).*Do they count from 1\?.*4"):
            list(pipeline)


def test_labels_from_one_without_names_are_suspected_and_named_by_a_map(folder):
    """They were trained as one more class, which no pixel has."""
    relabel(folder, lambda labels: labels + 1)
    report = check_dataset(folder)
    (warning,) = report.splits["train"].warnings
    assert warning.startswith("class 0 is never labelled, but 4 is: do these labels count from 1?")
    assert "(--map)" in warning
    mapped = check_dataset(folder, class_of_value={name: value for value, name in enumerate(NAMES, 1)})
    assert mapped.splits["train"].class_names == tuple(NAMES)
    assert not mapped.splits["train"].warnings


def test_a_folder_is_described_as_plain_values(folder):
    report = check_dataset(folder)
    values = json.loads(json.dumps(report.to_dict()))
    assert set(values) == {"kind", "class_names", "splits", "channels", "dtype", "problems", "warnings"}
    assert (values["kind"], values["channels"], values["dtype"], values["problems"]) == ("folder", 3, "uint8", [])
    assert values["class_names"] == ["class 0", "class 1", "class 2", "class 3"]
    assert set(values["splits"]) == {"train", "val"}
    train = values["splits"]["train"]
    assert set(train) == {"images", "class_fractions", "ignored_fraction"}
    assert (train["images"], train["ignored_fraction"]) == (4, 0)
    assert sum(train["class_fractions"].values()) == pytest.approx(1)
    assert "64 x 64 pixels, 3 channels of uint8, values from" in str(report)


def test_problems_are_grouped_with_counts_and_examples(folder):
    for index in range(3):
        Image.new("L", (9, 9)).save(folder / f"train/labels/00{index}.png")
    report = check_dataset(folder, class_names=NAMES, raise_on_problems=False)
    assert not report.can_train
    (problem,) = report.to_dict()["problems"]
    assert (problem["kind"], problem["count"]) == ("labels of another size than their image", 3)
    assert "9 x 9 pixels" in problem["examples"][0]


def test_rare_classes_are_offered_weights(folder):
    dot = np.zeros((64, 64), np.uint8)
    dot[0, :8], dot[10:20], dot[20:40] = 3, 1, 2
    relabel(folder, lambda labels: dot)
    report = check_dataset(folder, class_names=NAMES)
    (warning,) = report.warnings
    assert warning.startswith("below 1 % of the training pixels: sun 0.2 %; class weights")
    weights = balanced_weights(report.splits["train"])
    assert weights[3] == 10  # the largest, and the order is that of the rarity
    assert weights[0] < weights[2] < weights[1] < weights[3]
    absent = replace(report.splits["train"], class_pixels=(10, 10, 0, 10))
    assert balanced_weights(absent) == [1, 1, 1, 1]


def test_previews_are_images_with_their_labels_over_them(folder, tmp_path):
    dataset = find_dataset("folder", folder, "train", NAMES)
    paths = list(write_previews(dataset, tmp_path / "previews", 2))
    assert [path.name for path in paths] == ["00000-000.png", "00002-002.png"]
    example = list(dataset)[2]
    expected = draw_overlay(example.read_image(), example.read_labels(), NAMES)
    np.testing.assert_array_equal(np.asarray(Image.open(paths[1])), np.asarray(expected))
