"""CamVid, 11 classes, 480x360: B0 from random weights, the origin of the embedded `camvid-b0`.

Command: tf-segformer train --recipe camvid-b0 --data CamVid
Hardware: one thread of an AMD EPYC processor, about two hours.
Score to expect (validation mIoU): about 58 on whole images of 480x360, 62 on images resized to 512x384.
Source: own run; the curve is in `tf_segformer/embedded/camvid-b0/README.md`.
"""

from __future__ import annotations

from tf_segformer.data.augmentation import Augmentation
from tf_segformer.training.recipes import Phase, Recipe


def _mild(side: int, scale_range: tuple[float, float]) -> Augmentation:
    """Weak distortion: a network without ImageNet's weights has enough to learn."""
    return Augmentation((side, side), scale_range=scale_range, brightness=24.0, contrast=0.3, saturation=0.3, hue=6.0)


# In the end the network knows CamVid's cameras too well: strong distortion for streets that it never saw.
_STRONG = Augmentation((224, 224), scale_range=(0.5, 2.0), brightness=48.0, contrast=0.5, saturation=0.6, hue=18.0)

# (median share / share) ** 0.25 of the pixels of each class in the training images
_CLASS_WEIGHTS = (0.7, 0.67, 1.45, 0.63, 1.0, 0.84, 1.4, 1.4, 0.95, 1.6, 2.0)

RECIPES = (
    Recipe(
        name="camvid-b0",
        variant="b0",
        dataset="camvid",
        phases=(
            Phase(4_000, 8, _mild(160, (0.3, 1.1))),
            Phase(4_000, 8, _mild(192, (0.4, 1.3))),
            Phase(1_500, 8, _STRONG),
        ),
        learning_rate=1e-3,
        warmup_steps=300,
        decay_start=3_000,
        weight_decay=0.05,
        head_lr_multiplier=1.0,
        clip_norm=5.0,
        ema_momentum=0.995,
        loss={"class_weights": _CLASS_WEIGHTS, "dice_weight": 0.5},
        model={"drop_path_rate": 0.0, "classifier_dropout_prob": 0.0},
        validate_every=500,
    ),
)
