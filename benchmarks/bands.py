"""Whether a checkpoint of RGB learns as well on five bands of 16 bits: validation mIoU of both after the same steps.

    python -m benchmarks.bands CAMVID                       # 200 steps of 4 crops of 192 x 192
    python -m benchmarks.bands CAMVID --start encoder       # the head initialized again, so that there is more to learn

The five bands are written as .npy: RGB times 257, their mean in 12 bits with noise (a fourth sensor of another range),
and noise alone. camvid-b0 keeps its first kernel for RGB and begins at 0 for the others; the bands' range, mean and std
are found by the training run. Seed, order of the images and crops are the same for both.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from PIL import Image

from benchmarks.harness import report

CHECKPOINT = "camvid-b0"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("camvid", type=Path, help="folder of CamVid, {train,val}/{images,labels}")
    parser.add_argument("--start", choices=("checkpoint", "encoder"), default="checkpoint")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--crop", type=int, default=192)
    parser.add_argument("--every", type=int, default=1, help="measure on every n-th validation image")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        write_five_bands(arguments.camvid, Path(work, "bands"))
        rows = [_trained(name, root, Path(work, "runs", name), arguments)
                for name, root in (("RGB", arguments.camvid), ("five bands", Path(work, "bands")))]  # fmt: skip
    notes = (
        f"Validation mIoU, every {arguments.every}. image. {report.machine([{'tensorflow': version('tensorflow')}])}"
    )
    title = f"{CHECKPOINT} ({arguments.start}), {arguments.steps} steps of {arguments.batch_size} x {arguments.crop}^2"
    report.publish("bands", [report.Table(title, rows, notes)])


def write_five_bands(camvid: Path, root: Path) -> None:
    """Writes the images as (H, W, 5) uint16, and the labels as they are."""
    for split in ("train", "val"):
        (root / split / "images").mkdir(parents=True)
        (root / split / "labels").symlink_to((camvid / split / "labels").resolve())
        for number, path in enumerate(sorted((camvid / split / "images").iterdir())):
            random = np.random.default_rng(number)
            with Image.open(path) as image:
                rgb = np.asarray(image.convert("RGB"), np.float64)
            gray = rgb.mean(axis=-1) * (4095 / 255) + random.normal(0, 200, rgb.shape[:2])
            noise = random.normal(20_000, 3_000, rgb.shape[:2])
            bands = np.dstack([rgb * 257, gray.clip(0, 4095), noise.clip(0, 65_535)])
            np.save(root / split / "images" / f"{path.stem}.npy", bands.astype(np.uint16))


def _trained(name: str, root: Path, run: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """The scores before and after training."""
    import keras

    from tf_segformer import SegformerForSemanticSegmentation, SegformerImageProcessor, losses
    from tf_segformer.data import Augmentation, find_dataset
    from tf_segformer.imaging.labels import LABELS
    from tf_segformer.training.images import fit_processor
    from tf_segformer.training.recipes import Phase, Recipe
    from tf_segformer.training.trainer import train
    from tf_segformer.training.validation import Validation

    classes = {label: index for index, label in enumerate(LABELS["camvid"])}  # 11, unlabelled, is ignored
    data = tuple(find_dataset("folder", root, split, class_of_value=classes) for split in ("train", "val"))
    data = (data[0], replace(data[1], examples=data[1].examples[:: arguments.every]))
    keras.utils.set_random_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the kernel is changed
        model = SegformerForSemanticSegmentation.from_pretrained(
            CHECKPOINT, num_channels=data[0].image_type.channels, ignore_mismatched_sizes=True, new_channels="zero"
        )
    if arguments.start == "encoder":
        model.decode_head.set_weights(SegformerForSemanticSegmentation(model.config).decode_head.get_weights())
    processor = SegformerImageProcessor.from_pretrained(CHECKPOINT, do_resize=False)
    processor = fit_processor(processor, data[0], given=False)
    recipe = Recipe(
        name=name,
        variant="b0",
        dataset="folder",
        phases=(Phase(arguments.steps, arguments.batch_size, Augmentation((arguments.crop,) * 2)),),
        warmup_steps=arguments.steps // 10,
        validate_every=arguments.steps,
    )
    model.compile("sgd", loss=losses.SegmentationLoss())  # the loss of the first validation
    before = Validation(model, data[1], processor)()
    after = train(recipe, data, run, model=model, processor=processor, check=False)
    return {
        "images": name,
        "mIoU before": round(100 * before["mIoU"], 2),
        "mIoU after": round(100 * after["mIoU"], 2),
    }


if __name__ == "__main__":
    main()
