"""`predict` on rasters and videos: which inputs these are, what is written for them, how far it is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from tf_segformer.cli.outputs import OutputFolder
from tf_segformer.errors import ImageError
from tf_segformer.inference import video
from tf_segformer.inference.predictor import SegmentationPredictor
from tf_segformer.inference.results import WrittenResult
from tf_segformer.raster.read import is_raster, require_rasterio

VECTOR_SUFFIXES = {"gpkg": ".gpkg", "geojson": ".geojson"}
RASTER_MODES = ("slide", "whole")


@dataclass(frozen=True)
class RasterOptions:
    """What `predict` takes for rasters alone."""

    confidence: bool
    vector: str | None
    bands: tuple[int, ...] | None

    def given(self) -> list[str]:
        """The options that were given, as they are spelled."""
        return [f"--{name}" for name in ("confidence", "vector", "bands") if getattr(self, name)]


def kind_of(path: Path) -> str:
    """Which of "image", "raster" and "video" a file is."""
    if path.suffix.lower() in video.SUFFIXES:
        return "video"
    return "raster" if is_raster(path) else "image"


def scene_options(kind: str, path: Path, options: dict[str, Any], takes_any_size: bool) -> dict[str, Any]:
    """The options of the predictor of one raster or video.

    Args:
        kind: "raster" or "video".
        path: The file.
        options: As given; `mode` is None unless it was named.
        takes_any_size: Whether the network does.

    Returns:
        For a raster, unless mode, window, stride or blend were given: one forward pass over the whole where it is small
        enough, otherwise windows, blended by cosine. Videos have a progress bar of their own.

    Raises:
        ImageError: The raster cannot be read.
        ImportError: The extra is missing.
    """
    if kind == "video":
        return options | {"mode": options["mode"] or "resize", "progress": False}
    from tf_segformer.raster.segment import fits_whole

    wants_windows = any(options[name] is not None for name in ("window", "stride", "blend"))
    by_default = "whole" if takes_any_size and not wants_windows and fits_whole(path) else "slide"
    mode = options["mode"] or by_default
    return options | {"mode": mode, "blend": options["blend"] or ("cosine" if mode == "slide" else None)}


def segment_scene(
    kind: str,
    predictor: SegmentationPredictor,
    path: Path,
    folder: OutputFolder,
    options: RasterOptions,
) -> tuple[WrittenResult, list[Path]]:
    """Segments one raster or video and writes its files.

    Args:
        kind: "raster" or "video".
        predictor: For rasters with mode="slide" or "whole".
        path: The file.
        folder: Where to write and what.
        options: What rasters take.

    Returns:
        The result and the paths of the files.

    Raises:
        ImageError: It cannot be read.
        ImportError: The extra is missing.
    """
    return _RUNS[kind](predictor, path, folder, options)


def _segment_raster(
    predictor: SegmentationPredictor, path: Path, folder: OutputFolder, options: RasterOptions
) -> tuple[WrittenResult, list[Path]]:
    from tf_segformer.raster.overlay import raster_overlay
    from tf_segformer.raster.segment import segment_raster

    require_rasterio(path)
    suffixes = {"mask": "_mask.tif"}  # written whatever --save says: overlay and polygons are made from it
    suffixes |= {kind: suffix for kind, suffix in {"overlay": "_overlay.png", "json": ".json"}.items()
                 if kind in folder.kinds}  # fmt: skip
    suffixes |= {"confidence": "_confidence.tif"} if options.confidence else {}
    suffixes |= {"vector": VECTOR_SUFFIXES[options.vector]} if options.vector else {}
    paths = folder.free_paths(path.stem, suffixes)
    with _progress("segmenting rows") as progress:
        result = segment_raster(
            predictor, path, paths["mask"],
            confidence=paths.get("confidence"), vector=paths.get("vector"), bands=options.bands, progress=progress,
        )  # fmt: skip
    if "overlay" in paths:
        raster_overlay(path, paths["mask"], paths["overlay"], result.labels, options.bands, folder.alpha)
    if "json" in paths:
        folder.write_json(paths["json"], result)
    return result, list(paths.values())


def _segment_video(
    predictor: SegmentationPredictor, path: Path, folder: OutputFolder, options: RasterOptions
) -> tuple[WrittenResult, list[Path]]:
    video.require_av(path)
    suffixes = {"overlay": "_overlay.mp4", "mask": "_mask.mkv", "json": ".json"}
    paths = folder.free_paths(path.stem, {kind: suffixes[kind] for kind in folder.kinds})
    began = time.monotonic()
    with _progress("segmenting frames") as progress:
        result = video.segment_video(
            predictor, path, overlay=paths.get("overlay"), classes=paths.get("mask"), alpha=folder.alpha,
            progress=progress,
        )  # fmt: skip
    rate = result.details["frames"] / max(time.monotonic() - began, 1e-9)
    click.echo(f"{path}: {result.details['frames']} frames, {rate:.1f} images per second", err=True)
    if "json" in paths:
        folder.write_json(paths["json"], result)
    return result, list(paths.values())


_RUNS: dict[str, Callable[..., tuple[WrittenResult, list[Path]]]] = {
    "raster": _segment_raster,
    "video": _segment_video,
}


def reject_logits(kinds: list[str]) -> None:
    """Rasters and videos have no file of logits.

    Raises:
        ImageError: It was asked for.
    """
    if "logits" in kinds:
        raise ImageError("--save logits is for images: the logits of a raster or video are never held as a whole")


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int, int | None], None] | None]:
    """A bar on a terminal with the speed in images (or rows) per second; None elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    unit = "images" if "frames" in title else "rows"
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.1f} " + f"{unit} per second"), TimeRemainingColumn(),
    )  # fmt: skip
    began = time.monotonic()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None, rate=0.0)

        def report(done: int, total: int | None) -> None:
            bar.update(task, completed=done, total=total, rate=done / max(time.monotonic() - began, 1e-9))

        yield report
