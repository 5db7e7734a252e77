"""Measures one model in every form, on this machine: sizes, times in turns, memory, agreement and mIoU."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tf_segformer.benchmarking.forms import FORMS, Form, write_form
from tf_segformer.benchmarking.turns import time_in_turns
from tf_segformer.benchmarking.worker import Worker, WorkerError
from tf_segformer.evaluation.confusion import confusion_matrix, metrics_from_confusion
from tf_segformer.imaging.processor import SegformerImageProcessor

Sample = tuple[np.ndarray, np.ndarray | None]
"""An image (H, W, C) and its label map (H, W), or None."""

_Size = tuple[int, int]
_CALIBRATION = 30
_GENERATED = 4


@dataclass(frozen=True)
class Row:
    """What was measured of one form, or why it was not.

    Args:
        form: Its key, such as "onnx:float32".
        skipped: Why there is nothing more: what to install, or what went wrong.
        engine: Engine and device.
        bytes: Size on disk.
        load_seconds: From an empty process to the loaded network, imports included.
        first_ms: The first run, in which some engines compile.
        ms: Median of the later ones.
        peak_bytes: The largest memory of its process.
        agreement: Fraction of the pixels whose class is the checkpoint's.
        miou: Mean intersection over union, where there are labels; NaN where no class is labelled.
    """

    form: str
    skipped: str | None = None
    engine: str | None = None
    bytes: int | None = None
    load_seconds: float | None = None
    first_ms: float | None = None
    ms: float | None = None
    peak_bytes: int | None = None
    agreement: float | None = None
    miou: float | None = None


def benchmark(
    model: Any,
    processor: SegformerImageProcessor,
    samples: Iterable[Sample] | None = None,
    *,
    forms: Sequence[Form] = FORMS,
    size: _Size | None = None,
    batch_size: int = 1,
    runs: int = 20,
    ignore_index: int = 255,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Row]:
    """Measures a model in every form, each in a process of its own, timed in turns.

    Args:
        model: A `SegformerForSemanticSegmentation` in float32.
        processor: How images become its pixel values.
        samples: Images and label maps, for agreement, mIoU and the ranges of int8; a few generated images if None.
        forms: Which forms; the first is what the others are compared with.
        size: (height, width) at which the network runs; by default the processor's.
        batch_size: Images in a timed run.
        runs: Timed runs of each form.
        ignore_index: Label of pixels that do not count.
        progress: Called with what is being done.

    Returns:
        One row for each form, in order.

    Raises:
        ValueError: No form, or a number below 1.
        WorkerError: The first form, with which the others are compared, does not run.
    """
    if not forms or min(batch_size, runs) < 1:
        raise ValueError(f"there must be a form, and batch_size={batch_size} and runs={runs} must be at least 1")
    size = processor.target_size if size is None else size
    processor = replace(processor, size=size, do_resize=True)
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as workers:
        root = Path(place)
        labels = _write_samples(root / "images", _generated(size, model) if samples is None else samples)
        rows, running = {}, {}
        for form in forms:
            progress(f"{form.key}: writing and loading")
            try:
                rows[form.key], running[form.key] = _start(form, model, processor, root, (size, batch_size))
                workers.callback(running[form.key].close)
            except (ImportError, ValueError, WorkerError) as error:
                if form == forms[0]:
                    raise
                rows[form.key] = Row(form.key, skipped=" ".join(str(error).split()))
        progress(f"timing {len(running)} forms in turns, runs of each: {runs}")
        seconds = time_in_turns({key: worker.run for key, worker in running.items()}, runs)
        for key, worker in running.items():
            rows[key] = replace(
                rows[key], ms=1000 * statistics.median(seconds[key]), peak_bytes=worker.ask(do="run")["peak"]
            )
            progress(f"{key}: comparing its class maps")
            (root / key).mkdir()
            worker.ask(do="segment", images=str(root / "images"), class_maps=str(root / key))
            classes = max(model.config.num_labels, 2)
            agreement, miou = compare(root / key, root / forms[0].key, labels, classes, ignore_index)
            rows[key] = replace(rows[key], agreement=agreement, miou=miou)
            worker.close()
    return list(rows.values())


def _start(
    form: Form, model: Any, processor: SegformerImageProcessor, root: Path, shape: tuple[_Size, int]
) -> tuple[Row, Worker]:
    """Writes a form, loads it in a process and runs it once."""
    folder = root / f"written-{form.key}"
    folder.mkdir()
    images = sorted((root / "images").glob("*.npy"))[:_CALIBRATION]
    calibration = (processor(np.load(path), input_data_format="channels_last")["pixel_values"] for path in images)
    stored = write_form(form, model, folder, processor, shape[0], calibration)
    worker = Worker(folder, form.engine, *shape)
    row = Row(
        form.key,
        engine=f"{worker.facts['engine']} on {worker.facts['device']}",
        bytes=stored,
        load_seconds=worker.facts["seconds"],
    )
    return replace(row, first_ms=1000 * worker.run()), worker


def compare(
    class_maps: Path, reference: Path, labels: Sequence[np.ndarray | None], num_classes: int, ignore_index: int
) -> tuple[float, float | None]:
    """Compares the class maps of a form with those of another, and with the labels.

    Args:
        class_maps: Folder of class maps (H, W), one .npy file for each image.
        reference: The same of the form to agree with.
        labels: Label maps (H, W) of the images, in the order of the names; None where there is none.
        num_classes: Number of classes.
        ignore_index: Label of pixels that do not count.

    Returns:
        The fraction of equal pixels, and the mIoU where there is a label map.
    """
    equal = total = 0
    confusion = np.zeros((num_classes, num_classes), np.int64)
    for path, label in zip(sorted(class_maps.glob("*.npy")), labels, strict=True):
        class_map = np.load(path)
        equal += int((class_map == np.load(reference / path.name)).sum())
        total += class_map.size
        if label is not None:
            confusion += confusion_matrix(label, class_map, num_classes, ignore_index)
    labelled = any(label is not None for label in labels)
    return equal / max(total, 1), float(metrics_from_confusion(confusion)["mIoU"]) if labelled else None


def _write_samples(folder: Path, samples: Iterable[Sample]) -> list[np.ndarray | None]:
    """Writes the images for the processes of all forms; the label maps."""
    folder.mkdir()
    labels = []
    for index, (image, label) in enumerate(samples):
        np.save(folder / f"{index:06}.npy", image)
        labels.append(label)
    if not labels:
        raise ValueError("there is no image to compare the forms on")
    return labels


def _generated(size: _Size, model: Any) -> Iterator[Sample]:
    """Images of smooth random colors."""
    rng = np.random.default_rng(0)
    for _ in range(_GENERATED):
        bands = rng.integers(0, 256, (model.config.num_channels, 9, 9), dtype=np.uint8)
        resized = [np.asarray(Image.fromarray(band).resize(size[::-1], Image.Resampling.BICUBIC)) for band in bands]
        yield np.stack(resized, axis=-1), None
