"""RunLog: what a run reports: progress, log.csv, TensorBoard with example predictions, and an image of the curves."""

from __future__ import annotations

import csv
import io
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from PIL import Image

from tf_segformer.imaging.visualize import draw_comparison
from tf_segformer.io import atomic_write

CSV_NAME, CURVES_NAME, TENSORBOARD_NAME = "log.csv", "curves.png", "tensorboard"
_SCALAR, _BLOB_SEQUENCE = 1, 3  # TensorBoard's data classes


class RunLog:
    """The log of one run; its rows travel in the training state, so that a resumed run has them all.

    Args:
        folder: Folder of the run.
        class_names: Class names by index.
        rows: The rows so far.
        writes: Whether it writes and prints; of several processes that train together only the first does.

    Example:
        >>> RunLog("runs/camvid", ["road", "sky"], []).best is None
        True
    """

    def __init__(
        self, folder: str | Path, class_names: Sequence[str], rows: list[dict[str, Any]], writes: bool = True
    ) -> None:
        self.folder, self.class_names, self.rows = Path(folder), list(class_names), list(rows)
        self._writer = tf.summary.create_file_writer(str(self.folder / TENSORBOARD_NAME)) if writes else None
        self._shown = 0.0

    @property
    def best(self) -> dict[str, Any] | None:
        """The row with the highest mIoU, or None before the first validation."""
        return max(self.rows, key=lambda row: row["mIoU"], default=None)

    def progress(self, step: int, steps: int, loss: float) -> None:
        """Shows the step on one line that is written over, at most twice a second; silent where nobody watches."""
        if self._writer is None or not sys.stderr.isatty() or time.monotonic() - self._shown < 0.5:
            return
        self._shown = time.monotonic()
        bar = f"\r[{'=' * (30 * step // steps):<30}] step {step}/{steps}  loss {loss:.4f} "
        print(bar, end="", file=sys.stderr, flush=True)

    def add(self, step: int, loss: float, rates: dict[str, float], speed: float, metrics: dict[str, Any]) -> bool:
        """Adds a validation to every log.

        Args:
            step: Batches so far.
            loss: Mean training loss since the last validation.
            rates: Learning rates by name.
            speed: Training images per second.
            metrics: What `Validation` returned.

        Returns:
            Whether its mIoU is the best so far.

        Example:
            >>> log.add(500, 0.7, {"learning_rate": 6e-5}, 12.0, metrics)
            step 500: loss 0.7000, ...
            True
        """
        row = {
            "step": step,
            **rates,
            "loss": float(loss),
            "val_loss": metrics["loss"],
            "mIoU": metrics["mIoU"],
            "aAcc": metrics["aAcc"],
            "images_per_second": speed,
            **{f"IoU {name}": float(iou) for name, iou in zip(self.class_names, metrics["IoU"], strict=True)},
        }
        is_best = self.best is None or row["mIoU"] > self.best["mIoU"]
        self.rows.append(row)
        if self._writer is not None:
            self._write_csv()
            self._write_tensorboard(self._writer, row, metrics["examples"])
            self._print(row, is_best)
        return is_best

    def finish(self) -> None:
        """Closes the logs and draws the image of the curves."""
        if self._writer is not None:
            self._writer.close()
            draw_curves(self.rows, self.class_names, self.folder / CURVES_NAME)

    def _write_csv(self) -> None:
        """Rewrites log.csv."""
        with atomic_write(self.folder / CSV_NAME) as partial, partial.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(self.rows[0])
            for row in self.rows:
                writer.writerow([f"{value:.6g}" if isinstance(value, float) else value for value in row.values()])

    def _write_tensorboard(self, writer: Any, row: dict[str, Any], examples: Sequence[tuple[Any, Any, Any]]) -> None:
        with writer.as_default(step=row["step"]):
            for name, value in row.items():
                _write_summary(name.replace(" ", "/"), "scalars", _SCALAR, tf.constant(value, tf.float32))
            for index, (image, prediction, target) in enumerate(examples):
                drawing = draw_comparison(image, prediction, target, self.class_names)
                size = [str(side).encode() for side in drawing.size]
                blobs = tf.constant([*size, _as_png(drawing)])
                _write_summary(f"examples/{index}", "images", _BLOB_SEQUENCE, blobs)
        writer.flush()

    def _print(self, row: dict[str, Any], is_best: bool) -> None:
        print(
            f"step {row['step']}: loss {row['loss']:.4f}, val loss {row['val_loss']:.4f}, "
            f"mIoU {100 * row['mIoU']:.2f}{' (best)' if is_best else ''}, {row['images_per_second']:.1f} images/s"
        )
        print("  " + "  ".join(f"{name} {100 * row[f'IoU {name}']:.1f}" for name in self.class_names), flush=True)


def draw_curves(rows: Sequence[dict[str, Any]], class_names: Sequence[str], path: str | Path) -> None:
    """Draws losses, mIoU, IoU of each class (up to 20 classes) and learning rates over the steps; one row is enough.

    Args:
        rows: Rows of a `RunLog`.
        class_names: Class names by index.
        path: PNG file to write.

    Example:
        >>> draw_curves(log.rows, log.class_names, "curves.png")
    """
    from matplotlib.figure import Figure  # a second that a run spends at its end

    steps = [row["step"] for row in rows]
    figure = Figure(figsize=(11, 8), layout="constrained")
    ((losses, metrics), (classes, rates)) = figure.subplots(2, 2)
    for name, label in (("loss", "training"), ("val_loss", "validation")):
        losses.plot(steps, [row[name] for row in rows], label=label, marker=".")
    losses.set(title="Loss", xlabel="step")
    losses.legend()
    for name, label in (("mIoU", "mean IoU"), ("aAcc", "pixel accuracy")):
        metrics.plot(steps, [100 * row[name] for row in rows], label=label, marker=".")
    metrics.set(title="Validation metrics", xlabel="step", ylabel="%", ylim=(0, 100))
    metrics.legend(loc="lower right")
    shown = class_names if len(class_names) <= 20 else []
    for index, name in enumerate(shown):
        style = "-" if index < 10 else "--"  # matplotlib has ten colors
        classes.plot(steps, [100 * row[f"IoU {name}"] for row in rows], style, marker=".", label=name)
    classes.set(title="Validation IoU by class", xlabel="step", ylabel="%", ylim=(0, 100))
    if shown:
        classes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    for name, label in (("learning_rate", "encoder"), ("head_learning_rate", "head")):
        rates.plot(steps, [row[name] for row in rows], label=label, marker=".")
    rates.set(title="Learning rate", xlabel="step")
    rates.legend()
    for axes in figure.axes:
        axes.locator_params(axis="x", integer=True)
    figure.savefig(path, dpi=110)


def _write_summary(tag: str, plugin: str, data_class: int, value: tf.Tensor) -> None:
    """`tf.summary.scalar` and `.image` without the package tensorboard, which they need even to write."""
    plugin_data = tf.compat.v1.SummaryMetadata.PluginData(plugin_name=plugin)
    metadata = tf.compat.v1.SummaryMetadata(plugin_data=plugin_data, data_class=data_class)
    tf.summary.write(tag, value, metadata=metadata)


def _as_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
