"""`tf-segformer benchmark`: a model in every form on this machine, as a table, JSON and a plot."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tf_segformer.cli.data_options import data_options
from tf_segformer.cli.inputs import expand_inputs
from tf_segformer.cli.loading import load_model, load_processor, native_stderr_dropped
from tf_segformer.cli.options import hub_options, read_numbers, token_merging_option
from tf_segformer.errors import CheckpointError, DatasetError
from tf_segformer.hub import HubOptions

if TYPE_CHECKING:
    from tf_segformer.benchmarking.measure import Sample
    from tf_segformer.imaging.processor import SegformerImageProcessor


@click.command(short_help="Compare a model's forms on this machine.")
@click.argument("model")
@click.argument("data", required=False)
@data_options
@click.option("--split", type=click.Choice(("train", "val")), help="Part of DATA; default val, or all without splits.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="Take N images of DATA.")
@click.option("--forms", metavar="FORMAT[:PRECISION],...", help="Such as onnx,openvino:int8; default: all.")
@click.option(
    "--size", metavar="N[,N]", callback=read_numbers(int, 2), help="Height and width of the input; default the model's."
)
@click.option("--batch-size", type=click.IntRange(1), default=1, show_default=True, help="Images in a timed run.")
@click.option("--runs", type=click.IntRange(1), default=20, show_default=True, help="Timed runs of each form.")
@click.option(
    "-o", "--output", type=click.Path(file_okay=False, path_type=Path), default="benchmark", show_default=True,
    help="Folder for benchmark.json and benchmark.png.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@token_merging_option
@hub_options
def benchmark(
    model: str,
    data: str | None,
    data_options: dict[str, Any],
    split: str | None,
    limit: int,
    forms: str | None,
    size: int | tuple[int, int] | None,
    batch_size: int,
    runs: int,
    output: Path,
    as_json: bool,
    token_merging: float | None,
    hub: HubOptions,
) -> None:
    """Measures MODEL in every form that `export` writes, on this machine.

    MODEL is a folder, a checkpoint file, the name of an embedded model or a Hub id. DATA is a labelled dataset that
    `evaluate` takes, or a folder or pattern of photos without labels: agreement with the checkpoint in float32 and mIoU
    are measured on it, and int8 takes its ranges from it. Forms that are not installed say what to install.

    Example: tf-segformer benchmark camvid-b0 CamVid
    """
    from rich.console import Console

    from tf_segformer.benchmarking.forms import FORMS, forms_named
    from tf_segformer.benchmarking.worker import WorkerError

    try:
        chosen = list(FORMS) if forms is None else forms_named(name.strip() for name in forms.split(","))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--forms") from error
    loaded, checkpoint = load_model(model, hub, token_merging=token_merging)
    if checkpoint.task != "segmentation":
        raise CheckpointError(f"{model}: this is a model for {checkpoint.task}, it has no decode head")
    processor = load_processor(checkpoint)
    from tf_segformer.benchmarking import measure, report

    samples = None if data is None else _samples(data, loaded, processor, limit, split, data_options)
    sides = (size, size) if isinstance(size, int) else size
    options: dict[str, Any] = {"size": sides, "batch_size": batch_size, "runs": runs}
    try:
        with native_stderr_dropped() as stderr:  # TensorFlow's converters print notes
            note = Console(file=stderr, soft_wrap=True).print
            rows = measure.benchmark(loaded, processor, samples, forms=chosen, progress=note, **options)
    except WorkerError as error:
        raise CheckpointError(f"{model}: {error}") from error
    height, width = sides or processor.target_size
    title = f"{Path(model).name}, {width}x{height}, batch {batch_size}"
    title += "" if data else "; agreement on generated images"
    facts = {"model": model, "data": data, "size": [height, width], "batch_size": batch_size, "runs": runs}
    content = json.dumps({**facts, "forms": report.as_json(rows)}, indent=2)
    output.mkdir(parents=True, exist_ok=True)
    (output / "benchmark.json").write_text(content + "\n", encoding="utf-8")
    written = report.save_plot(rows, output / "benchmark.png", title)
    if as_json:
        click.echo(content)
        return
    Console(soft_wrap=True).print(report.table_of(rows, title))
    for line in (*report.reasons_of(rows), f"wrote {output / 'benchmark.json'}", f"wrote {written}"):
        click.echo(line)


def _samples(
    data: str,
    model: Any,
    processor: SegformerImageProcessor,
    limit: int,
    split: str | None,
    options: dict[str, Any],
) -> Iterator[Sample]:
    """Images and label maps of a dataset, or the images of a folder without labels, which is said."""
    from tf_segformer.data.splits import find_dataset_of_model
    from tf_segformer.imaging.labels import names_of_classes
    from tf_segformer.imaging.stored import open_for

    names = tuple(names_of_classes(model.config.id2label).values())
    try:
        dataset = find_dataset_of_model(names, data, split=split, **options)
    except DatasetError as error:
        paths, problems = expand_inputs([data])
        if problems or not all(path.is_file() for path in paths):
            raise
        click.echo(f"tf-segformer: mIoU is not measured, for want of labels: {error}", err=True)
        channels = model.config.num_channels
        return ((open_for(processor, path, channels), None) for path in paths[:limit])
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    return ((as_array(each.read_image()), each.read_labels()) for each in itertools.islice(dataset, limit))


def as_array(image: Any) -> Any:
    """An image of a dataset as (H, W, C)."""
    import numpy as np

    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array
