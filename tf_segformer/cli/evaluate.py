"""`tf-segformer evaluate`: mIoU, accuracy and IoU by class on a labelled dataset, and the confusion matrix."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from tf_segformer.cli.data_options import data_options
from tf_segformer.cli.loading import load_segmenter
from tf_segformer.cli.options import hub_options, make_predictor, prediction_options
from tf_segformer.data.datasets import SPLITS, SegmentationDataset, find_dataset
from tf_segformer.data.hugging_face import PREFIX
from tf_segformer.data.kinds import detect_kind
from tf_segformer.data.layouts.layout import class_names_in
from tf_segformer.errors import DatasetError
from tf_segformer.evaluation import evaluate as evaluation
from tf_segformer.evaluation.report import SUMMARY, ComparisonWriter, metrics_to_json, write_report
from tf_segformer.hub import HubOptions
from tf_segformer.imaging.labels import LABELS, names_of_classes


@click.command(short_help="Measure mIoU on a labelled dataset.")
@click.argument("model")
@click.argument("dataset")
@data_options
@click.option(
    "--split",
    type=click.Choice(SPLITS),
    help="Part to measure; default val, or every image of a folder without splits.",
)
@click.option("--limit", type=click.IntRange(1), help="Measure the first N images only.")
@click.option(
    "-o", "--output", type=click.Path(file_okay=False, path_type=Path), default="evaluation", show_default=True,
    help="Folder for evaluation.json and confusion_matrix.png.",
)  # fmt: skip
@click.option(
    "--comparisons",
    type=click.IntRange(0),
    default=0,
    help="Write images of the first N, their predictions, labels and errors.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@prediction_options
@hub_options
def evaluate(
    model: str,
    dataset: str,
    data_options: dict[str, Any],
    split: str | None,
    limit: int | None,
    output: Path,
    comparisons: int,
    as_json: bool,
    precision: str,
    hub: HubOptions,
    **options: Any,
) -> None:
    """Measures MODEL on DATASET, at the size of the label maps.

    MODEL is a folder, a checkpoint file, the name of an embedded model or a Hub id. DATASET is a folder in one of the
    layouts that `check` and `train` find. Of a folder without splits, --split val measures the images that `train`
    keeps for validation.

    Example: tf-segformer evaluate camvid-b0 CamVid --mode whole
    """
    segmenter, processor = load_segmenter(model, hub, precision)
    predictor = make_predictor(segmenter, processor, **options)
    class_names = tuple(names_of_classes(segmenter.config.id2label).values())
    data = _open_dataset(dataset, data_options, split, class_names)
    compare = ComparisonWriter(output, comparisons, data.class_names)
    start = time.perf_counter()
    metrics = evaluation.evaluate(predictor, data, limit=limit, on_result=compare)
    facts = {
        "model": model,
        "dataset": str(dataset),
        "split": data.name,
        "seconds": round(time.perf_counter() - start, 1),
        "mode": predictor.mode,
        "window": predictor.window,
        "stride": predictor.stride,
        "scales": predictor.scales,
        "flip": predictor.flip,
    }
    name = Path(model).resolve().name if Path(model).exists() else model
    title = f"{name} on {data.name}"
    paths = write_report(output, metrics, data.class_names, title=title, facts=facts)
    report = {**facts, "images": metrics["images"], **metrics_to_json(metrics, data.class_names)}
    if as_json:
        click.echo(json.dumps(report, indent=2, ensure_ascii=False))
        return
    _print_report(report)
    for path in paths:
        click.echo(f"wrote {path}")


def _open_dataset(
    root: str, given: dict[str, Any], split: str | None, class_names: tuple[str, ...]
) -> SegmentationDataset:
    """The pairs of a dataset that has the model's classes; other names of them are a note on stderr."""
    options = dict(given)
    kind = options.pop("kind")
    if split is None:
        split, options["val_fraction"] = "val", 1.0
    layout = kind or ("hf" if root.startswith(PREFIX) else detect_kind(root))
    is_camvid = [name.strip().lower() for name in class_names] == [name.lower() for name in LABELS["camvid"]]
    if layout == "folder" and kind is None and is_camvid:
        layout = kind = "camvid"
    has_names = options["class_names"] or options["class_of_value"] or options["palette"] or class_names_in(Path(root))
    if layout in ("folder", "binary", "hf") and not has_names:
        options["class_names"] = class_names
    try:
        dataset = find_dataset(kind, root, split, **options)
    except DatasetError:
        raise
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    kind = dataset.name.partition("/")[0]
    if dataset.num_labels != len(class_names):
        raise DatasetError(
            f"{root}: {kind} has {dataset.num_labels} classes, the model {len(class_names)}: they must agree"
        )
    pairs = zip(dataset.class_names, class_names, strict=True)
    differing = [(theirs, ours) for theirs, ours in pairs if theirs.lower() != ours.strip().lower()]
    if differing:
        click.echo(
            f"tf-segformer: {len(differing)} of {len(class_names)} classes have other names in the dataset than in the "
            f"model, such as {differing[0][0]!r} and {differing[0][1]!r}",
            err=True,
        )
    return dataset


def _print_report(report: dict[str, Any]) -> None:
    """Prints one row per class, and the metrics of all classes below."""
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


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
