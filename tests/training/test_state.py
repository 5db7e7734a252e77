"""The training state: what was saved comes back, and a file of another model or a damaged one changes nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.training.runs import RECIPE, TINY, make_model
from tf_segformer.errors import CheckpointError
from tf_segformer.training.state import load_state, save_state


def test_every_variable_of_model_and_optimizer_comes_back(tmp_path):
    model, other = make_model(), make_model(replace(RECIPE, seed=1))
    for variable in model.optimizer.variables:
        variable.assign(np.full(variable.shape, 3))
    save_state(tmp_path / "state.npz", model, {"step": 3})
    assert load_state(tmp_path / "state.npz", other) == {"step": 3}
    for one, two in zip(
        [*model.variables, *model.optimizer.variables], [*other.variables, *other.optimizer.variables], strict=True
    ):
        np.testing.assert_array_equal(one, two)


def test_state_of_another_model_is_rejected_and_changes_nothing(tmp_path):
    model = make_model()
    save_state(tmp_path / "state.npz", model, {"step": 3})
    other = make_model(replace(RECIPE, model={**TINY, "decoder_hidden_size": 24}))
    before = [np.array(variable) for variable in other.variables]
    with pytest.raises(CheckpointError, match="another model or optimizer"):
        load_state(tmp_path / "state.npz", other)
    assert all((np.array(v) == b).all() for v, b in zip(other.variables, before, strict=True))
    (tmp_path / "state.npz").write_bytes((tmp_path / "state.npz").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="not a readable training state"):
        load_state(tmp_path / "state.npz", model)
