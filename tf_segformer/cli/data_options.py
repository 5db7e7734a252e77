"""The options with which `check`, `train` and `evaluate` find a dataset."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from tf_segformer.data.datasets import VAL_FRACTION
from tf_segformer.data.kinds import KINDS
from tf_segformer.errors import DatasetError
from tf_segformer.io import read_json

_NAMES = ("kind", "class_names", "palette", "class_of_value", "images", "labels", "val_fraction", "split_seed")
_OPTIONS = (
    click.option("--kind", type=click.Choice(list(KINDS)), help="Layout of the data; default: found by its folders."),
    click.option("--class-names", metavar="A,B,...", help="Class names, where no file of the data names them."),
    click.option("--palette", metavar="RRGGBB,...", help="Colors of the classes, where the labels are RGB images."),
    click.option(
        "--map", "class_of_value", type=click.Path(path_type=Path), metavar="FILE.json",
        help="Merge or drop classes: each new name with the label values or old names that it takes.",
    ),
    click.option("--images", metavar="PATTERN", help='Where the images are, such as "photos/{split}/{name}.jpg".'),
    click.option("--labels", metavar="PATTERN", help='Where the labels are, such as "masks/{split}/{name}.png".'),
    click.option(
        "--val-fraction", type=click.FloatRange(0, 1, min_open=True), default=VAL_FRACTION, show_default=True,
        help="Part of a folder without splits that is kept for validation.",
    ),
    click.option("--split-seed", type=int, default=0, show_default=True, help="Which images of the folder these are."),
)  # fmt: skip


def data_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options to a command, which takes them as `data_options`: arguments of `find_dataset`."""

    @wraps(command)
    def run(*arguments: Any, **keywords: Any) -> Any:
        given = {name: keywords.pop(name) for name in _NAMES}
        return command(*arguments, data_options=_arguments_of_find_dataset(**given), **keywords)

    for option in reversed(_OPTIONS):
        run = option(run)
    return run


def _arguments_of_find_dataset(
    class_names: str | None, palette: str | None, class_of_value: Path | None, split_seed: int, **same: Any
) -> dict[str, Any]:
    """The options as Python spells them."""
    try:
        colors = None if palette is None else [tuple(bytes.fromhex(color)) for color in palette.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"{palette!r} is not RRGGBB,RRGGBB,...", param_hint="--palette") from error
    return {
        **same,
        "seed": split_seed,
        "class_names": None if class_names is None else [name.strip() for name in class_names.split(",")],
        "palette": colors,
        "class_of_value": None if class_of_value is None else _read_map(class_of_value),
    }


def _read_map(path: Path) -> Any:
    """The object of a --map file, in its order."""
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: no readable JSON ({error})") from error


def open_with_options(data: str | Path, given: dict[str, Any]) -> Any:
    """Both splits of a dataset; arguments that do not fit become a usage error."""
    from tf_segformer.data import open_splits

    options = dict(given)
    kind = options.pop("kind")
    try:
        return open_splits(kind, data, **options)
    except DatasetError:
        raise
    except ValueError as error:
        raise click.UsageError(str(error)) from error
