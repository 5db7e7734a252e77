"""Drop path and dropout act where the paper has them: on both branches of a block, twice in its Mix-FFN."""

from __future__ import annotations

import numpy as np
import pytest

from tests.reference import random_weights
from tf_segformer import SegformerForSemanticSegmentation
from tf_segformer.modeling.layers import TransformerBlock

CHANNELS = 8


def block_and_input(**options):
    """A block whose weights are random, and one image (1, 4, 6, C)."""
    block = TransformerBlock(CHANNELS, num_heads=2, sequence_reduction=2, **options)
    x = np.random.default_rng(0).standard_normal((1, 4, 6, CHANNELS)).astype("float32")
    block(x)
    return random_weights(block), x


def weight(layer, path: str):
    """The one weight of a layer whose path ends like this."""
    (found,) = [variable for variable in layer.weights if variable.path.endswith(path)]
    return found


def without(layer, path: str) -> None:
    """Sets a dense layer to zero, so that what is behind it contributes nothing."""
    for name in ("kernel", "bias"):
        variable = weight(layer, f"{path}/{name}")
        variable.assign(np.zeros(variable.shape))


def test_drop_path_drops_both_branches_of_an_image_each_on_its_own():
    block, x = block_and_input(drop_path=0.5)
    result = np.asarray(block(np.repeat(x, 64, axis=0), training=True))
    outcomes, counts = np.unique(result.round(4).reshape(64, -1), axis=0, return_counts=True)
    assert len(outcomes) == 4  # neither branch, the first, the second, both
    assert counts.min() >= 6  # 16 are expected
    assert (np.abs(outcomes - x.ravel()).max(axis=1) < 1e-3).sum() == 1  # neither: the input itself


def test_dropout_acts_on_the_attention_branch():
    block, x = block_and_input(dropout=0.5)
    without(block, "mlp/dense_2")
    branch = np.asarray(block(x, training=False)) - x
    dropped = np.asarray(block(x, training=True)) - x
    kept = np.abs(dropped) > 1e-6
    assert 0.35 < kept.mean() < 0.65
    np.testing.assert_allclose(dropped[kept], 2 * branch[kept], atol=1e-5)


def test_dropout_acts_twice_in_the_feed_forward_network():
    block, x = block_and_input(dropout=0.5)
    without(block, "attention/output_dense")
    selection = np.zeros(weight(block, "mlp/dense_2/kernel").shape)  # (4 C, C): each result is one inner channel
    selection[np.arange(CHANNELS), np.arange(CHANNELS)] = 1
    weight(block, "mlp/dense_2/kernel").assign(selection)
    weight(block, "mlp/dense_2/bias").assign(np.zeros(CHANNELS))
    x = np.repeat(x, 8, axis=0)
    branch = np.asarray(block(x, training=False)) - x
    dropped = np.asarray(block(x, training=True)) - x
    kept = np.abs(dropped) > 1e-6
    assert 0.2 < kept.mean() < 0.3  # half of the half
    np.testing.assert_allclose(dropped[kept], 4 * branch[kept], atol=1e-5)


STILL = {
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "drop_path_rate": 0.0,
    "classifier_dropout_prob": 0.0,
}


@pytest.mark.parametrize("field", [None, *STILL])
def test_each_rate_of_the_configuration_makes_training_random_and_inference_not(field, small_config, pixel_values):
    rates = {**STILL, field: 0.5} if field else STILL
    model = SegformerForSemanticSegmentation(small_config.replace(**rates))
    random_weights(model)
    first, second = (np.asarray(model(pixel_values, training=True)) for _ in range(2))
    assert np.array_equal(first, second) == (field is None)
    first, second = (np.asarray(model(pixel_values, training=False)) for _ in range(2))
    assert np.array_equal(first, second)
