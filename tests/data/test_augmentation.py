"""The recipe's augmentations, each against its definition."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import tensorflow as tf

from tf_segformer.data import augmentation
from tf_segformer.data.augmentation import Augmentation

STILL = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}


def seed(number):
    return tf.constant([0, number], tf.int64)


def random_image(height=20, width=30):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype("float32")


def distort(image, number=0, **ranges):
    settings = Augmentation(crop_size=(8, 8), **{**STILL, **ranges})
    return augmentation.photometric_distortion(tf.constant(image), seed(number), settings).numpy()


def test_size_keeps_the_aspect_and_stays_in_the_range():
    sizes = np.array([augmentation.random_size((100, 200), seed(i), (0.5, 2.0)) for i in range(200)])
    assert (abs(sizes[:, 1] - 2 * sizes[:, 0]) <= 1).all()
    assert 50 <= sizes[:, 0].min() < 60
    assert 190 < sizes[:, 0].max() <= 200
    assert sizes[:, 0].mean() == pytest.approx(125, abs=8)  # the ratio is uniform


@pytest.mark.parametrize(("size", "expected"), [((500, 700), (512, 717)), ((300, 1500), (410, 2048))])
def test_base_size_fits_the_image_into_both_sides(size, expected):
    assert augmentation.random_size(size, seed(0), (1.0, 1.0), (512, 2048)).numpy().tolist() == list(expected)


@pytest.mark.parametrize("new_size", [(50, 60), (13, 17)], ids=["larger", "smaller"])
def test_resized_window_is_the_window_of_the_resized_image(new_size):
    whole = tf.image.resize(random_image(), new_size, antialias=True)
    window = augmentation.resized_window(random_image(), new_size, (3, 5), (9, 11))
    np.testing.assert_allclose(window, whole[3:12, 5:16], atol=1e-3)  # levels of 0..255


def test_window_avoids_crops_of_one_class_and_counts_only_labelled_pixels():
    labels = np.zeros((40, 40), "int32")
    labels[30:, :] = 1
    labels[:, :20] = 255
    for i in range(50):
        begin, size = augmentation.random_window(tf.constant(labels), seed(i), (16, 16), 0.75, 255)
        window = labels[begin[0] : begin[0] + size[0], begin[1] : begin[1] + size[1]]
        draws = tf.random.stateless_uniform((10, 2), seed(i)).numpy()
        offsets = (draws * 25).astype(int)
        for row, column in offsets:  # the first of the ten that is mixed enough, else the last
            expected = labels[row : row + 16, column : column + 16]
            share = np.bincount(expected[expected != 255], minlength=1).max() / max((expected != 255).sum(), 1)
            if share <= 0.75:
                break
        np.testing.assert_array_equal(window, expected)


def test_window_reaches_every_corner():
    begins = np.array(
        [augmentation.random_window(tf.zeros((10, 12), tf.int32), seed(i), (8, 8), 1.0, 255)[0] for i in range(150)]
    )
    assert {tuple(begin) for begin in begins} == {(row, column) for row in range(3) for column in range(5)}


def test_smaller_image_keeps_its_side():
    begin, size = augmentation.random_window(tf.zeros((5, 30), tf.int32), seed(0), (8, 8), 1.0, 255)
    assert size.numpy().tolist() == [5, 8]
    assert begin[0] == 0


def test_flip_mirrors_both_half_of_the_time():
    image, labels = random_image(), np.arange(600, dtype="int32").reshape(20, 30)
    flips = 0
    for i in range(100):
        flipped, flipped_labels = augmentation.random_flip(tf.constant(image), tf.constant(labels), seed(i))
        is_flipped = bool(flipped_labels[0, 0] == 29)
        flips += is_flipped
        np.testing.assert_array_equal(flipped, image[:, ::-1] if is_flipped else image)
        np.testing.assert_array_equal(flipped_labels, labels[:, ::-1] if is_flipped else labels)
    assert 35 < flips < 65


def test_brightness_shifts_all_levels_alike():
    image = np.full((4, 4, 3), 128.0, "float32")
    shifts = np.array([distort(image, i, brightness=32.0)[0, 0, 0] - 128 for i in range(200)])
    assert 0.35 < (shifts == 0).mean() < 0.65
    assert shifts.min() == pytest.approx(-32, abs=2)
    assert shifts.max() == pytest.approx(32, abs=2)


def test_contrast_scales_all_levels():
    image = np.full((4, 4, 3), 100.0, "float32")
    ratios = np.array([distort(image, i, contrast=0.5)[0, 0, 0] / 100 for i in range(200)])
    assert 0.35 < (ratios == 1).mean() < 0.65
    assert ratios.min() == pytest.approx(0.5, abs=0.03)
    assert ratios.max() == pytest.approx(1.5, abs=0.03)


def test_contrast_comes_before_or_after_the_colors():
    """A gray of one tint: the saturation keeps its largest channel, so clipping by the contrast shows the order."""
    image = np.full((2, 2, 3), (200.0, 150.0, 100.0), "float32")
    orders = set()
    for i in range(300):
        chances = tf.random.stateless_uniform((5,), tf.random.experimental.stateless_fold_in(seed(i), 0)).numpy()
        amounts = tf.random.stateless_uniform(
            (4,), tf.random.experimental.stateless_fold_in(seed(i), 1), -1.0, 1.0
        ).numpy()
        if not (chances[1] < 0.5 and chances[2] < 0.5) or amounts[1] < 0.6:
            continue  # only a contrast that clips 200 to 255
        result = distort(image, i, contrast=0.5, saturation=0.5)[0, 0]
        contrast, saturation = 1 + 0.5 * amounts[1], 1 + 0.5 * amounts[2]

        def saturate(color, saturation=saturation):
            hue, old, value = colorsys.rgb_to_hsv(*color / 255)
            return 255 * np.array(colorsys.hsv_to_rgb(hue, min(old * saturation, 1), value))

        first = saturate(np.clip(image[0, 0] * contrast, 0, 255))
        last = np.clip(saturate(image[0, 0]) * contrast, 0, 255)
        if abs(first - last).max() < 2:
            continue
        np.testing.assert_allclose(result, first if chances[4] < 0.5 else last, atol=0.1)
        orders.add(bool(chances[4] < 0.5))
    assert orders == {True, False}


def hsv(image):
    return np.array([colorsys.rgb_to_hsv(*pixel) for pixel in image.reshape(-1, 3) / 255])


def test_saturation_scales_saturation_only():
    image = 100 + random_image(3, 3) / 4
    changed = next(result for i in range(20) if abs((result := distort(image, i, saturation=0.5)) - image).max() > 1)
    before, after = hsv(image), hsv(changed)
    np.testing.assert_allclose(after[:, [0, 2]], before[:, [0, 2]], atol=1e-4)
    ratios = after[:, 1] / before[:, 1]
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-3)
    assert 0.5 <= ratios[0] <= 1.5


def test_hue_turns_hue_only_by_at_most_a_tenth_of_the_circle():
    image = random_image(3, 3)
    turns = []
    for i in range(60):
        changed = hsv(distort(image, i, hue=18.0))
        before = hsv(image)
        np.testing.assert_allclose(changed[:, 1:], before[:, 1:], atol=1e-4)
        turn = (changed[:, 0] - before[:, 0] + 0.5) % 1 - 0.5
        np.testing.assert_allclose(turn, turn[0], atol=1e-4)
        turns.append(turn[0])
    assert max(np.abs(turns)) == pytest.approx(0.1, abs=0.01)


def test_levels_stay_in_eight_bits():
    for i in range(30):
        result = augmentation.photometric_distortion(
            tf.constant(random_image()), seed(i), Augmentation(crop_size=(8, 8))
        )
        assert 0 <= float(tf.reduce_min(result)) <= float(tf.reduce_max(result)) <= 255


def test_image_and_labels_stay_together():
    labels = np.kron(np.arange(12).reshape(3, 4), np.ones((16, 16))).astype("int32")
    image = np.repeat(labels[..., None] * 20, 3, axis=-1).astype("uint8")
    settings = Augmentation(crop_size=(24, 24), **STILL)
    for i in range(10):
        changed, changed_labels = augmentation.augment(image, labels, seed(i), settings, 255)
        agree = np.abs(changed.numpy()[..., 0] / 20 - changed_labels.numpy()) < 0.5
        assert agree.mean() > 0.85  # the image is blurred at the edges of the squares


def test_same_seed_gives_the_same_and_another_seed_another():
    image, labels = random_image(40, 40).astype("uint8"), np.zeros((40, 40), "int32")
    settings = Augmentation(crop_size=(24, 24))
    one, again, other = (augmentation.augment(image, labels, seed(i), settings, 255)[0].numpy() for i in (1, 1, 2))
    assert (one == again).all()
    assert one.shape != other.shape or (one != other).any()
