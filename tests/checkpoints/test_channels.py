"""Images of other channels: the pretrained encoder stays, and its first kernel is spread over them."""

from __future__ import annotations

import numpy as np
import pytest

from tests.modeling.make_golden import FOLDER
from tf_segformer import SegformerModel
from tf_segformer.checkpoints.channels import spread_channels, zero_channels
from tf_segformer.errors import CheckpointError

GRAY = np.random.default_rng(0).standard_normal((1, 33, 40, 1)).astype("float32")


@pytest.fixture(scope="module")
def expected():
    """The map of an image whose three channels are equal."""
    return SegformerModel.from_pretrained(FOLDER / "segmentation")(np.repeat(GRAY, 3, axis=-1)).numpy()


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_an_image_of_equal_channels_gives_the_same_map(expected, channels):
    with pytest.warns(UserWarning, match=rf"first kernel of 3 channels, the model takes {channels}: it is spread"):
        model = SegformerModel.from_pretrained(
            FOLDER / "segmentation", num_channels=channels, ignore_mismatched_sizes=True
        )
    feature_map = model(np.repeat(GRAY, channels, axis=-1))
    np.testing.assert_allclose(feature_map, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_a_multiple_of_three_and_one_channel_are_those_of_timm():
    kernel = np.random.default_rng(0).normal(size=(7, 7, 3, 5))
    np.testing.assert_allclose(spread_channels(kernel, 6), np.concatenate([kernel, kernel], axis=2) / 2)
    np.testing.assert_allclose(spread_channels(kernel, 1), kernel.sum(axis=2, keepdims=True))


@pytest.mark.parametrize("channels", [3, 5])
def test_zero_channels_leave_the_map_of_rgb_whatever_the_other_bands_hold(channels):
    image = np.random.default_rng(1).standard_normal((1, 33, 40, 5)).astype("float32")
    with pytest.warns(UserWarning, match="model takes 5: it is kept for the first of them, the others start at 0"):
        model = SegformerModel.from_pretrained(
            FOLDER / "segmentation", num_channels=5, ignore_mismatched_sizes=True, new_channels="zero"
        )
    expected = SegformerModel.from_pretrained(FOLDER / "segmentation")(image[..., :3]).numpy()
    image[..., channels:] = 9
    np.testing.assert_allclose(model(image), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    kernel = np.random.default_rng(0).normal(size=(7, 7, 3, 5))
    np.testing.assert_array_equal(zero_channels(kernel, 2), kernel[:, :, :2])


def test_random_channels_are_initialized_and_the_rest_is_kept():
    with pytest.warns(UserWarning, match="newly initialized"):
        model = SegformerModel.from_pretrained(
            FOLDER / "segmentation", num_channels=6, ignore_mismatched_sizes=True, new_channels="random"
        )
    before = SegformerModel.from_pretrained(FOLDER / "segmentation")
    kernel, *others = model.get_weights()
    assert kernel.shape[2] == 6 and 0.015 < kernel.std() < 0.025
    for ours, theirs in zip(others, before.get_weights()[1:], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_without_it_the_error_says_how():
    with pytest.raises(CheckpointError, match=r"(?s)ignore_mismatched_sizes=True .* spread over them\.$"):
        SegformerModel.from_pretrained(FOLDER / "segmentation", num_channels=6)


def test_another_way_is_rejected():
    options = {"num_channels": 6, "ignore_mismatched_sizes": True, "new_channels": "zeros"}
    with pytest.raises(ValueError, match="must be one of spread, zero, random"):
        SegformerModel.from_pretrained(FOLDER / "segmentation", **options)
