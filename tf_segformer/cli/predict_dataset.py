"""`tf-segformer predict-dataset`: a dataset of any size in; Parquet files or one PNG per image out."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from tf_segformer.cli.loading import exported_for_engine
from tf_segformer.cli.options import (
    PARTLY_FAILED,
    UNUSABLE,
    engine_option,
    hub_options,
    model_option,
    prediction_options,
)
from tf_segformer.hub import HubOptions

if TYPE_CHECKING:
    from tf_segformer.batch.run import Progress

_SECONDS_BETWEEN_LINES = 30
_BATCH_SIZE = 16


@click.command(
    "predict-dataset", short_help="Segment a dataset.", context_settings={"default_map": {"batch_size": _BATCH_SIZE}}
)
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT... OUTPUT")
@model_option
@click.option("--masks", is_flag=True, help="Write class maps, as PNG in the column mask.")
@click.option(
    "--format", "save_as", type=click.Choice(("parquet", "png")), default="parquet", show_default=True,
    help="png: class maps as one PNG file per image.",
)  # fmt: skip
@click.option(
    "--workers", type=click.IntRange(0), metavar="N",
    help="Actors of Ray, each with a model; 0 is this process. Default one per GPU or four cores if Ray is there.",
)  # fmt: skip
@click.option("--gpus-per-worker", type=click.FloatRange(0), metavar="N", help="Or a fraction; default 1 if any.")
@click.option("--cpus-per-worker", type=click.FloatRange(0), metavar="N", help="Default four, or all if fewer.")
@click.option("--images-per-shard", type=click.IntRange(1), default=1000, show_default=True, help="Of one output file.")
@click.option(
    "--batch-pixels", type=click.IntRange(1), default=1 << 22, show_default=True, help="Most in a batch of several."
)
@click.option("--max-pixels", type=click.IntRange(1), help="Images above are broken; default Pillow's limit.")
@click.option("--image-column", metavar="NAME", help="Parquet column or TFRecord feature; default the usual names.")
@click.option("--id-column", metavar="NAME", help="Likewise, of what identifies the image.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
@engine_option
@prediction_options
@hub_options
def predict_dataset(
    inputs: tuple[str, ...],
    model: str,
    engine: str | None,
    precision: str,
    save_as: str,
    max_pixels: int | None,
    as_json: bool,
    hub: HubOptions,
    **options: Any,
) -> None:
    """Segments the images of INPUT and writes one row per image into Parquet files in the folder OUTPUT.

    INPUT is a folder (with those below it), a quoted pattern, a list file (.txt) of paths, Parquet files with image
    bytes or paths, WebDataset (.tar) or TFRecord files; INPUT and OUTPUT may be on any file system that fsspec opens,
    such as s3://bucket/photos.

    A row holds id, status (ok, broken or unreadable), error, height, width and class_fractions. The same command goes
    on where an earlier one stopped, and does no finished file again.

    The exit code is 0 when every image was segmented, 1 when some could not be, 2 when none could.

    Example: tf-segformer predict-dataset photos segmented --masks
    """
    if len(inputs) < 2:
        raise click.UsageError("give INPUT and the folder OUTPUT")
    from tf_segformer.batch.run import predict_dataset as run
    from tf_segformer.imaging.files import MAX_PIXELS

    *sources, output = inputs
    given = {name: value for name, value in options.items() if value is not None}
    try:
        model, engine = exported_for_engine(model, hub, precision, engine)
        with _reporting() as report:
            done = run(
                sources, output, model, engine=engine, precision=precision, format=save_as,
                max_pixels=max_pixels or MAX_PIXELS, progress=report, **vars(hub), **given,
            )  # fmt: skip
    except ValueError as error:
        if type(error) is ValueError:
            raise click.UsageError(str(error)) from error
        raise
    _summarize(done, output, as_json)
    if done.failed:
        sys.exit(UNUSABLE if done.failed == done.images else PARTLY_FAILED)


def _summarize(done: Progress, output: str, as_json: bool) -> None:
    """Prints what there is now."""
    if as_json:
        names = ("images", "failed", "shards", "earlier_images", "earlier_shards", "seconds")
        values = {name: getattr(done, name) for name in names}
        click.echo(json.dumps({**values, "images_per_second": done.images_per_second, "output": output}))
        return
    failed = f", {done.failed} of them failed (see the column error)" if done.failed else ""
    earlier = f"; {done.earlier_images} images were done before" if done.earlier_images else ""
    rate = f"; {done.images_per_second:.1f} images per second" if done.images > done.earlier_images else ""
    click.echo(f"{output}: {done.images} images in {done.shards} files{failed}{rate}{earlier}")


@contextmanager
def _reporting() -> Iterator[Callable[[Progress], None]]:
    """Shows progress on stderr: a bar on a terminal, elsewhere a line every now and then."""
    if not sys.stderr.isatty():
        yield _line_writer()
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = TextColumn("segmenting"), BarColumn(), TextColumn("{task.description}")
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("")

        def show(state: Progress) -> None:
            total, done = (state.all_images, state.images) if state.all_images else (state.all_shards, state.shards)
            bar.update(task, completed=done, total=total, description=_describe(state))

        yield show


def _line_writer() -> Callable[[Progress], None]:
    """Writes a line when half a minute has passed since the last one."""
    last = time.monotonic()

    def write(state: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            click.echo(f"tf-segformer: {_describe(state)}", err=True)

    return write


def _describe(state: Progress) -> str:
    """Numbers of images, speed, and time that remains."""
    total = "" if state.all_images is None else f" of {state.all_images}"
    left = state.remaining_seconds
    remaining = "" if left is None else f", {_duration(left)} remaining"
    failed = f", {state.failed} failed" if state.failed else ""
    shards = f"{state.shards} of {state.all_shards} shards"
    return f"{state.images}{total} images, {shards}, {state.images_per_second:.1f} images per second{remaining}{failed}"


def _duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02d}:{second:02d}"
