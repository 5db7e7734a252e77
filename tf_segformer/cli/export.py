"""`tf-segformer export`: a checkpoint in; a SavedModel, LiteRT, OpenVINO or ONNX, or a page for browsers out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

import tf_segformer
from tf_segformer.cli.inputs import expand_inputs
from tf_segformer.cli.loading import load_model, load_processor
from tf_segformer.cli.options import hub_options, precision_option, read_numbers
from tf_segformer.deploy.formats import DATA_FORMATS, MAX_SERVED_PIXELS, PRECISIONS
from tf_segformer.errors import CheckpointError, SegformerError
from tf_segformer.hub import HubOptions

_ANY_PRECISION = tuple(dict.fromkeys(each for choices in PRECISIONS.values() for each in choices))
_CALIBRATION_IMAGES = 100


@click.command(short_help="Write a SavedModel, LiteRT, ONNX or OpenVINO file, or a page.")
@click.argument("model")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--format", "format_name", type=click.Choice(list(PRECISIONS)), default="saved_model", show_default=True)
@precision_option(
    "Of the written weights: float32, float16 or bfloat16 in a saved_model and for openvino; float32, float16, "
    "dynamic-int8 or int8 in litert.",
    _ANY_PRECISION,
)
@click.option(
    "--version", type=click.IntRange(1), default=1, show_default=True, help="saved_model: number of the version."
)
@click.option(
    "--max-pixels", type=click.IntRange(1), default=MAX_SERVED_PIXELS, show_default=True,
    help="saved_model: larger images are rejected by their header.",
)  # fmt: skip
@click.option(
    "--device", type=click.Choice(("cpu", "gpu"), case_sensitive=False), default=None,
    help="saved_model: kind of device that the graph is written for; it runs on the other, too.  [default: gpu where "
    "TensorFlow sees one]",
)  # fmt: skip
@click.option(
    "--size", metavar="H[,W]|any", default=None,
    help="litert: size of the input; default the processor's. 'any' leaves it open, except in int8.",
)  # fmt: skip
@click.option(
    "--calibration",
    metavar="IMAGES",
    help=f"litert int8: folder or pattern of images; {_CALIBRATION_IMAGES} are used.",
)
@click.option(
    "--data-format", type=click.Choice(DATA_FORMATS), default=DATA_FORMATS[0], show_default=True,
    help="onnx: layout of pixel values and logits; channels_first is that of Hugging Face's export.",
)  # fmt: skip
@click.option(
    "--runtime", type=click.Path(exists=True, path_type=Path), default=None,
    help="web: .tgz or folder of the npm package onnxruntime-web.  [default: downloaded once from npm's registry]",
)  # fmt: skip
@hub_options
def export(
    model: str,
    folder: Path,
    format_name: str,
    precision: str,
    version: int,
    max_pixels: int,
    device: str | None,
    size: str | None,
    calibration: str | None,
    data_format: str,
    runtime: Path | None,
    hub: HubOptions,
) -> None:
    """Writes MODEL into FOLDER for a server or a device.

    MODEL is a folder, a checkpoint file, the name of an embedded model or a Hub id. A SavedModel goes to
    FOLDER/VERSION and takes JPEG and PNG files; the others take prepared pixel values. `predict` and `evaluate`
    take the folder for MODEL, of a page its subfolder onnx. The web format is a page of static files that
    segments images in the browser.

    Example: tf-segformer export camvid-b0 served
    """
    if precision not in PRECISIONS[format_name]:
        raise click.UsageError(f"--precision of {format_name} is one of {', '.join(PRECISIONS[format_name])}")
    if (size or calibration) and format_name != "litert":
        raise click.UsageError("--size and --calibration are for --format litert")
    if device and format_name != "saved_model":
        raise click.UsageError("--device is for --format saved_model")
    if data_format != DATA_FORMATS[0] and format_name != "onnx":
        raise click.UsageError("--data-format is for --format onnx")
    if runtime and format_name != "web":
        raise click.UsageError("--runtime is for --format web")
    if (precision == "int8") != (calibration is not None):
        raise click.UsageError("--precision int8 and --calibration IMAGES go together")
    if precision == "int8" and size == "any":
        raise click.UsageError("--precision int8 needs a fixed --size")
    loaded, checkpoint = load_model(model, hub)
    processor = load_processor(checkpoint)
    if checkpoint.task == "encoder":
        raise CheckpointError(f"{checkpoint.path}: an encoder alone cannot be exported, it has no classes")
    try:
        options: dict[str, Any] = {"data_format": data_format}
        if format_name == "saved_model":
            options = {"version": version, "weights_dtype": precision, "max_pixels": max_pixels}
            options["device"] = device and device.upper()
        elif format_name == "litert":
            sides = _read_size(size, processor)
            processor = processor if sides is None else replace(processor, size=sides)
            images = _calibration(calibration, processor) if calibration else None
            options = {"precision": precision, "size": sides, "calibration": images}
        elif format_name == "openvino":
            options = {"precision": precision}
        elif format_name == "web":
            options = {"runtime": runtime}
        written = getattr(tf_segformer, f"export_{format_name}")(loaded, folder, processor, **options)
    except SegformerError:
        raise
    except ValueError as error:  # a processor that cannot run in a graph
        raise click.UsageError(str(error)) from error
    if format_name == "web":
        click.echo(f"wrote {folder} ({_megabytes(folder):.1f} MB); to open it: python3 -m http.server -d {folder}")
    else:
        click.echo(f"wrote {written} ({_megabytes(written):.1f} MB)")


def _read_size(size: str | None, processor: Any) -> tuple[int, int] | None:
    """Height and width of the input; None for any."""
    if size == "any":
        return None
    if size is None:
        return processor.size["height"], processor.size["width"]
    context = click.get_current_context()
    numbers = read_numbers(int, 2)(context, context.command.params[0], size)
    sides = numbers if isinstance(numbers, tuple) else (numbers, numbers)
    if min(sides) < 1:
        raise click.UsageError(f"--size {size}: both sides must be at least 1")
    return sides


def _calibration(pattern: str, processor: Any) -> Iterator[Any]:
    """Pixel values of some images, spread over all that were named."""
    from tf_segformer.imaging.files import open_image

    paths, problems = expand_inputs([pattern])
    if problems:
        raise click.UsageError(problems[0])
    step = max(1, len(paths) // _CALIBRATION_IMAGES)
    for path in paths[::step][:_CALIBRATION_IMAGES]:
        yield processor(open_image(path))["pixel_values"]


def _megabytes(path: Path) -> float:
    """Size of a file or of all files in a folder."""
    files = [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]
    return sum(each.stat().st_size for each in files) / 1e6
