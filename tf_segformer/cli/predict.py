"""`tf-segformer predict`: images in; class maps, overlays with legend and class fractions out."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from tf_segformer.cli.inputs import expand_inputs
from tf_segformer.cli.loading import load_predictable
from tf_segformer.cli.options import (
    PARTLY_FAILED,
    UNUSABLE,
    engine_option,
    hub_options,
    make_predictor,
    model_option,
    prediction_options,
    read_numbers,
    token_merging_option,
)
from tf_segformer.cli.outputs import KINDS, OutputFolder
from tf_segformer.cli.scenes import (
    RASTER_MODES,
    VECTOR_SUFFIXES,
    RasterOptions,
    kind_of,
    reject_logits,
    scene_options,
    segment_scene,
)
from tf_segformer.errors import ImageError
from tf_segformer.hub import HubOptions
from tf_segformer.inference.engines import open_engine
from tf_segformer.inference.predictor import SegmentationPredictor
from tf_segformer.inference.results import Failure, SegmentationResult, WrittenResult
from tf_segformer.inference.threads import MAX_AT_ONCE, cores, map_in_threads

if TYPE_CHECKING:
    from tf_segformer.cli.remote import RemotePredictor

_CLASSES_IN_A_LINE = 4
_TOP_CLASSES = 5


def _read_kinds(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    """The kinds of files to write, parted by commas."""
    kinds = tuple(part.strip() for part in value.split(",") if part.strip())
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise click.BadParameter(f"{value!r}: choose from {', '.join(KINDS)}")
    return kinds


@click.command(short_help="Segment photos.")
@click.argument("photos", nargs=-1, required=True, metavar="PHOTO...")
@model_option
@click.option(
    "-o", "--output", type=click.Path(file_okay=False, path_type=Path), default="segmented", show_default=True,
    help="Folder to write to.",
)  # fmt: skip
@click.option(
    "--save", default="overlay,mask", show_default=True, callback=_read_kinds, metavar="KIND,...",
    help=f"What to write: {', '.join(KINDS)}.",
)  # fmt: skip
@click.option("--alpha", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="Weight of the colors.")
@click.option("--confidence", is_flag=True, help="Rasters: write the probability of each pixel's class, too.")
@click.option("--vector", type=click.Choice(list(VECTOR_SUFFIXES)), help="Rasters: write segments as polygons, too.")
@click.option(
    "--bands", metavar="N,...", callback=read_numbers(int), help="Rasters: bands for the model; default all but alpha."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per image instead of tables.")
@click.option("--server", metavar="URL", help="Ask TF Serving at http://HOST:8501 or grpc://HOST:8500 instead.")
@click.option("--server-model", default="segformer", show_default=True, help="Name of the model on the server.")
@engine_option
@token_merging_option
@prediction_options
@click.pass_context
@hub_options
def predict(
    context: click.Context,
    photos: tuple[str, ...],
    model: str,
    output: Path,
    save: tuple[str, ...],
    alpha: float,
    confidence: bool,
    vector: str | None,
    bands: tuple[int, ...] | None,
    as_json: bool,
    server: str | None,
    server_model: str,
    engine: str | None,
    token_merging: float | None,
    precision: str,
    hub: HubOptions,
    **options: Any,
) -> None:
    """Segments images and writes a class map (PNG) and an overlay with legend for each.

    PHOTO is a file, a folder, a quoted pattern such as "photos/*.jpg", or - for a list of paths on standard input.
    A raster (GeoTIFF, VRT, JPEG 2000 with a place; extra geo) gives a class raster in the same place: up to 2048 pixels
    on both sides in one forward pass over the whole, unless --window, --stride, --blend or --mode slide is given; a
    larger one through windows.

    A video (extra video) gives an overlay video and one of class maps.

    A classification checkpoint prints its five most probable classes instead and writes nothing.

    The exit code is 0 when every image was segmented, 1 when some could not be read, 2 when none could.

    Example: tf-segformer predict street.jpg --save overlay,json
    """
    images, problems = expand_inputs(photos)
    for problem in problems:
        _report_error(problem)
    done = failed = 0
    of_raster = RasterOptions(confidence, vector, bands)
    scenes = {path: kind for path in images if (kind := kind_of(path)) != "image"}
    plain = [path for path in images if path not in scenes]
    _check_raster_options(context, of_raster, scenes, plain, server)
    if server is not None:
        from tf_segformer.cli.remote import make_remote_predictor

        remote = make_remote_predictor(context, server, server_model, save)
        done, failed = _segment(remote, images, OutputFolder(output, save, images, alpha), as_json)
    elif images:
        tasks = "segmentation", "classification"
        segmenter, processor, task = load_predictable(model, hub, precision, engine, token_merging, *tasks)
        if task == "classification":
            if given := of_raster.given():
                raise click.UsageError(f"{given[0]} is for segmentation, and {model} classifies images")
            done, failed = _classify(segmenter, processor, images, as_json)
        else:
            folder = OutputFolder(output, save, images, alpha, processor.apply_exif_orientation)
            if plain:
                predictor = make_predictor(segmenter, processor, return_logits="logits" in save, **options)
                done, failed = _segment(predictor, plain, folder, as_json)
            if scenes:
                named = options | {"mode": options["mode"] if _is_given(context, "mode") else None}
                make = _predictors_of_scenes(segmenter, processor, named)
                finished = _segment_scenes(scenes, make, folder, of_raster, len(images) == 1, as_json)
                done, failed = done + finished, failed + len(scenes) - finished
    if failed or problems:
        sys.exit(PARTLY_FAILED if done else UNUSABLE)


def _check_raster_options(
    context: click.Context, options: RasterOptions, scenes: dict[Path, str], plain: list[Path], server: str | None
) -> None:
    """Rejects options that an input would ignore."""
    given, kinds = options.given(), set(scenes.values())
    others = [path for path in [*plain, *scenes] if scenes.get(path) != "raster"]
    if given and others:
        raise click.UsageError(
            f"{given[0]} is for rasters, and {others[0]} is none (a TIFF without a place is an image)"
        )
    if scenes and server is not None:
        raise click.UsageError(f"{next(iter(scenes))}: rasters and videos need a model in this process, not --server")
    if "raster" in kinds and context.params["mode"] not in RASTER_MODES and _is_given(context, "mode"):
        raise click.UsageError(
            f"rasters are segmented with --mode {' or '.join(RASTER_MODES)}: {context.params['mode']} is not for them"
        )
    if "raster" in kinds and context.params["flip"]:
        raise click.UsageError("rasters are segmented as they lie: --flip is not for them")


def _is_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) == ParameterSource.COMMANDLINE


def _predictors_of_scenes(
    segmenter: Any, processor: Any, options: dict[str, Any]
) -> Callable[[str, Path], SegmentationPredictor]:
    """Gives the predictor of a raster or video; those with the same options share one, whose graph is traced once."""
    takes_any_size = open_engine(segmenter).fixed_size is None
    make = cache(partial(make_predictor, segmenter, processor))
    return lambda kind, path: make(**scene_options(kind, path, options, takes_any_size))


def _segment_scenes(
    scenes: dict[Path, str],
    make: Callable[[str, Path], SegmentationPredictor],
    folder: OutputFolder,
    options: RasterOptions,
    alone: bool,
    as_json: bool,
) -> int:
    """Writes and reports every raster and video; returns how many could be done."""
    done = written = 0
    for path, kind in scenes.items():
        try:
            reject_logits(folder.kinds)
            result, paths = segment_scene(kind, make(kind, path), path, folder, options)
        except (ImageError, ImportError) as error:
            _report_error(error)
            continue
        _report(result, paths, alone=alone, as_json=as_json)
        done += 1
        written += len(paths)
    if done and not alone and not as_json:
        click.echo(f"wrote {written} files to {folder.folder}")
    return done


def _segment(
    predictor: SegmentationPredictor | RemotePredictor, images: list[Path], folder: OutputFolder, as_json: bool
) -> tuple[int, int]:
    """Writes and reports every image; returns how many could be read and how many not."""
    results = predictor(images, on_error="skip")
    named = ((result, folder.paths_for(result)) for result in results)
    written_in_order = map_in_threads(
        lambda each: (each[0], folder.write(*each)),
        named,
        min(cores(), MAX_AT_ONCE),
        lambda each: each[0].class_map.size,
    )
    done = reported = written = 0
    for result, paths in written_in_order:
        reported = _report_failures(results.failures, reported)
        _report(result, paths, alone=len(images) == 1, as_json=as_json)
        done += 1
        written += len(paths)
    _report_failures(results.failures, reported)
    if done and len(images) > 1 and not as_json:
        click.echo(f"wrote {written} files to {folder.folder}")
    return done, len(results.failures)


def _report(result: SegmentationResult | WrittenResult, paths: list[Path], alone: bool, as_json: bool) -> None:
    """Prints the class fractions of one image: a table where it is the only one, a line otherwise, or JSON."""
    if as_json:
        click.echo(json.dumps({**result.to_dict(), "files": [str(path) for path in paths]}, ensure_ascii=False))
        return
    fractions = result.class_fractions
    if not alone:
        largest = ", ".join(f"{name} {_percent(each)}" for name, each in list(fractions.items())[:_CLASSES_IN_A_LINE])
        more = len(fractions) - _CLASSES_IN_A_LINE
        click.echo(f"{result.source}: {largest}{f' and {more} more' if more > 0 else ''}")
        return
    rows = [(name, _percent(each)) for name, each in fractions.items()]
    _print_table(str(result.source), ("class", "fraction"), rows)
    for path in paths:
        click.echo(f"wrote {path}")


def _classify(model: Any, processor: Any, images: list[Path], as_json: bool) -> tuple[int, int]:
    """Prints the most probable classes of each image; returns how many could be read and how many not."""
    from tf_segformer.inference.classifier import classify

    results = classify(model, processor, images, top_k=_TOP_CLASSES, on_error="skip")
    done = reported = 0
    for result in results:
        reported = _report_failures(results.failures, reported)
        if as_json:
            line = {"image": result.source, "probabilities": result.probabilities}
            click.echo(json.dumps(line, ensure_ascii=False))
        else:
            rows = [(name, _percent(probability)) for name, probability in result.probabilities.items()]
            _print_table(str(result.source), ("class", "probability"), rows)
        done += 1
    _report_failures(results.failures, reported)
    return done, len(results.failures)


def _print_table(title: str, header: tuple[str, str], rows: list[tuple[str, str]]) -> None:
    """Prints names and percentages in two columns."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column(header[0])
    table.add_column(header[1], justify="right")
    for row in rows:
        table.add_row(*row)
    Console(soft_wrap=True).print(table)


def _percent(fraction: float) -> str:
    return f"{fraction * 100:.1f} %" if fraction >= 0.0005 else "<0.1 %"


def _report_failures(failures: list[Failure], reported: int) -> int:
    """Writes the failures that were not reported yet; returns how many are by now."""
    for failure in failures[reported:]:
        _report_error(failure.error)
    return len(failures)


def _report_error(problem: object) -> None:
    """Writes one line to standard error."""
    click.echo(f"tf-segformer: {problem}", err=True)
