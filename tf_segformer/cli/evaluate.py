"""`tf-segformer evaluate`: mIoU and its relatives on a labelled dataset, by class, with a confusion-matrix image."""

from __future__ import annotations

import itertools
import json
import math
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from tf_segformer.cli.loading import load_model, load_processor, require_segmentation
from tf_segformer.cli.options import make_predictor, prediction_options
from tf_segformer.data.datasets import IGNORE_INDEX, KINDS, Example, SegmentationDataset, find_dataset
from tf_segformer.errors import DatasetError
from tf_segformer.evaluation.confusion_plot import draw_confusion_matrix
from tf_segformer.imaging.files import open_image
from tf_segformer.imaging.labels import LABELS
from tf_segformer.imaging.visualize import draw_comparison
from tf_segformer.io import atomic_write, write_json

SUMMARY = {"mIoU": "mean IoU", "mAcc": "mean accuracy", "aAcc": "pixel accuracy", "fwIoU": "frequency-weighted IoU"}

_KIND_OF_FOLDER = {"leftImg8bit": "cityscapes", "annotations": "ade20k", "SegmentationClass": "voc"}


@click.command(short_help="Measure mIoU on a labelled dataset.")
@click.argument("model")
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option(
    "--kind", type=click.Choice(list(KINDS)), help="Layout and labels of DATASET; by default told from its folders."
)
@click.option("--split", type=click.Choice(["train", "val"]), default="val", show_default=True, help="Part to measure.")
@click.option("--limit", type=click.IntRange(1), help="Measure the first N images only.")
@click.option(
    "-o", "--output", type=click.Path(file_okay=False, path_type=Path), default="evaluation", show_default=True,
    help="Folder for evaluation.json and confusion_matrix.png.",
)  # fmt: skip
@click.option("--comparisons", type=click.IntRange(0), default=0, help="Draw the first N beside their target, too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@prediction_options
def evaluate(
    model: str,
    dataset: Path,
    kind: str | None,
    split: str,
    limit: int | None,
    output: Path,
    comparisons: int,
    as_json: bool,
    bfloat16: bool,
    **options: Any,
) -> None:
    """Measures MODEL on DATASET, at the size of the label maps.

    MODEL is a folder, a checkpoint file, the name of an embedded model or a Hub id. DATASET is the folder of ADE20K,
    Cityscapes, Pascal VOC or CamVid, or one with images/ and labels/ (or val/images/ and val/labels/).

    Example: tf-segformer evaluate camvid-b0 CamVid --mode whole
    """
    segmenter, processor = require_segmentation(load_model(model, bfloat16)), load_processor(model)
    predictor = make_predictor(segmenter, processor, **options)
    data = open_dataset(dataset, kind, split, segmenter.config.id2label)
    examples = data.examples[:limit]
    start = time.perf_counter()
    confusion = measure(predictor, data, examples, output if comparisons else None, comparisons)
    report = {
        "model": model,
        "dataset": str(dataset),
        "split": data.name,
        "images": len(examples),
        "seconds": round(time.perf_counter() - start, 1),
        "mode": predictor.mode,
        "window": predictor.window,
        "stride": predictor.stride,
        "scales": predictor.scales,
        "flip": predictor.flip,
        **describe_scores(confusion, data.class_names),
    }
    paths = write_report(output, report, confusion, data.class_names)
    if as_json:
        click.echo(json.dumps(report, indent=2, ensure_ascii=False))
        return
    print_scores(report)
    for path in paths:
        click.echo(f"wrote {path}")


def open_dataset(root: Path, kind: str | None, split: str, id2label: dict[int, str]) -> SegmentationDataset:
    """Finds the pairs of a dataset and sees that its classes are the model's.

    Args:
        root: The dataset's folder.
        kind: One of `training.datasets.KINDS`, or None to tell it from the folders (CamVid: from the model's labels).
        split: "train" or "val".
        id2label: The model's class names.

    Returns:
        The dataset.

    Raises:
        DatasetError: Where there is no such dataset, or it has another number of classes than the model.
    """
    names = tuple(id2label[index] for index in range(len(id2label)))
    if kind is None:
        same_as_camvid = [name.lower() for name in names] == [name.lower() for name in LABELS["camvid"]]
        usual = "camvid" if same_as_camvid else "folder"
        kind = next((kind for folder, kind in _KIND_OF_FOLDER.items() if (root / folder).is_dir()), usual)
    data = find_dataset(kind, root, split, class_names=names if kind == "folder" else None)
    if data.num_labels != len(names):
        raise DatasetError(f"{root}: {kind} has {data.num_labels} classes, the model {len(names)}: they must agree")
    differing = [
        pair for pair in zip(data.class_names, names, strict=True) if pair[0].lower() != pair[1].strip().lower()
    ]
    if differing:
        click.echo(
            f"tf-segformer: {len(differing)} of {len(names)} classes have other names in the dataset than in the model,"
            f" such as {differing[0][0]!r} and {differing[0][1]!r}",
            err=True,
        )
    return data


def measure(
    predictor: Any,
    data: SegmentationDataset,
    examples: tuple[Example, ...],
    drawings: Path | None = None,
    draw: int = 0,
) -> np.ndarray:
    """Segments images and compares them with their label maps.

    Args:
        predictor: A `SegmentationPredictor`.
        data: The dataset.
        examples: The pairs to measure.
        drawings: Folder for images of prediction beside target.
        draw: How many of them to draw.

    Returns:
        (K, K) int64 counts: rows are the true classes, columns the predicted ones.

    Raises:
        ImageError: For an image or a label map that cannot be read.
        DatasetError: For a label map of another size than its image, or with labels that no class has.
    """
    from tf_segformer.evaluation.metrics import confusion_matrix

    total = np.zeros((data.num_labels, data.num_labels), np.int64)
    results = predictor([example.image for example in examples])
    for example, result, number in zip(examples, results, itertools.count(), strict=False):
        target = data.read_labels(example.labels)
        if target.shape != result.class_map.shape:
            raise DatasetError(
                f"{example.labels}: the label map is {target.shape[1]}x{target.shape[0]} pixels, its image"
                f" {result.class_map.shape[1]}x{result.class_map.shape[0]}"
            )
        try:
            total += confusion_matrix(target, result.class_map, data.num_labels, IGNORE_INDEX)
        except ValueError as error:
            raise DatasetError(f"{example.labels}: {error}") from error
        if drawings is not None and number < draw:
            _draw_comparison(drawings, example, result.class_map, target, data.class_names)
    return total


def describe_scores(confusion: np.ndarray, class_names: tuple[str, ...]) -> dict[str, Any]:
    """The scores ready for JSON, where an undefined one is null.

    Args:
        confusion: (K, K) counts.
        class_names: Names of the K classes.

    Returns:
        The four scores of `SUMMARY`, and IoU, accuracy and labelled pixels of each class.
    """
    from tf_segformer.evaluation.metrics import metrics_from_confusion

    scores = metrics_from_confusion(confusion)
    return {
        **{name: _or_null(scores[name]) for name in SUMMARY},
        "classes": [
            {
                "name": name,
                "IoU": _or_null(scores["IoU"][index]),
                "Acc": _or_null(scores["Acc"][index]),
                "pixels": int(confusion[index].sum()),
            }
            for index, name in enumerate(class_names)
        ],
    }


def write_report(
    folder: Path, report: dict[str, Any], confusion: np.ndarray, class_names: tuple[str, ...]
) -> list[Path]:
    """Writes evaluation.json, with the counts, and confusion_matrix.png; returns their paths."""
    write_json(folder / "evaluation.json", {**report, "confusion_matrix": confusion.tolist()}, indent=None)
    local = Path(report["model"])
    name = local.resolve().name if local.exists() else report["model"]
    image = draw_confusion_matrix(confusion, class_names, title=f"{name} on {report['split']}")
    with atomic_write(folder / "confusion_matrix.png") as partial:
        image.save(partial, "PNG")
    return [folder / "evaluation.json", folder / "confusion_matrix.png"]


def print_scores(report: dict[str, Any]) -> None:
    """Prints one row a class, and the four scores below."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{report['split']}, {report['images']} images, {report['mode']}", title_justify="left")
    table.add_column("class")
    for name in ("IoU", "accuracy", "labelled pixels"):
        table.add_column(name, justify="right")
    for row in report["classes"]:
        table.add_row(row["name"].strip(), _percent(row["IoU"]), _percent(row["Acc"]), f"{row['pixels']:,}")
    Console(soft_wrap=True).print(table)
    for name, meaning in SUMMARY.items():
        click.echo(f"{name:6} {_percent(report[name]):>6} %  {meaning}")
    click.echo(f"{report['seconds']} s")


def _draw_comparison(
    folder: Path, example: Example, prediction: np.ndarray, target: np.ndarray, names: tuple[str, ...]
) -> None:
    """Writes one image beside its prediction, its target and the errors."""
    image = draw_comparison(open_image(example.image), prediction, target, names)
    with atomic_write(folder / f"{example.image.stem}_comparison.png") as partial:
        image.save(partial, "PNG")


def _or_null(score: float) -> float | None:
    return None if math.isnan(score) else round(float(score), 6)


def _percent(score: float | None) -> str:
    return "-" if score is None else f"{100 * score:.2f}"
