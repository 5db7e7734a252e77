"""Cityscapes, 19 classes, as published.

Command: tf-segformer train --recipe cityscapes-b0 --data cityscapes --init nvidia/mit-b0
Hardware: the paper trained on 8 Tesla V100 with batch 8, crops of 1024x1024.
Score to expect (validation mIoU, single scale, sliding windows of 1024 with stride 768): B0 76.2, B1 78.5, B2 81.0,
B3 81.7, B4 82.3, B5 82.4. The command validates whole images; `tf-segformer evaluate` measures with sliding windows.
Source: Xie et al. 2021, https://arxiv.org/abs/2105.15203, section 4.1 and table 1. The scores need the encoder's
ImageNet weights; this project has not repeated the runs.
"""

from __future__ import annotations

from tf_segformer.data.augmentation import Augmentation
from tf_segformer.training.recipes import Phase, Recipe


def _recipe(variant: str) -> Recipe:
    augmentation = Augmentation(crop_size=(1024, 1024), base_size=(1024, 2048))
    return Recipe(
        name=f"cityscapes-{variant}",
        variant=variant,
        dataset="cityscapes",
        phases=(Phase(160_000, 8, augmentation),),
        initial_weights=f"nvidia/mit-{variant}",
        loss={"normalize_by": "all_pixels"},  # as the authors' code divides
        validate_every=16_000,
    )


RECIPES = tuple(_recipe(f"b{index}") for index in range(6))
