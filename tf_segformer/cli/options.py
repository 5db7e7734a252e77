"""The options by which `predict` and `evaluate` choose how images are seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

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


_OPTIONS = (
    click.option("--mode", type=click.Choice(MODES), default="resize", show_default=True, help="How images are seen."),
    click.option(
        "--window", metavar="N[,N]", callback=read_numbers(int, 2), help="Height and width of the windows of slide."
    ),
    click.option(
        "--stride", metavar="N[,N]", callback=read_numbers(int, 2), help="Step between windows; default 3/4 of them."
    ),
    click.option(
        "--scales", metavar="S,...", callback=read_numbers(float), help="Scales of multiscale, such as 0.5,1,1.5."
    ),
    click.option("--flip/--no-flip", default=None, help="Average with the flipped image; default in multiscale only."),
    click.option(
        "--batch-size", type=click.IntRange(1), default=1, show_default=True, help="Images or windows at once."
    ),
    click.option("--bfloat16", is_flag=True, help="Compute in bfloat16: faster on CPUs with avx512_bf16 or AMX."),
)


def prediction_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options to a command, which takes them as `mode, window, stride, scales, flip, batch_size, bfloat16`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def make_predictor(model: Any, processor: Any, **options: Any) -> SegmentationPredictor:
    """A `SegmentationPredictor`; options that make no sense become a usage error."""
    try:
        return SegmentationPredictor(model, processor, **options)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
