"""compile_model: every field of a recipe that the optimizer or the loss needs reaches it, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.training.runs import DETERMINISTIC, make_model
from tf_segformer.training import trainer

RECIPE = replace(DETERMINISTIC, loss={}, warmup_steps=2, decay_start=0)  # 8 steps


@pytest.fixture(scope="module")
def model():
    return make_model(RECIPE)


def settings(model):
    """The configurations of schedule, optimizer and loss as one flat dictionary."""
    optimizer = model.optimizer.get_config()
    schedule = optimizer.pop("learning_rate")["config"]
    parts = {"schedule": schedule, "optimizer": optimizer, "loss": model.loss.get_config()}
    return {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"learning_rate": 0.5}, {"schedule.peak": 0.5}),
        ({"warmup_steps": 4}, {"schedule.warmup_steps": 4}),
        ({"power": 0.9}, {"schedule.power": 0.9}),
        ({"decay_start": 6}, {"schedule.decay_start": 6}),
        ({"weight_decay": 0.3}, {"optimizer.weight_decay": 0.3}),
        ({"head_lr_multiplier": 3.0}, {"optimizer.head_lr_multiplier": 3.0}),
        ({"clip_norm": 0.7}, {"optimizer.global_clipnorm": 0.7}),
        ({"ema_momentum": 0.8}, {"optimizer.use_ema": True, "optimizer.ema_momentum": 0.8}),
        (
            {"accumulation_steps": 2, "decay_start": 6},  # the schedule counts updates
            {
                "optimizer.gradient_accumulation_steps": 2,
                "schedule.steps": 4,
                "schedule.warmup_steps": 1,
                "schedule.decay_start": 3,
            },
        ),
        (
            {"loss": {"normalize_by": "all_pixels", "dice_weight": 0.5}},
            {"loss.normalize_by": "all_pixels", "loss.dice_weight": 0.5},
        ),
        ({"loss": {"ignore_index": 3}}, {"loss.ignore_index": 3}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_field_of_the_recipe_reaches_optimizer_or_loss(model, change, expected):
    trainer.compile_model(model, RECIPE)
    before = settings(model)
    trainer.compile_model(model, replace(RECIPE, **change))
    after = settings(model)
    assert {name: value for name, value in after.items() if value != before[name]} == expected


@pytest.mark.parametrize("jit_compile", [True, False])
def test_model_is_compiled_as_wanted_with_an_optimizer_that_is_built(model, jit_compile):
    trainer.compile_model(model, RECIPE, jit_compile=jit_compile)
    assert model.jit_compile is jit_compile
    assert model.optimizer.built  # else the first step of `fit` is traced twice
