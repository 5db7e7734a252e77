"""CamVid, 11 classes, 480x360: B0 from random weights in three stages, the origin of the embedded `camvid-b0`.

Commands: tf-segformer train --recipe camvid-b0-start --data CamVid, stopped after step 5,000; then
    tf-segformer train --recipe camvid-b0-middle --data CamVid --init runs/camvid-b0-start/best; then
    tf-segformer train --recipe camvid-b0 --data CamVid --init runs/camvid-b0-middle/best
Hardware: one thread of an AMD EPYC processor shared with others, two hours by the clock, about one of processor time.
Score to expect (validation mIoU, whole pictures of 480x360): about 31 after the first stage, 57 after the second and 58
after the third, which is there for streets of other cities.
Source: own runs; the curve is in `tf_segformer/pretrained/camvid-b0/README.md`.
"""

from __future__ import annotations

from dataclasses import replace

from tf_segformer.training.augmentation import Augmentation
from tf_segformer.training.recipes import Phase, Recipe


def _start(side: int, scale_range: tuple[float, float]) -> Augmentation:
    return Augmentation(crop_size=(side, side), scale_range=scale_range)


def _mild(side: int, scale_range: tuple[float, float]) -> Augmentation:
    """Weaker distortion: a network without ImageNet's weights has enough to learn."""
    return Augmentation((side, side), scale_range=scale_range, brightness=24.0, contrast=0.3, saturation=0.3, hue=6.0)


# (median share / share) ** power of the pixels of each class in the training pictures
_POWER_HALF = (0.5, 0.45, 2.1, 0.4, 1.0, 0.7, 2.0, 2.0, 0.9, 2.6, 3.9)
_POWER_QUARTER = (0.7, 0.67, 1.45, 0.63, 1.0, 0.84, 1.4, 1.4, 0.95, 1.6, 2.0)

_START = Recipe(
    name="camvid-b0-start",
    variant="b0",
    dataset="camvid",
    phases=(
        Phase(10_000, 8, _start(160, (0.3, 1.2))),
        Phase(10_000, 8, _start(256, (0.5, 1.75))),
    ),
    learning_rate=1e-3,
    warmup_steps=500,
    decay_start=14_000,
    weight_decay=0.05,
    head_rate_factor=1.0,
    clip_norm=1.0,
    ema_momentum=0.999,
    loss={"class_weights": _POWER_HALF, "dice_weight": 0.5},
    model={"drop_path_rate": 0.05},
    validate_every=1000,
)

_MIDDLE = Recipe(
    name="camvid-b0-middle",
    variant="b0",
    dataset="camvid",
    phases=(
        Phase(2_500, 8, _mild(192, (0.4, 1.1))),
        Phase(2_000, 8, _mild(224, (0.7, 1.5))),
    ),
    learning_rate=1e-3,
    warmup_steps=100,
    decay_start=1_500,
    weight_decay=0.05,
    head_rate_factor=1.0,
    clip_norm=5.0,
    ema_momentum=0.995,
    loss={"class_weights": _POWER_QUARTER, "dice_weight": 0.5},
    model={"drop_path_rate": 0.0, "classifier_dropout_prob": 0.0},
    initial_weights="runs/camvid-b0-start/best",
    validate_every=500,
)

# The middle stage comes to know CamVid's cameras too well: strong distortion for streets that they never saw.
_STRONG = Augmentation((224, 224), scale_range=(0.5, 2.0), brightness=48.0, contrast=0.5, saturation=0.6, hue=18.0)

_FINISH = replace(
    _MIDDLE,
    name="camvid-b0",
    phases=(Phase(600, 8, _STRONG),),
    learning_rate=5e-4,
    warmup_steps=30,
    decay_start=0,
    ema_momentum=0.99,
    initial_weights="runs/camvid-b0-middle/best",
    validate_every=200,
)

RECIPES = (_START, _MIDDLE, _FINISH)
