"""Trains Hugging Face PyTorch and this project side by side: same weights, same batches, same recipe.

    python -m tests.training.parity                                  # 30 steps of B0 on random images
    python -m tests.training.parity --camvid CamVid --steps 300      # CamVid: mIoU and time a step

Prints both columns. Needs the extra "parity".
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tf_segformer.evaluation.confusion import confusion_matrix, metrics_from_confusion

PEAK_RATE, WEIGHT_DECAY, HEAD_FACTOR, WARMUP = 6e-5, 0.01, 10.0, 5
_BIAS_BEFORE_NORM = re.compile(r"decode_head.(linear_c|linear_projections).*bias$")  # transformers 4, 5; Keras


@dataclass
class Track:
    """What one side did: the loss and the seconds of every step, and its batch norm statistics at the end."""

    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    moving_mean: np.ndarray | None = None
    moving_variance: np.ndarray | None = None


def make_pair(num_labels: int, folder: str, seed: int = 0, peak: float = PEAK_RATE, steps: int = 30):
    """A PyTorch and a Keras B0 with the same weights and without dropout, each with its optimizer.

    The biases before the batch norm are frozen on both sides: it takes them out again, so their gradient is nothing but
    rounding, which Adam turns into steps of full size.
    """
    import torch
    import transformers

    from tf_segformer import SegformerForSemanticSegmentation
    from tf_segformer.training.losses import SegmentationLoss
    from tf_segformer.training.optimization import create_optimizer

    torch.manual_seed(seed)
    config = transformers.SegformerConfig(num_labels=num_labels, drop_path_rate=0.0, classifier_dropout_prob=0.0)
    theirs = transformers.SegformerForSemanticSegmentation(config)
    theirs.save_pretrained(folder)
    theirs.train()
    for name, parameter in theirs.named_parameters():
        parameter.requires_grad = not _BIAS_BEFORE_NORM.search(name)

    ours = SegformerForSemanticSegmentation.from_pretrained(folder)
    for variable in ours.trainable_variables:
        if _BIAS_BEFORE_NORM.search(variable.path):
            variable.trainable = False
    warmup = min(WARMUP, steps)
    optimizer = create_optimizer(
        peak, steps, warmup_steps=warmup, weight_decay=WEIGHT_DECAY, head_lr_multiplier=HEAD_FACTOR
    )
    ours.compile(optimizer, loss=SegmentationLoss(), jit_compile=False)
    return theirs, make_torch_optimizer(theirs, peak), ours


def make_torch_optimizer(model, peak: float):
    """AdamW with the recipe's groups: the head at ten times the rate, no decay of what is named a norm."""
    import torch

    groups = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_head, is_norm = name.startswith("decode_head"), "norm" in name
        groups.setdefault((is_head, is_norm), []).append(parameter)
    settings = [
        {
            "params": parameters,
            "lr": peak * (HEAD_FACTOR if is_head else 1.0),
            "weight_decay": 0.0 if is_norm else WEIGHT_DECAY,
        }
        for (is_head, is_norm), parameters in groups.items()
    ]
    return torch.optim.AdamW(settings, betas=(0.9, 0.999), eps=1e-8)


def train_torch(model, optimizer, batches: Iterable[tuple[np.ndarray, np.ndarray]], steps: int) -> Track:
    """PyTorch's training loop, with the schedule of `create_optimizer`."""
    import torch

    warmup = min(WARMUP, steps)
    peaks = [group["lr"] for group in optimizer.param_groups]
    track = Track()
    for step, (images, labels) in enumerate(batches):
        start = time.perf_counter()
        factor = (1 - step / steps) * min(1 - (1 - step / warmup) * (1 - 1e-6), 1.0)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * factor
        optimizer.zero_grad()
        pixel_values = torch.tensor(images).permute(0, 3, 1, 2).contiguous()
        loss = model(pixel_values=pixel_values, labels=torch.tensor(labels).long()).loss
        loss.backward()
        optimizer.step()
        track.losses.append(float(loss.detach()))
        track.seconds.append(time.perf_counter() - start)
    norm = model.decode_head.batch_norm
    track.moving_mean, track.moving_variance = norm.running_mean.numpy(), norm.running_var.numpy()
    return track


def train_keras(model, batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> Track:
    """The same through Keras' own training step."""
    import keras

    track = Track()
    for images, labels in batches:
        start = time.perf_counter()
        model.reset_metrics()
        track.losses.append(float(model.train_on_batch(images, labels)))
        track.seconds.append(time.perf_counter() - start)
    (norm,) = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    track.moving_mean, track.moving_variance = norm.moving_mean.numpy(), norm.moving_variance.numpy()
    return track


def random_batches(steps: int, size: int, num_labels: int, batch_size: int = 2):
    """Smooth random images whose labels follow their colors, a tenth of them ignored."""
    rng = np.random.default_rng(0)
    for _ in range(steps):
        images = rng.normal(size=(batch_size, size // 16, size // 16, 3)).repeat(16, axis=1).repeat(16, axis=2)
        labels = np.digitize(images[..., 0], np.linspace(-2, 2, num_labels - 1)).astype("int32")
        labels[rng.random(labels.shape) < 0.1] = 255
        images = images + 0.3 * rng.normal(size=images.shape)
        yield images.astype("float32"), labels


def compare_steps(steps: int = 30, size: int = 96, num_labels: int = 7) -> tuple[Track, Track]:
    """Both sides over the same random batches: (PyTorch, Keras)."""
    with tempfile.TemporaryDirectory() as folder:
        theirs, optimizer, ours = make_pair(num_labels, folder, steps=steps)
        reference = train_torch(theirs, optimizer, random_batches(steps, size, num_labels), steps)
        return reference, train_keras(ours, random_batches(steps, size, num_labels))


def compare_camvid(folder: str, steps: int, crop: int, batch_size: int, peak: float) -> None:
    """Both sides on the same batches of CamVid; prints time a step and validation mIoU."""
    import torch

    from tf_segformer import SegformerImageProcessor
    from tf_segformer.data import Augmentation, find_dataset, training_dataset, validation_dataset

    train_data, val_data = (find_dataset("camvid", folder, split) for split in ("train", "val"))
    processor = SegformerImageProcessor(do_resize=False)

    def batches():
        dataset = training_dataset(
            train_data, Augmentation((crop, crop)), batch_size, processor=processor, last_step=steps
        )
        return ((images.numpy(), labels.numpy()) for images, labels in dataset)

    with tempfile.TemporaryDirectory() as checkpoint:
        theirs, optimizer, ours = make_pair(val_data.num_labels, checkpoint, peak=peak, steps=steps)
        reference = train_torch(theirs, optimizer, batches(), steps)
        track = train_keras(ours, batches())
    theirs.eval()
    counts = np.zeros((2, val_data.num_labels, val_data.num_labels), np.int64)
    for images, labels in validation_dataset(val_data, processor=processor):
        images, labels = images.numpy(), labels.numpy()
        with torch.no_grad():
            logits = theirs(pixel_values=torch.tensor(images).permute(0, 3, 1, 2)).logits
        for side, values in enumerate((logits, torch.tensor(np.array(ours(images))).permute(0, 3, 1, 2))):
            resized = torch.nn.functional.interpolate(values, size=labels.shape[1:], mode="bilinear")
            counts[side] += confusion_matrix(labels, resized.argmax(1).numpy(), val_data.num_labels)
    scores = [metrics_from_confusion(each) for each in counts]
    print(f"CamVid, B0 from the same random weights, {steps} steps, batch {batch_size}, crops of {crop}, no dropout")
    print(f"{'':<30}{'HF PyTorch':>12}{'this project':>14}")
    rows = {
        "milliseconds a step (median)": [1000 * np.median(each.seconds) for each in (reference, track)],
        "loss, last 20 steps": [np.mean(each.losses[-20:]) for each in (reference, track)],
        "validation mIoU, %": [100 * each["mIoU"] for each in scores],
        "pixel accuracy, %": [100 * each["aAcc"] for each in scores],
    }
    for name, (one, other) in rows.items():
        print(f"{name:<30}{one:>12.3f}{other:>14.3f}")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camvid", help="folder of CamVid: train on it instead of random images")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--crop", type=int, default=192)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    arguments = parser.parse_args()
    if arguments.camvid:
        compare_camvid(arguments.camvid, arguments.steps, arguments.crop, arguments.batch_size, arguments.learning_rate)
        return
    reference, track = compare_steps(arguments.steps)
    print(f"{'step':>4}{'HF PyTorch':>14}{'this project':>14}{'relative':>12}")
    for step, (one, other) in enumerate(zip(reference.losses, track.losses, strict=True)):
        print(f"{step:>4}{one:>14.6f}{other:>14.6f}{abs(one - other) / one:>12.1e}")
    for name in ("moving_mean", "moving_variance"):
        one, other = getattr(reference, name), getattr(track, name)
        print(f"batch norm {name}: largest difference {abs(one - other).max():.1e} of {abs(one).max():.3g}")
    medians = [1000 * np.median(each.seconds) for each in (reference, track)]
    print("milliseconds a step (median): HF PyTorch {:.0f}, this project {:.0f}".format(*medians))


if __name__ == "__main__":
    main()
