"""`tf-segformer export`: a checkpoint in; a SavedModel, LiteRT, OpenVINO or ONNX, or a page for browsers out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

import tf_segformer
from tf_segformer.cli.inputs import expand_inputs
from tf_segformer.cli.loading import load_model, load_processor, native_stderr_dropped
from tf_segformer.cli.options import hub_options, precision_option, read_numbers, token_merging_option
from tf_segformer.data.splits import find_dataset_of_model
from tf_segformer.deploy.formats import DATA_FORMATS, MAX_SERVED_PIXELS, ONNX_OPSETS, PRECISIONS
from tf_segformer.errors import CheckpointError, SegformerError
from tf_segformer.hub import HubOptions
from tf_segformer.imaging.files import open_image
from tf_segformer.imaging.labels import names_of_classes

_ANY_PRECISION = tuple(dict.fromkeys(each for choices in PRECISIONS.values() for each in choices))
_CALIBRATION_IMAGES = 100
_MEASURED = ("saved_model", "litert", "onnx", "openvino")
# Option -> the formats that it is for.
_FORMATS_OF_OPTION = {
    "version": ("saved_model",),
    "max_pixels": ("saved_model",),
    "device": ("saved_model",),
    "size": ("litert", "onnx", "openvino"),
    "calibration": _MEASURED,
    "data": _MEASURED,
    "opset": ("onnx",),
    "data_format": ("onnx",),
    "integer_io": ("litert",),
    "runtime": ("web",),
}


@click.command(short_help="Write a SavedModel, LiteRT, ONNX or OpenVINO file, or a page.")
@click.argument("model")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--format", "format_name", type=click.Choice(list(PRECISIONS)), default="saved_model", show_default=True)
@precision_option(
    "Of what is written; float16 and bfloat16 halve the weights (what computes in them says the guide), int8 needs "
    "--calibration.",
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
    help="litert, onnx, openvino: size of the input. 'any' leaves it open, except in litert's int8.  [default: the "
    "processor's for litert, else any]",
)  # fmt: skip
@click.option(
    "--calibration",
    metavar="IMAGES",
    help=f"Folder or pattern of images, of which {_CALIBRATION_IMAGES} are taken: int8 has its ranges from them, and "
    "the agreement with the checkpoint is measured on them.",
)
@click.option(
    "--data", metavar="LABELLED",
    help="Labelled dataset on which mIoU is measured; layers that would cost int8 more than 0.1 points in all stay in "
    "float (onnx, openvino).",
)  # fmt: skip
@click.option(
    "--opset", type=click.IntRange(ONNX_OPSETS[0], ONNX_OPSETS[-1]), default=ONNX_OPSETS[-1], show_default=True,
    help="onnx: version of the operators.",
)  # fmt: skip
@click.option("--integer-io", is_flag=True, help="litert int8: all in int8, input and output too (Edge TPU, NPUs).")
@click.option(
    "--data-format", type=click.Choice(DATA_FORMATS), default=DATA_FORMATS[0], show_default=True,
    help="onnx: layout of pixel values and logits; channels_first is that of Hugging Face's export.",
)  # fmt: skip
@click.option(
    "--runtime", type=click.Path(exists=True, path_type=Path), default=None,
    help="web: .tgz or folder of the npm package onnxruntime-web.  [default: downloaded once from npm's registry]",
)  # fmt: skip
@token_merging_option
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
    data: str | None,
    opset: int,
    integer_io: bool,
    data_format: str,
    runtime: Path | None,
    token_merging: float | None,
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
    _check_options(format_name, precision, calibration, size, integer_io)
    loaded, checkpoint = load_model(model, hub, token_merging=token_merging)
    processor = load_processor(checkpoint)
    if checkpoint.task == "encoder":
        raise CheckpointError(f"{checkpoint.path}: an encoder alone cannot be exported, it has no classes")
    if data and checkpoint.task != "segmentation":
        raise click.UsageError(f"--data is for segmentation, and {model} classifies images")
    dataset = None if data is None else find_dataset_of_model(_class_names(loaded), data)
    sides = _read_size(size or ("any" if format_name != "litert" else None), processor)
    processor = processor if sides is None else replace(processor, size=sides)
    images = _Calibration(calibration, processor) if calibration else None
    quantized = {"calibration": images} if precision == "int8" else {}
    labelled = {**quantized, "data": dataset} if precision == "int8" else {}
    served = {"version": version, "max_pixels": max_pixels, "device": device and device.upper()}
    sized = {"precision": precision, "size": sides}
    options: dict[str, dict[str, Any]] = {
        "saved_model": {"weights_dtype": precision, **served},
        "litert": {**sized, **quantized, "integer_io": integer_io},
        "onnx": {**sized, **labelled, "opset": opset, "data_format": data_format},
        "openvino": {**sized, **labelled},
        "web": {"runtime": runtime},
    }
    try:
        with _without_notes(format_name):
            written = getattr(tf_segformer, f"export_{format_name}")(loaded, folder, processor, **options[format_name])
    except SegformerError:
        raise
    except ValueError as error:  # a processor that cannot run in a graph
        raise click.UsageError(str(error)) from error
    if format_name == "web":
        click.echo(f"wrote {folder} ({_megabytes(folder):.1f} MB); to open it: python3 -m http.server -d {folder}")
    else:
        click.echo(f"wrote {written} ({_megabytes(written):.1f} MB)")
    if images is not None or dataset is not None:
        _measure(format_name, written, loaded, images, dataset, processor)


def _check_options(
    format_name: str, precision: str, calibration: str | None, size: str | None, integer_io: bool
) -> None:
    """Rejects options that the format would ignore, or that do not go together."""
    context = click.get_current_context()
    for name, formats in _FORMATS_OF_OPTION.items():
        given = context.get_parameter_source(name) == ParameterSource.COMMANDLINE
        if given and format_name not in formats:
            raise click.UsageError(f"--{name.replace('_', '-')} is for --format {' or '.join(formats)}")
    if precision == "int8" and calibration is None:
        raise click.UsageError("--precision int8 needs --calibration IMAGES")
    if integer_io and precision != "int8":
        raise click.UsageError("--integer-io is for --precision int8")
    if format_name == "litert" and precision == "int8" and size == "any":
        raise click.UsageError("--precision int8 needs a fixed --size")


def _without_notes(format_name: str) -> contextlib.AbstractContextManager:
    """LiteRT's converter and interpreter print notes to stderr."""
    return native_stderr_dropped() if format_name == "litert" else contextlib.nullcontext()


def _measure(
    format_name: str, written: Path, model: Any, images: _Calibration | None, dataset: Any, processor: Any
) -> None:
    """Compares what was written with the checkpoint and prints what is found."""
    from tf_segformer.deploy.quantization import measure_export

    try:
        with _without_notes(format_name):
            measured = measure_export(written, model, images or (), dataset, processor)
    except ImportError as error:  # the engine is not needed to export
        click.echo(f"tf-segformer: not measured: {error}", err=True)
        return
    if "agreement" in measured:
        click.echo(
            f"the same class in {100 * measured['agreement']:.2f} % of places on {measured['images']} images, "
            f"in {measured['engine']}"
        )
    if "mIoU" in measured:
        click.echo(f"mIoU {100 * measured['mIoU']:.2f} %, before {100 * measured['mIoU_before']:.2f} %")


def _class_names(model: Any) -> tuple[str, ...]:
    return tuple(names_of_classes(model.config.id2label).values())


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


class _Calibration:
    """Pixel values of some images, spread over all that were named; can be run through again and again."""

    def __init__(self, pattern: str, processor: Any) -> None:
        paths, problems = expand_inputs([pattern])
        if problems:
            raise click.UsageError(problems[0])
        self._paths = paths[:: max(1, len(paths) // _CALIBRATION_IMAGES)][:_CALIBRATION_IMAGES]
        self._processor = processor

    def __iter__(self) -> Iterator[Any]:
        for path in self._paths:
            yield self._processor(open_image(path))["pixel_values"]


def _megabytes(path: Path) -> float:
    """Size of all files in a folder, or of a file and those of its name: OpenVINO's weights are next to model.xml."""
    files = path.rglob("*") if path.is_dir() else path.parent.glob(f"{path.stem}.*")
    return sum(each.stat().st_size for each in files if each.is_file()) / 1e6
