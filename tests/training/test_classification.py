"""Image classification folders: their classes, crops and order."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tf_segformer.data.pipeline import denormalize
from tf_segformer.errors import DatasetError
from tf_segformer.training.classification import (
    check_images,
    classification_batches,
    classification_images,
    find_image_folders,
    random_area,
)

COLORS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


@pytest.fixture
def folder(tmp_path):
    for name, color in COLORS.items():
        (tmp_path / name).mkdir()
        for index in range(2):
            Image.new("RGB", (40, 30), color).save(tmp_path / name / f"{index}.png")
    return tmp_path


def test_classes_are_the_folders_in_the_order_of_their_names(folder):
    dataset = find_image_folders(folder)
    assert dataset.class_names == ("blue", "green", "red")
    assert dataset.labels == (0, 0, 1, 1, 2, 2)
    check_images(dataset)


def test_batches_keep_image_and_class_together_and_can_be_resumed(folder):
    dataset = find_image_folders(folder)
    whole = [(x.numpy(), y.numpy()) for x, y in classification_batches(dataset, 16, 2, last_step=9)]
    resumed = [(x.numpy(), y.numpy()) for x, y in classification_batches(dataset, 16, 2, first_step=4, last_step=9)]
    for (x, y), (again, y_again) in zip(whole[4:], resumed, strict=True):
        np.testing.assert_array_equal(x, again)
        np.testing.assert_array_equal(y, y_again)
    colors = list(COLORS.values())
    for x, y in whole:
        for image, label in zip(x, y, strict=True):
            np.testing.assert_array_equal(denormalize(image), np.broadcast_to(colors[label], (16, 16, 3)))
    for epoch in range(3):
        assert sorted(np.concatenate([y for _, y in whole[3 * epoch : 3 * epoch + 3]])) == [0, 0, 1, 1, 2, 2]


def test_crops_are_windows_of_the_wanted_area_and_aspect():
    areas, aspects = [], []
    for seed in range(200):
        (top, left), (height, width) = (each.numpy() for each in random_area((300, 400), (0, seed)))
        assert 0 <= top <= 300 - height
        assert 0 <= left <= 400 - width
        areas.append(height * width / 120_000)
        aspects.append(width / height)
    assert 0.07 < min(areas) < 0.15
    assert max(areas) > 0.8
    assert 0.72 < min(aspects) < 0.85
    assert 1.2 < max(aspects) < 1.37


def test_image_into_which_no_window_fits_is_taken_whole():
    begin, window = random_area((2, 2000), (0, 0))
    assert begin.numpy().tolist() == [0, 0]
    assert window.numpy().tolist() == [2, 2000]


def test_validation_takes_the_central_square(tmp_path):
    (tmp_path / "a").mkdir()
    image = np.zeros((80, 120, 3), np.uint8)
    image[:, 20:100] = 255  # the central square of 80 pixels
    image[5:-5, 25:-25] = 128  # what 0.875 of it leaves
    Image.fromarray(image).save(tmp_path / "a/0.png")
    ((pixels, labels),) = classification_images(find_image_folders(tmp_path), 35)
    assert labels.numpy().tolist() == [0]
    centre = denormalize(pixels[0])
    assert centre.shape == (35, 35, 3)
    assert (centre[2:-2, 2:-2] == 128).all()
    assert (centre > 0).all()  # nothing from outside the square


def test_empty_class_missing_folder_and_damaged_image_are_named(folder, tmp_path):
    with pytest.raises(DatasetError, match="no such folder"):
        find_image_folders(tmp_path / "nowhere")
    (folder / "red/0.png").write_bytes(b"nonsense")
    with pytest.raises(DatasetError, match=r"red/0\.png"):
        check_images(find_image_folders(folder))
    (folder / "violet").mkdir()
    with pytest.raises(DatasetError, match="no images in violet"):
        find_image_folders(folder)
