"""The options that several commands have: the Hub, the precision, and how `predict` and `evaluate` run the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import Any

import click

from tf_segformer.hub import HubOptions
from tf_segformer.inference.engines import AUTO, ENGINES
from tf_segformer.inference.predictor import MODES, SegmentationPredictor


def read_numbers(kind: Callable[[str], Any], most: int | None = None) -> Callable[..., Any]:
    """Makes a click callback that reads numbers parted by commas.

    Args:
        kind: `int` or `float`.
        most: Largest count of numbers; with 2, a single one is given as itself.

    Returns:
        The callback; a tuple, a number or None is what the command gets.
    """

    def read(context: click.Context, parameter: click.Parameter, value: str | None) -> Any:
        if value is None:
            return None
        try:
            numbers = tuple(kind(part) for part in value.split(","))
        except ValueError as error:
            raise click.BadParameter(f"{value!r} is not a number, or numbers parted by commas") from error
        if most is not None and len(numbers) > most:
            raise click.BadParameter(f"{value!r} has more than {most} numbers")
        return numbers[0] if most == 2 and len(numbers) == 1 else numbers

    return read


PRECISIONS = ("float32", "float16", "bfloat16")


def precision_option(text: str, choices: Sequence[str] = PRECISIONS) -> Callable[..., Any]:
    """The option `--precision`.

    Args:
        text: Help: of what it is the precision.
        choices: Its values; the first is the default.

    Returns:
        A decorator of a command, which takes it as `precision`.
    """
    return click.option("--precision", type=click.Choice(choices), default=choices[0], show_default=True, help=text)


_HUB_OPTIONS = (
    click.option("--revision", metavar="NAME", help="Hub: branch, tag or commit of the model."),
    click.option("--token", help="Hub: access token; by default the stored one, or HF_TOKEN."),
    click.option("--cache-dir", type=click.Path(file_okay=False, path_type=Path), help="Hub: folder of the downloads."),
    click.option("--local-files-only", is_flag=True, help="Hub: take what was downloaded before, ask no server."),
)
HUB_OPTION_NAMES = tuple(each.name for each in fields(HubOptions))


def hub_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of the Hub to a command, which takes them together as `hub`; next to its `def`."""

    @wraps(command)
    def run(*arguments: Any, **keywords: Any) -> Any:
        return command(*arguments, hub=HubOptions.pop_from(keywords), **keywords)

    for option in reversed(_HUB_OPTIONS):
        run = option(run)
    return run


_PREDICTION_OPTIONS = (
    click.option("--mode", type=click.Choice(MODES), default="resize", show_default=True, help="How images are seen."),
    click.option(
        "--window", metavar="N[,N]", callback=read_numbers(int, 2), help="Height and width of the windows of slide."
    ),
    click.option(
        "--stride", metavar="N[,N]", callback=read_numbers(int, 2), help="Step between windows; default 3/4 of them."
    ),
    click.option(
        "--blend",
        type=click.Choice(("mean", "cosine")),
        help="How overlapping windows are averaged; default mean for images, cosine for rasters.",
    ),
    click.option(
        "--scales", metavar="S,...", callback=read_numbers(float), help="Scales of multiscale, such as 0.5,1,1.5."
    ),
    click.option("--flip/--no-flip", default=None, help="Average with the flipped image; default in multiscale only."),
    click.option(
        "--batch-size", type=click.IntRange(1), default=1, show_default=True, help="Images or windows at once."
    ),
    precision_option("Of the computation; weights stay float32. bfloat16 is faster on CPUs with avx512_bf16 or AMX."),
)


def prediction_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options to a command, as `mode, window, stride, blend, scales, flip, batch_size, precision`."""
    for option in reversed(_PREDICTION_OPTIONS):
        command = option(command)
    return command


PARTLY_FAILED, UNUSABLE = 1, 2
"""Exit codes of the commands that predict: some of the images, or all of them, gave no result."""

model_option = click.option(
    "-m", "--model", default="camvid-b0", show_default=True,
    help="Folder, file, embedded name or Hub id; or what export wrote.",
)  # fmt: skip

token_merging_option = click.option(
    "--token-merging", type=click.FloatRange(0, 0.75), metavar="FRACTION", default=None,
    help="Of a checkpoint: fraction of attention's queries that are merged with a similar neighbor, such as 0.65; "
    "saves time on large images.  [default: as config.json says]",
)  # fmt: skip

engine_option = click.option(
    "--engine", type=click.Choice((AUTO, *ENGINES)), default=None,
    help="What runs the model. Of a checkpoint, what an engine reads is written once into the cache folder. auto takes "
    "the fastest that is installed (see doctor).  [default: Keras for a checkpoint, auto for what export wrote]",
)  # fmt: skip


def make_predictor(model: Any, processor: Any, **options: Any) -> SegmentationPredictor:
    """A `SegmentationPredictor`; options that make no sense become a usage error."""
    try:
        return SegmentationPredictor(model, processor, **options)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
