"""RunLog: what a run tells: progress, log.csv, TensorBoard with example predictions, and a picture of the curves."""

from __future__ import annotations

import csv
import os
import time
from pathlib import Path
from typing import Any

import click
import tensorflow as tf

from tf_segformer.training.datasets import SegmentationDataset


class RunLog:
    """The log of one run; its rows travel in the training state, so that a resumed run has them all.

    Args:
        folder: Folder of the run.
        dataset: The validation split: class names and examples.
        rows: The rows so far.

    Example:
        >>> RunLog("runs/camvid", val_data, []).best is None  # doctest: +SKIP
        True
    """

    def __init__(self, folder: str | Path, dataset: SegmentationDataset, rows: list[dict[str, Any]]) -> None:
        self.folder, self.dataset, self.rows = Path(folder), dataset, list(rows)
        self._writer = tf.summary.create_file_writer(str(self.folder / "tensorboard"))
        self._shown = 0.0

    @property
    def best(self) -> dict[str, Any] | None:
        """The row with the highest mIoU, or None before the first validation."""
        return max(self.rows, key=lambda row: row["mIoU"], default=None)

    def progress(self, step: int, steps: int, loss: float) -> None:
        """Shows the step on one line that is written over, at most twice a second."""
        if not click.get_text_stream("stderr").isatty() or time.monotonic() - self._shown < 0.5:
            return
        self._shown = time.monotonic()
        filled = 30 * step // steps
        click.echo(f"\r[{'=' * filled:<30}] step {step}/{steps}  loss {loss:.4f} ", nl=False, err=True)

    def add(self, step: int, loss: float, learning_rate: float, speed: float, scores: dict[str, Any]) -> bool:
        """Adds a validation to every log; says whether it is the best so far."""
        classes = {f"IoU {name}": float(iou) for name, iou in zip(self.dataset.class_names, scores["IoU"], strict=True)}
        row = {
            "step": step,
            "learning_rate": learning_rate,
            "loss": float(loss),
            "val_loss": scores["loss"],
            "mIoU": scores["mIoU"],
            "aAcc": scores["aAcc"],
            "images_per_second": speed,
            **classes,
        }
        is_best = self.best is None or row["mIoU"] > self.best["mIoU"]
        self.rows.append(row)
        self._write_csv()
        with self._writer.as_default(step=step):
            for name, value in row.items():
                _write_scalar(name.replace(" ", "/"), value)
        self._writer.flush()
        per_class = "  ".join(f"{name} {100 * scores['IoU'][i]:.1f}" for i, name in enumerate(self.dataset.class_names))
        click.echo(
            f"step {step}: loss {loss:.4f}, val loss {scores['loss']:.4f}, mIoU {100 * scores['mIoU']:.2f}"
            f"{' (best)' if is_best else ''}, {speed:.1f} images/s\n  {per_class}"
        )
        return is_best

    def finish(self) -> None:
        """Closes the logs."""
        self._writer.close()

    def _write_csv(self) -> None:
        """Rewrites log.csv, aside and then renamed."""
        path = self.folder / "log.csv"
        aside = path.with_name("log.csv.partial")
        with aside.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(self.rows[0]))
            writer.writeheader()
            writer.writerows(
                {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in self.rows
            )
        os.replace(aside, path)


def _write_scalar(tag: str, value: float) -> None:
    """`tf.summary.scalar`, which would need the package tensorboard only to write."""
    metadata = tf.compat.v1.SummaryMetadata(
        plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars"),
        data_class=1,  # DATA_CLASS_SCALAR
    )
    tf.summary.write(tag, tf.constant(value, tf.float32), metadata=metadata)
