"""CamVid, 11 classes, 480x360: B0 from random weights, the origin of the embedded `camvid-b0`."""

from __future__ import annotations

from tf_segformer.training.augmentation import Augmentation
from tf_segformer.training.recipes import Phase, Recipe


def _augmentation(side: int, scale_range: tuple[float, float]) -> Augmentation:
    return Augmentation(crop_size=(side, side), scale_range=scale_range)


# sqrt(median share / share) of the pixels of each class in the training pictures
_CLASS_WEIGHTS = (0.5, 0.45, 2.1, 0.4, 1.0, 0.7, 2.0, 2.0, 0.9, 2.6, 3.9)

CAMVID_B0 = Recipe(
    name="camvid-b0",
    variant="b0",
    dataset="camvid",
    phases=(
        Phase(10_000, 8, _augmentation(160, (0.3, 1.2))),
        Phase(10_000, 8, _augmentation(256, (0.5, 1.75))),
    ),
    learning_rate=1e-3,
    warmup_steps=500,
    decay_start=14_000,
    weight_decay=0.05,
    head_rate_factor=1.0,
    clip_norm=1.0,
    ema_momentum=0.999,
    loss={"class_weights": _CLASS_WEIGHTS, "dice_weight": 0.5},
    model={"drop_path_rate": 0.05},
    validate_every=1000,
)

RECIPES = (CAMVID_B0,)
