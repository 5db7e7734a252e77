"""Thirty steps of training are those of Hugging Face PyTorch, in loss and in the statistics of the batch norm."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = [pytest.mark.parity, pytest.mark.slow]


@pytest.fixture(scope="module")
def tracks():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from tests.training.parity import compare_steps

    return compare_steps(steps=30, size=96, num_labels=7)


def test_losses_of_every_step_are_those_of_pytorch(tracks):
    reference, ours = tracks
    assert reference.losses[-1] < 0.9 * reference.losses[0], "nothing was learned: the comparison says nothing"
    np.testing.assert_allclose(ours.losses, reference.losses, rtol=2e-4)


def test_batch_norm_statistics_are_those_of_pytorch(tracks):
    reference, ours = tracks
    np.testing.assert_allclose(ours.moving_mean, reference.moving_mean, atol=5e-3 * abs(reference.moving_mean).max())
    np.testing.assert_allclose(ours.moving_variance, reference.moving_variance, rtol=1e-2)
