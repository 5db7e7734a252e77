"""ADE20K, 150 classes, as published.

Command: tf-segformer train --recipe ade20k-b0 --data ADEChallengeData2016 --init nvidia/mit-b0
Hardware: the paper trained on 8 Tesla V100 with batch 16, synchronized batch norm and no other post-processing.
Score to expect (validation mIoU, single scale, whole image): B0 37.4, B1 42.2, B2 46.5, B3 49.4, B4 50.3, B5 51.0.
Source: Xie et al. 2021, https://arxiv.org/abs/2105.15203, section 4.1 and table 1 (B5 with crops of 640). The scores
need the encoder's ImageNet weights; this project has not repeated the runs.
"""

from __future__ import annotations

from tf_segformer.data.augmentation import Augmentation
from tf_segformer.training.recipes import Phase, Recipe


def _recipe(variant: str) -> Recipe:
    side = 640 if variant == "b5" else 512
    augmentation = Augmentation(crop_size=(side, side), base_size=(side, 2048))
    return Recipe(
        name=f"ade20k-{variant}",
        variant=variant,
        dataset="ade20k",
        phases=(Phase(160_000, 16, augmentation),),
        initial_weights=f"nvidia/mit-{variant}",
        loss={"normalize_by": "all_pixels"},  # as the authors' code divides
        validate_every=16_000,
    )


RECIPES = tuple(_recipe(f"b{index}") for index in range(6))
