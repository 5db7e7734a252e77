"""`predict_dataset`: millions of images in shards, in this process or on workers of Ray, resumed where it stopped."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from os import PathLike, fspath
from typing import Any

from tf_segformer.batch.inputs import Shard, cut_into_shards, fingerprint, full_path, list_sources, require_pyarrow
from tf_segformer.batch.model import ModelSource
from tf_segformer.batch.outputs import OutputFolder, ShardReport
from tf_segformer.batch.readers import Columns
from tf_segformer.batch.segment import OK, Batching, Row, segment_shard
from tf_segformer.hub import HubOptions
from tf_segformer.imaging.files import MAX_PIXELS
from tf_segformer.inference.engines import AUTO

FORMATS = ("parquet", "png")


@dataclass(frozen=True)
class Progress:
    """How far `predict_dataset` is.

    Args:
        images: Images that have a row: segmented and failed ones, of this and earlier runs.
        failed: Those that could not be segmented.
        shards: Finished shards, of this and earlier runs.
        all_shards: Number of shards.
        all_images: Number of images, where it is known without reading every file.
        earlier_images: Images that earlier runs did.
        earlier_shards: Shards that earlier runs finished.
        seconds: Time since this run began.

    Example:
        >>> progress = Progress(
        ...     images=300,
        ...     failed=3,
        ...     shards=3,
        ...     all_shards=10,
        ...     all_images=1000,
        ...     seconds=20.0,
        ...     earlier_images=100,
        ...     earlier_shards=1,
        ... )
        >>> progress.images_per_second, progress.remaining_seconds
        (10.0, 70.0)
    """

    images: int
    failed: int
    shards: int
    all_shards: int
    all_images: int | None
    earlier_images: int = 0
    earlier_shards: int = 0
    seconds: float = 0.0

    @property
    def images_per_second(self) -> float:
        """Of this run."""
        return (self.images - self.earlier_images) / max(self.seconds, 1e-9)

    @property
    def remaining_seconds(self) -> float | None:
        """Until the end at the speed of this run; None where nothing is known of it yet."""
        if self.all_images is not None:
            rate, left = self.images_per_second, self.all_images - self.images
        else:
            rate = (self.shards - self.earlier_shards) / max(self.seconds, 1e-9)
            left = self.all_shards - self.shards
        return left / rate if rate else (None if left else 0.0)


@dataclass(frozen=True)
class Step:
    """What was done since the last one.

    Args:
        images: Rows, of segmented and failed images.
        failed: Those that failed.
        shards: Files that were written.
    """

    images: int
    failed: int
    shards: int


@dataclass(frozen=True)
class Job:
    """What every worker knows.

    Args:
        model: The model.
        fingerprint: Of the model.
        output: Folder of the results.
        masks: Where class maps go, as in `OutputFolder`.
        batching: How images go through the model together.
    """

    model: ModelSource
    fingerprint: str
    output: str
    masks: str | None
    batching: Batching


class ShardWorker:
    """Holds one model and finishes one shard after the other.

    Args:
        job: What to do.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._folder = OutputFolder(job.output, job.masks)
        self._predictor = job.model.predictor(job.fingerprint, job.batching.batch_size)

    def finish(self, shard: Shard) -> Iterator[Step]:
        """Segments a shard and writes its file, unless the file is there.

        Args:
            shard: The shard.

        Yields:
            What was done since the last step.
        """
        done = self._folder.finished(shard.number)  # by a worker that was killed before it could say so
        if done is not None:
            yield Step(done.images, done.failed, 1)
            return
        rows: list[Row] = []
        for some in segment_shard(shard, self._predictor, self._job.batching):
            rows += some
            yield Step(len(some), sum(row.status != OK for row in some), 0)
        self._folder.write_shard(shard.number, sorted(rows, key=lambda row: row.position))
        yield Step(0, 0, 1)


def predict_dataset(
    inputs: str | PathLike | Sequence[str | PathLike],
    output: str | PathLike,
    model: str | PathLike = "camvid-b0",
    *,
    masks: bool = False,
    format: str = "parquet",
    workers: int | None = None,
    gpus_per_worker: float | None = None,
    cpus_per_worker: float | None = None,
    images_per_shard: int = 1000,
    batch_size: int = 16,
    batch_pixels: int = 1 << 22,
    max_pixels: int = MAX_PIXELS,
    precision: str = "float32",
    engine: str = AUTO,
    image_column: str | None = None,
    id_column: str | None = None,
    progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> Progress:
    """Segments a dataset of any size into a folder of Parquet files, one per shard of the input.

    Every image has exactly one row: id, status ("ok", "broken" or "unreadable"), error, height, width,
    class_fractions, and its class map where that is asked for. A shard's file appears whole or not at all; the next
    run, of any number of workers, does the shards that have none.

    Args:
        inputs: A folder (with those below it), a pattern, a list file of paths, Parquet files with a column of image
            bytes or paths, WebDataset (.tar) or TFRecord files, or several of these, on any file system of fsspec.
        output: Folder of the results on any such file system; new, empty, or of an earlier run with the same input,
            model and settings.
        model: A folder, a checkpoint file, the name of an embedded model, a Hub id "owner/name", or what `export`
            wrote, of a model for segmentation. Workers on other machines find it by the same name.
        masks: Write the class maps into the Parquet files, as PNG files in the column `mask`.
        format: "parquet", or "png" for one PNG file per image, which the column `mask_path` of the Parquet files names.
        workers: Number of Ray actors, each with a model of its own. 0 works in this process. By default one per GPU
            (or per four cores) where Ray is installed and there is more than one shard, else 0. Ray starts on this
            machine, unless `ray.init` was called or RAY_ADDRESS names a cluster.
        gpus_per_worker: GPUs, or a fraction of one, for each actor; by default 1 where the cluster has any.
        cpus_per_worker: Cores for each actor; by default four, or as many as the smallest machine has or `workers`
            leave for each.
        images_per_shard: What is lost when a worker is killed, and how often progress is reported with Ray.
        batch_size: Most images in a batch.
        batch_pixels: Most pixels that the model sees in a batch of several images.
        max_pixels: Largest height times width of an image; larger ones are "broken".
        precision: "float32", "float16" or "bfloat16" of the computation.
        engine: Which engine runs what `export` wrote, one of `inference.engines.ENGINES`; "auto" takes the fastest that
            is installed. A checkpoint is run by Keras.
        image_column: Column (of a TFRecord: feature) of the image bytes or paths; found by the usual names.
        id_column: Column of the ids; found by the usual names, or else file and number of the row.
        progress: Called as images are finished.
        **options: mode, window, stride, blend, scales and flip of `SegmentationPredictor`; revision, token, cache_dir
            and local_files_only for the Hub.

    Returns:
        How many images there were and how many of them failed.

    Raises:
        DatasetError: There is no input, the output is of other settings, or a worker was killed by the same shard
            several times.
        CheckpointError: The model cannot be loaded, or is not for segmentation.
        ImportError: pyarrow, Ray or the library of a file system is missing.
        ValueError: An option is out of range.

    Example:
        >>> from PIL import Image
        >>> Image.new("RGB", (64, 48)).save("a.png")
        >>> predict_dataset("*.png", "memory://example", workers=0).images
        1
    """
    require_pyarrow()
    _check_options(format, workers, images_per_shard, batch_size)
    output = full_path(fspath(output))
    sources = list_sources(inputs, output)
    batching = Batching(
        Columns(image_column, id_column), batch_size, batch_pixels, max_pixels, masks or format == "png"
    )
    where = "png" if format == "png" else "parquet" if masks else None
    hub = HubOptions.pop_from(options)
    source = ModelSource(_absolute(model), hub, precision, options, engine)
    opened = source.open()
    opened.warn_of_defaults()
    job = Job(replace(source, engine=opened.engine), opened.fingerprint(), output, where, batching)
    folder = OutputFolder(output, where)
    folder.claim(_settings(job, fingerprint(sources), images_per_shard), _notes(job, inputs, opened.class_names))
    shards = cut_into_shards(sources, images_per_shard)
    finished = folder.finished_shards()
    done = {report.number for report in finished}
    waiting = [shard for shard in shards if shard.number not in done]
    state = _start(shards, finished)
    progress = progress or (lambda state: None)
    progress(state)
    if not waiting:
        return state
    if workers is None and (len(waiting) == 1 or find_spec("ray") is None):
        workers = 0
    if workers == 0:
        return _follow(_run_here(job, waiting), state, progress)
    from tf_segformer.batch.ray_actors import run_on_ray

    return _follow(run_on_ray(job, waiting, workers, cpus_per_worker, gpus_per_worker), state, progress)


def _check_options(format: str, workers: int | None, images_per_shard: int, batch_size: int) -> None:
    """Rejects what is out of range; the predictor checks its own options."""
    if format not in FORMATS:
        raise ValueError(f"format={format!r} must be one of {', '.join(FORMATS)}")
    if workers is not None and workers < 0:
        raise ValueError(f"workers={workers} must be 0 (this process) or more")
    if images_per_shard < 1 or batch_size < 1:
        raise ValueError(f"images_per_shard={images_per_shard} and batch_size={batch_size} must be at least 1")


def _absolute(model: str | PathLike) -> str:
    """A local checkpoint by its absolute path, which holds in the folder of a worker, too; other names as they are."""
    path = os.path.expanduser(fspath(model))
    return os.path.abspath(path) if os.path.exists(path) else fspath(model)


def _settings(job: Job, listing: str, images_per_shard: int) -> dict[str, Any]:
    """What the results depend on."""
    columns, batching = job.batching.columns, job.batching
    return {
        "model": job.fingerprint,
        "input": listing,
        "images_per_shard": images_per_shard,
        "masks": job.masks,
        "precision": job.model.precision,
        "batch_size": batching.batch_size,
        "batch_pixels": batching.batch_pixels,
        "max_pixels": batching.max_pixels,
        "image_column": columns.image,
        "id_column": columns.id,
        "options": {name: value for name, value in sorted(_plain(job.model.options).items()) if value is not None},
    }


def _plain(options: Any) -> dict[str, Any]:
    """Options as they come back from JSON, without those that are what the predictor takes by itself."""
    usual = {"mode": "resize"}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
    return {name: value for name, value in plain.items() if value != usual.get(name)}


def _notes(job: Job, inputs: Any, class_names: dict[int, str]) -> dict[str, Any]:
    """What a reader of the results wants to know."""
    named = [inputs] if isinstance(inputs, (str, PathLike)) else list(inputs)
    classes = {str(index): name for index, name in class_names.items()}
    return {"inputs": [fspath(each) for each in named][:100], "model": job.model.name_or_path, "classes": classes}


def _start(shards: Sequence[Shard], finished: Sequence[ShardReport]) -> Progress:
    """Where this run begins."""
    counts = [shard.images for shard in shards]
    images = sum(report.images for report in finished)
    return Progress(
        images=images,
        failed=sum(report.failed for report in finished),
        shards=len(finished),
        all_shards=len(shards),
        all_images=None if None in counts else sum(filter(None, counts)),
        earlier_images=images,
        earlier_shards=len(finished),
    )


def _run_here(job: Job, shards: Iterable[Shard]) -> Iterator[Step]:
    """The shards are finished one after the other in this process."""
    worker = ShardWorker(job)
    for shard in shards:
        yield from worker.finish(shard)


def _follow(steps: Iterable[Step], state: Progress, progress: Callable[[Progress], None]) -> Progress:
    """Counts what is done and reports it."""
    began = time.monotonic()
    for step in steps:
        state = replace(
            state,
            images=state.images + step.images,
            failed=state.failed + step.failed,
            shards=state.shards + step.shards,
            seconds=time.monotonic() - began,
        )
        progress(state)
    return state
