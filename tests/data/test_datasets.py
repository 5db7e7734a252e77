"""Finding, reading and checking labelled folders, good and hostile."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.training.scenes import NAMES, make_scene, write_dataset
from tf_segformer.data.check import check_dataset
from tf_segformer.data.datasets import find_dataset
from tf_segformer.data.kinds import KINDS
from tf_segformer.errors import DatasetError, ImageError
from tf_segformer.imaging.labels import LABELS


def write_image(path, size=(8, 6), mode="RGB", color=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path)


def write_labels(path, values, mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.array(values, np.uint8))
    if mode == "P":
        image.putpalette([(7 * i) % 256 for i in range(768)])
    image.save(path)


@pytest.fixture
def folder(tmp_path):
    return write_dataset(tmp_path / "scenes", train=3, val=1)


def find(folder, split="train", **options):
    return find_dataset("folder", folder, split, class_names=NAMES, **options)


def test_folder_pairs_images_and_labels_by_name(folder):
    dataset = find(folder)
    assert [(each.image.name, each.labels.name) for each in dataset.examples] == [
        (f"{index:03d}.png", f"{index:03d}.png") for index in range(3)
    ]
    assert dataset.num_labels == 4
    assert sum(check_dataset(dataset).class_pixels) == 3 * 64 * 64


def test_a_folder_without_splits_is_divided_by_fraction_and_seed(folder):
    """Both splits had all images, and a validation that was none."""
    write_dataset(folder.parent / "more", train=20, val=1)
    flat = folder.parent / "more/train"
    train, val = (find(flat, split, val_fraction=0.25) for split in ("train", "val"))
    assert (train.size, val.size) == (15, 5)
    assert not set(train.examples) & set(val.examples)
    assert [each.image.name for each in val.examples] == ["005.png", "006.png", "007.png", "011.png", "015.png"]
    assert find(flat, "val", val_fraction=0.25, seed=1).examples != val.examples
    assert find(flat, "val", val_fraction=1.0).size == 20
    with pytest.raises(ValueError, match="val_fraction"):
        find(flat, "val", val_fraction=0.0)


def test_ade20k_ignores_zero_and_lowers_the_others(tmp_path):
    write_image(tmp_path / "images/training/a.jpg", (3, 1))
    write_labels(tmp_path / "annotations/training/a.png", [[0, 1, 150]])
    dataset = find_dataset("ade20k", tmp_path, "train")
    assert dataset.read_labels(dataset.examples[0].labels).tolist() == [[255, 0, 149]]
    assert dataset.class_names == LABELS["ade20k"]
    pixels = check_dataset(dataset).class_pixels
    assert (pixels[0], pixels[149], sum(pixels)) == (1, 1, 2)


def test_cityscapes_maps_label_ids_to_training_ids(tmp_path):
    write_image(tmp_path / "leftImg8bit/val/ulm/ulm_1_leftImg8bit.png", (4, 1))
    write_labels(tmp_path / "gtFine/val/ulm/ulm_1_gtFine_labelIds.png", [[7, 26, 33, 4]])
    dataset = find_dataset("cityscapes", tmp_path, "val")
    assert dataset.read_labels(dataset.examples[0].labels).tolist() == [[0, 13, 18, 255]]


def test_voc_takes_the_indices_of_a_color_table(tmp_path):
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("a\nb\n")
    for name in "ab":
        write_image(tmp_path / f"JPEGImages/{name}.jpg", (3, 1))
        write_labels(tmp_path / f"SegmentationClass/{name}.png", [[0, 20, 255]], mode="P")
    write_image(tmp_path / "JPEGImages/not_listed.jpg")
    dataset = find_dataset("voc", tmp_path, "train")
    assert [each.image.stem for each in dataset.examples] == ["a", "b"]
    assert dataset.read_labels(dataset.examples[0].labels).tolist() == [[0, 20, 255]]


def test_camvid_ignores_eleven(tmp_path):
    write_image(tmp_path / "train/images/a.jpg", (3, 1))
    write_labels(tmp_path / "train/labels/a.png", [[0, 10, 11]])
    dataset = find_dataset("camvid", tmp_path, "train")
    assert dataset.read_labels(dataset.examples[0].labels).tolist() == [[0, 10, 255]]


def test_colors_are_looked_up_in_the_palette(folder):
    palette = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (1, 2, 3)]
    colors = np.array([[(0, 0, 255), (1, 2, 3), (0, 0, 0)]], np.uint8)
    path = folder / "train/labels/000.png"
    Image.fromarray(colors).save(path)
    assert find(folder, palette=palette).read_labels(path).tolist() == [[2, 3, 255]]
    Image.fromarray(colors + 9).save(path)
    with pytest.raises(ImageError, match=r"000\.png: the color \(9, 9, 8\) is not in the palette"):
        find(folder, palette=palette).read_labels(path)


def test_every_problem_is_listed_with_its_file(folder):
    train = folder / "train"
    for index in range(3, 9):
        write_image(train / f"images/{index:03d}.png", (8, 6))
        write_labels(train / f"labels/{index:03d}.png", np.zeros((6, 8)))
    good_jpeg = train / "images/whole.jpg"
    Image.fromarray(make_scene(0)[0]).save(good_jpeg)
    write_labels(train / "labels/whole.png", np.zeros((64, 64)))
    jpeg = good_jpeg.read_bytes()
    (train / "images/cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    write_labels(train / "labels/cut.png", np.zeros((64, 64)))
    (train / "labels/003.png").unlink()
    (train / "images/004.png").unlink()
    write_labels(train / "labels/005.png", np.zeros((6, 9)))
    write_labels(train / "labels/006.png", np.full((6, 8), 9))
    Image.fromarray(np.full((6, 8), 4000, np.uint16)).save(train / "labels/007.png")
    Image.new("RGB", (8, 6)).save(train / "labels/008.png")
    with pytest.raises(DatasetError) as raised:
        check_dataset(find(folder))
    lines = str(raised.value).splitlines()
    assert "7 problems" in lines[0]
    for name, words in {
        "images/cut.jpg": "truncated",
        "labels/003.png": "no such file",
        "images/004.jpg": "no such file",
        "labels/005.png": "9 x 6 pixels",
        "labels/006.png": "class 9 is beyond the 4 classes",
        "labels/007.png": "label values reach 4000",
        "labels/008.png": "one channel",
    }.items():
        assert sum(name in line and words in line for line in lines) == 1, (name, lines)
    assert sum(line.endswith("no such file, 2 files:") for line in lines) == 1
    report = check_dataset(find(folder), raise_on_problems=False)
    assert sum(problem.count for problem in report.problems) == 7
    assert sum(report.class_pixels) > 0
    assert "error: there is no such file, 2 files:" in str(report)


def test_a_problem_of_many_files_is_said_once_with_three_examples(folder):
    for index in range(20):
        write_image(folder / f"train/images/x{index:02d}.png", (8, 6))
        write_labels(folder / f"train/labels/x{index:02d}.png", np.full((6, 8), 9 + index % 3))
    with pytest.raises(DatasetError) as raised:
        check_dataset(find(folder))
    lines = [line.strip() for line in str(raised.value).splitlines()]
    assert lines[0] == "folder/train: 20 problems; mend or remove these files:"
    assert lines[1] == "labels beyond the classes, 20 files:"
    assert sum("is beyond" in line for line in lines) == 3
    assert lines[5:] == ["and 17 more"]


def write_counted_from_one(folder):
    for path in (folder / "train/labels").iterdir():
        write_labels(path, np.asarray(Image.open(path)) + 1)


def test_labels_that_count_from_one_are_suspected_only_when_all_were_counted(folder):
    write_counted_from_one(folder)
    with pytest.raises(
        DatasetError, match=r"class 0 \(sky\) is never labelled, but 4 is: do these labels count from 1\?"
    ):
        check_dataset(find(folder))
    write_image(folder / "train/labels/000.png", (64, 64))  # three channels: not counted
    with pytest.raises(DatasetError) as raised:
        check_dataset(find(folder))
    assert "count from 1" not in str(raised.value)
    write_labels(folder / "train/labels/000.png", np.full((64, 64), 7))
    with pytest.raises(DatasetError) as raised:  # 7 is no class either way
        check_dataset(find(folder))
    assert "count from 1" not in str(raised.value)


def test_report_gives_fractions_and_names_classes_without_a_pixel(folder):
    for name in ("000", "001", "002"):
        write_labels(folder / f"train/labels/{name}.png", [[0, 0, 0, 1], [2, 2, 255, 255]])
        write_image(folder / f"train/images/{name}.png", (4, 2))
    report = check_dataset(find(folder))
    assert report.class_fractions == {"sky": 0.5, "ground": 1 / 6, "house": 2 / 6, "sun": 0.0}
    assert report.ignored_fraction == 0.25
    assert str(report).splitlines() == [
        "folder/train: 3 images, 4 classes",
        "  sky 50.0 %, house 33.3 %, ground 16.7 %, sun 0.0 %; 25.0 % of the pixels are ignored",
        "  4 x 2 pixels, 3 channels of uint8, values from 0 to 0",
        "  warning: never labelled: sun",
    ]


def test_labels_that_are_not_classes_are_rejected_even_next_to_ignored_ones(folder):
    write_labels(folder / "train/labels/000.png", np.full((64, 64), 254))
    with pytest.raises(DatasetError, match="class 254"):
        check_dataset(find(folder))
    write_labels(folder / "train/labels/000.png", np.full((64, 64), 255))
    check_dataset(find(folder))


@pytest.mark.parametrize("kind", KINDS)
def test_empty_and_missing_folders_are_named_with_the_layout(tmp_path, kind):
    names = {"class_names": NAMES} if KINDS[kind].class_names is None else {}
    with pytest.raises(DatasetError, match="no images for the split 'train'"):
        find_dataset(kind, tmp_path, "train", **names)
    with pytest.raises(DatasetError, match=r"nowhere: there is no such folder.*needs"):
        find_dataset(kind, tmp_path / "nowhere", "train", **names)


def test_arguments_that_do_not_fit_are_rejected(folder):
    with pytest.raises(ValueError, match="no kind of dataset 'coccoo'"):
        find_dataset("coccoo", folder, "train")
    with pytest.raises(ValueError, match="split='test'"):
        find_dataset("camvid", folder, "test")
    with pytest.raises(ValueError, match="3 entries"):
        find_dataset("camvid", folder, "train", class_names=["a", "b", "c"])
    with pytest.raises(ValueError, match="1 colors"):
        find(folder, palette=[(1, 2, 3)])
