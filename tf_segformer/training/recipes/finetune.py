"""Fine-tuning on a labelled folder of your own: images/ and labels/, matched by name.

Command: tf-segformer train --recipe finetune-b0 --data FOLDER --class-names road,car,tree --epochs 50
Hardware: any GPU with 8 GB for B0; `--batch-size`, `--precision bfloat16` and `--rematerialize` fit the larger ones.
Score to expect: depends on the data; there is no published one. The settings are those of the paper (Xie et al. 2021,
section 4.1) but for the shorter schedule and for crops from the images at their own size.
"""

from __future__ import annotations

from tf_segformer.data.augmentation import Augmentation
from tf_segformer.training.recipes import Phase, Recipe


def _recipe(variant: str) -> Recipe:
    return Recipe(
        name=f"finetune-{variant}",
        variant=variant,
        dataset="folder",
        phases=(Phase(8_000, 8, Augmentation(crop_size=(512, 512))),),
        warmup_steps=400,
        initial_weights=f"nvidia/mit-{variant}",
        validate_every=500,
    )


RECIPES = tuple(_recipe(f"b{index}") for index in range(6))
