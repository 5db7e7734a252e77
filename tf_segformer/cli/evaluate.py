"""`tf-segformer evaluate`: mIoU, accuracy and IoU by class on a labelled dataset, and the confusion matrix."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from tf_segformer.cli.data_options import data_options
from tf_segformer.cli.loading import load_predictable
from tf_segformer.cli.options import (
    engine_option,
    hub_options,
    make_predictor,
    prediction_options,
    token_merging_option,
)
from tf_segformer.data.datasets import SPLITS
from tf_segformer.data.splits import find_dataset_of_model
from tf_segformer.errors import DatasetError
from tf_segformer.evaluation import evaluate as evaluation
from tf_segformer.evaluation.report import SUMMARY, ComparisonWriter, metrics_to_json, write_report
from tf_segformer.hub import HubOptions


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
@engine_option
@token_merging_option
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
    engine: str | None,
    token_merging: float | None,
    precision: str,
    hub: HubOptions,
    **options: Any,
) -> None:
    """Measures MODEL on DATASET, at the size of the label maps.

    MODEL is a folder, a checkpoint file, the name of an embedded model or a Hub id; or what `export` wrote. DATASET is
    a folder in one of the layouts that `check` and `train` find. Of a folder without splits, --split val measures the
    images that `train` keeps for validation.

    Example: tf-segformer evaluate camvid-b0 CamVid --mode whole
    """
    loaded = load_predictable(model, hub, precision, engine, token_merging, "segmentation")
    predictor = make_predictor(loaded.model, loaded.processor, **options)
    try:
        data = find_dataset_of_model(loaded.class_names, dataset, split=split, **data_options)
    except DatasetError:
        raise
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    compare = ComparisonWriter(output, comparisons, data.class_names)
    start = time.perf_counter()
    metrics = evaluation.evaluate(predictor, data, limit=limit, on_result=compare)
    facts = {
        "model": model,
        "engine": f"{predictor.engine.name} on {predictor.engine.device}",
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
