"""`tf-segformer check`: what a dataset is and what is wrong with it, before anyone trains on it."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from tf_segformer.cli.data_options import data_options, open_with_options
from tf_segformer.data.reports import Problem
from tf_segformer.errors import DatasetError


@click.command(short_help="Describe a labelled dataset and list its problems.")
@click.argument("data")
@data_options
@click.option("--previews", type=click.IntRange(0), default=0, metavar="N", help="Write N images with their labels.")
@click.option(
    "-o", "--output", type=click.Path(file_okay=False, path_type=Path), default="previews", show_default=True,
    help="Folder of the previews.",
)  # fmt: skip
@click.option("--threads", type=click.IntRange(1), default=4, show_default=True, help="Files opened at once.")
@click.option(
    "--statistics", is_flag=True, help="Mean, deviation, range, percentiles of each band of the training images."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(
    data: str,
    data_options: dict[str, Any],
    previews: int,
    output: Path,
    threads: int,
    statistics: bool,
    as_json: bool,
) -> None:
    """Opens every file of DATA and says what it is: layout, classes, sizes, values, problems, warnings.

    With --statistics also what each band holds, and the fields of preprocessor_config.json that these values need.

    Exit code 0: it can be trained; 2: it cannot.

    Example: tf-segformer check my-dataset --previews 4
    """
    from tf_segformer.data import check_splits, dataset_statistics

    try:
        splits = open_with_options(data, data_options)
    except DatasetError as error:
        if not as_json:
            raise
        click.echo(json.dumps(_nothing_found(str(error)), indent=2, ensure_ascii=False))
        sys.exit(2)
    report = check_splits(splits, threads=threads, raise_on_problems=False)
    found = dataset_statistics(splits[0], threads=threads) if statistics and report.can_train else None
    if as_json:
        more = {} if found is None else {"statistics": found.to_dict()}
        click.echo(json.dumps({**report.to_dict(), **more}, indent=2, ensure_ascii=False))
    else:
        click.echo(report)
        if found is not None:
            click.echo(f"{found}\npreprocessor_config.json: {json.dumps(found.processor_fields())}")
    if previews:
        from tf_segformer.data.previews import write_previews

        for path in write_previews(splits[0], output, previews):
            click.echo(f"wrote {path}", err=as_json)
    if not report.can_train:
        sys.exit(2)


def _nothing_found(reason: str) -> dict[str, Any]:
    """The report of a folder in which there is no dataset."""
    problem = asdict(Problem("no dataset", 1, (reason,)))
    return {
        "kind": None, "class_names": [], "splits": {}, "channels": None, "dtype": None, "problems": [problem],
        "warnings": [],
    }  # fmt: skip
