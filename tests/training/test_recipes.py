"""Recipes: those of the paper, by name and from files, and what changes them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.training.runs import CROPS, RECIPE
from tf_segformer.errors import SegformerError
from tf_segformer.training.recipes import Phase, Recipe, known_recipes, load_recipe


def test_recipes_are_those_of_the_paper():
    recipes = known_recipes()
    names = {f"{data}-b{i}" for data in ("ade20k", "cityscapes", "finetune") for i in range(6)}
    assert names | {"camvid-b0"} <= set(recipes)
    for variant in ("b0", "b5"):
        ade = recipes[f"ade20k-{variant}"]
        assert (ade.steps, ade.phases[0].batch_size, ade.learning_rate, ade.weight_decay) == (160_000, 16, 6e-5, 0.01)
        assert (ade.warmup_steps, ade.power, ade.head_lr_multiplier) == (1500, 1.0, 10.0)
        assert ade.loss == {"normalize_by": "all_pixels"}
    assert recipes["ade20k-b4"].phases[0].augmentation.crop_size == (512, 512)
    assert recipes["ade20k-b5"].phases[0].augmentation.crop_size == (640, 640)
    cityscapes = recipes["cityscapes-b3"].phases[0]
    assert (cityscapes.batch_size, cityscapes.augmentation.crop_size) == (8, (1024, 1024))
    assert cityscapes.augmentation.base_size == (1024, 2048) and cityscapes.steps == 160_000
    assert recipes["ade20k-b4"].phases[0].augmentation.base_size == (512, 2048)
    assert recipes["ade20k-b5"].phases[0].augmentation.base_size == (640, 2048)


def test_the_embedded_weights_recipe_is_the_one_that_made_them():
    recipe = load_recipe("camvid-b0")
    assert [(phase.steps, phase.batch_size, phase.augmentation.crop_size) for phase in recipe.phases] == [
        (4_000, 8, (160, 160)),
        (4_000, 8, (192, 192)),
        (1_500, 8, (224, 224)),
    ]
    schedule = (recipe.learning_rate, recipe.warmup_steps, recipe.decay_start, recipe.weight_decay)
    assert schedule == (1e-3, 300, 3_000, 0.05)
    assert (recipe.head_lr_multiplier, recipe.clip_norm, recipe.ema_momentum) == (1.0, 5.0, 0.995)
    assert set(recipe.loss) == {"class_weights", "dice_weight"} and recipe.loss["dice_weight"] == 0.5


TWO_PHASES = Recipe("x", "b0", "folder", (Phase(300, 2, CROPS), Phase(100, 4, CROPS)), warmup_steps=40, decay_start=200)


def test_recipe_scales_every_phase_with_the_steps():
    short = TWO_PHASES.with_steps(40)
    assert [phase.steps for phase in short.phases] == [30, 10]
    assert (short.warmup_steps, short.decay_start, short.steps) == (4, 20, 40)
    assert [phase.steps for phase in TWO_PHASES.with_steps(2).phases] == [1, 1]
    with pytest.raises(ValueError, match="steps=1"):
        TWO_PHASES.with_steps(1)


def test_images_are_counted_over_phases_of_other_batch_sizes():
    assert [TWO_PHASES.images_before(step) for step in (0, 1, 300, 301, 400)] == [0, 2, 600, 604, 1000]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, RECIPE),
        ({"learning_rate": 1.0, "seed": 5}, replace(RECIPE, learning_rate=1.0, seed=5)),
        ({"seed": 0}, RECIPE),
        ({"steps": 4}, RECIPE.with_steps(4)),
        ({"epochs": 8}, RECIPE.with_steps(12)),  # eight passes over three images, two per step
        ({"epochs": 1}, RECIPE.with_steps(2)),  # at least one step per phase
        (
            {"epochs": 8, "batch_size": 4},
            replace(RECIPE, phases=tuple(replace(phase, batch_size=4) for phase in RECIPE.phases)).with_steps(6),
        ),
    ],
    ids=str,
)
def test_options_take_the_place_of_what_the_recipe_says(options, expected):
    assert RECIPE.with_options(train_size=3, **options) == expected


def test_epochs_and_steps_exclude_each_other():
    with pytest.raises(ValueError, match="epochs and steps"):
        RECIPE.with_options(train_size=3, epochs=1, steps=1)


def test_recipe_of_a_file_is_read_and_a_wrong_one_named(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from tf_segformer.data import Augmentation\n"
        "from tf_segformer.training.recipes import Phase, Recipe\n"
        "RECIPE = Recipe('mine', 'b0', 'folder', (Phase(1, 1, Augmentation((8, 8))),))\n"
    )
    assert load_recipe(path).name == "mine"
    path.write_text("X = 1")
    with pytest.raises(SegformerError, match=r"mine\.py: defines no RECIPE"):
        load_recipe(path)
    with pytest.raises(SegformerError, match="no recipe 'unknown'"):
        load_recipe("unknown")
