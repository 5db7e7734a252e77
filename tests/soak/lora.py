"""Adapters against full fine-tuning on a changed task: python -m tests.soak.lora CAMVID WORK [STEPS].

The task is CamVid with five classes made of the eleven, on images of half the size, as negatives, so that neither the
classifier nor the features of camvid-b0 fit. The adapters (rank 8) are to reach 95 % of the mIoU of full fine-tuning
with 3 % of the parameters at most, and the checkpoint of the adapted model gives its outputs bit by bit. WORK keeps
what was trained and found, and a run that was stopped goes on with the next variant. Prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from tf_segformer import SegformerForSemanticSegmentation, SegformerImageProcessor, losses, metrics, optimization

CLASSES = ("sky", "building", "road", "vegetation", "object")
OF_CAMVID = np.array([0, 1, 4, 2, 2, 3, 4, 4, 4, 4, 4, 255])  # of the eleven classes and the unlabelled
SIZE = (240, 176)  # width and height
BATCH = 4
PEAK = {"full": 6e-4, "lora": 1e-2}


def read_split(folder: Path, processor: SegformerImageProcessor) -> tuple[np.ndarray, np.ndarray]:
    """Pixel values (N, H, W, 3) and labels (N, H, W) of a split."""
    images, labels = [], []
    for path in sorted((folder / "images").iterdir()):
        images.append(255 - np.asarray(Image.open(path).convert("RGB").resize(SIZE, Image.Resampling.BOX)))
        label_map = Image.open(folder / "labels" / f"{path.stem}.png").resize(SIZE, Image.Resampling.NEAREST)
        labels.append(OF_CAMVID[np.asarray(label_map)])
    return np.asarray(processor(images)["pixel_values"]), np.stack(labels)


def train(variant: str, data: Path, work: Path, steps: int) -> dict:
    """Trains one variant and measures it."""
    keras.utils.set_random_seed(0)
    processor = SegformerImageProcessor.from_pretrained("camvid-b0", do_resize=False)
    model = SegformerForSemanticSegmentation.from_pretrained(
        "camvid-b0", id2label=dict(enumerate(CLASSES)), ignore_mismatched_sizes=True
    )
    if variant == "lora":
        # with attention alone, as by default, 90 % of full fine-tuning's mIoU are reached
        layers = ("attention/query", "attention/value", "mlp/dense_1")
        model.enable_lora(8, layers, also_train=("classifier", "norm"))
    optimizer = optimization.create_optimizer(PEAK[variant], steps, warmup_steps=steps // 10, head_lr_multiplier=1.0)
    model.compile(optimizer, losses.SegmentationLoss(), metrics=[metrics.MeanIoU(len(CLASSES))], jit_compile=False)
    pixel_values, labels = read_split(data / "train", processor)
    batches = tf.data.Dataset.from_tensor_slices((pixel_values, labels)).shuffle(len(labels), seed=0).repeat()
    start = time.process_time()
    model.fit(batches.batch(BATCH), steps_per_epoch=steps, shuffle=False, verbose=2)
    seconds = time.process_time() - start
    pixel_values, labels = read_split(data / "val", processor)
    found = model.evaluate(pixel_values, labels, batch_size=1, verbose=0, return_dict=True)
    result = {
        "mIoU": found["mean_iou"],
        "parameters": sum(int(np.prod(each.shape)) for each in model.trainable_variables),
        "seconds": round(seconds),
    }
    if variant == "lora":
        result |= round_trips(model, pixel_values[:1], work)
    return result


def round_trips(model: keras.Model, pixel_values: np.ndarray, work: Path) -> dict:
    """Whether the merged checkpoint gives the outputs of the adapted model bit by bit, and how large the adapter is."""
    model.save_pretrained(work / "merged")
    model.save_lora(work / "adapter", base_model="camvid-b0")
    merged = SegformerForSemanticSegmentation.from_pretrained(work / "merged")
    return {
        "merged_is_equal": bool((np.asarray(merged(pixel_values)) == np.asarray(model(pixel_values))).all()),
        "adapter_bytes": (work / "adapter" / "adapter_model.safetensors").stat().st_size,
    }


def main(data: Path, work: Path, steps: int) -> None:
    """Trains both variants, unless WORK has their results."""
    work.mkdir(parents=True, exist_ok=True)
    results = {}
    for variant in PEAK:
        path = work / f"{variant}-{steps}.json"
        if not path.exists():
            path.write_text(json.dumps(train(variant, data, work, steps)))
        results[variant] = json.loads(path.read_text())
    full, lora = results["full"], results["lora"]
    fractions = {name: round(lora[name] / full[name], 4) for name in ("mIoU", "parameters")}
    passed = fractions["mIoU"] >= 0.95 and fractions["parameters"] <= 0.03 and lora["merged_is_equal"]
    print(json.dumps({**results, "lora_of_full": fractions, "passed": passed}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 300)
