"""Shards on the actors of Ray Data: each holds a model, writes the files itself, and may be killed at any time."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from tf_segformer.batch.inputs import Shard
from tf_segformer.errors import CheckpointError, DatasetError

if TYPE_CHECKING:
    from tf_segformer.batch.run import Job, Step

_CORES_PER_WORKER = 4
_RETRIES = 3  # of one shard: what kills its worker each time would kill every other, too


class _Actor:
    """What Ray Data calls with a batch of one shard.

    Args:
        job: What to do.
        threads: Cores of the actor.
    """

    def __init__(self, job: Job, threads: int) -> None:
        os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(threads))  # read when TensorFlow is imported
        os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # several actors may share a GPU
        from tf_segformer.batch.run import ShardWorker

        self._worker = ShardWorker(job)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        steps = list(self._worker.finish(pickle.loads(batch["shard"][0])))
        names = ("images", "failed", "shards")
        return {name: np.array([sum(getattr(step, name) for step in steps)]) for name in names}


def run_on_ray(
    job: Job, shards: Sequence[Shard], workers: int | None, cpus: float | None, gpus: float | None
) -> Iterator[Step]:
    """Finishes shards on Ray.

    Args:
        job: What to do.
        shards: The shards.
        workers: Number of actors; None takes all GPUs, or else all cores.
        cpus: Cores for each actor.
        gpus: GPUs for each actor.

    Yields:
        What each shard gave, as they are finished. A shard whose worker is killed is done again by another.

    Raises:
        ImportError: Ray is not installed.
        DatasetError: A worker failed, or the same shard killed its worker several times.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError("workers need Ray: pip install 'tf_segformer[ray]', or take workers=0") from error
    from tf_segformer.batch.run import Step

    with _running(ray):
        cpus, gpus, most = _resources(ray, cpus, gpus, workers)
        workers = min(workers or most, len(shards))
        rows = [{"shard": pickle.dumps(shard)} for shard in shards]
        results = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _Actor,
            fn_constructor_args=(job, max(1, int(cpus))),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
            num_cpus=cpus,
            num_gpus=gpus,
            max_restarts=-1,
            max_task_retries=_RETRIES,
        )
        try:
            for row in results.iter_rows():
                yield Step(int(row["images"]), int(row["failed"]), int(row["shards"]))
        except ray.exceptions.RayError as error:
            raise _error_of_worker(job, error) from error


@contextmanager
def _running(ray: Any) -> Iterator[None]:
    """Ray as the caller started it, or one of our own that ends with the block; its progress bars are off."""
    own = not ray.is_initialized()
    if own:
        ray.init(log_to_driver=False)
    context = ray.data.DataContext.get_current()
    bars, context.enable_progress_bars = context.enable_progress_bars, False
    try:
        yield
    finally:
        context.enable_progress_bars = bars
        if own:
            ray.shutdown()


def _resources(
    ray: Any, cpus: float | None, gpus: float | None, workers: int | None = None
) -> tuple[float, float, int]:
    """Cores and GPUs of each actor, and how many actors there may be; so few cores that all of `workers` fit."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if gpus is None:
        gpus = 1 if any(each.get("GPU", 0) >= 1 for each in machines) else 0
    machines = [each for each in machines if each.get("CPU", 0) > 0 and each.get("GPU", 0) >= gpus]
    if not machines:
        raise DatasetError(f"no machine of the Ray cluster has a core and {gpus:g} GPUs: lower --gpus-per-worker")
    if cpus is None:
        cpus = min(_CORES_PER_WORKER, *(each["CPU"] // max(1, each["GPU"] // gpus if gpus else 1) for each in machines))
        cpus = max(min(cpus, sum(each["CPU"] for each in machines) // (workers or 1)), 1)
    fitting = (
        min(each["CPU"] // cpus if cpus else np.inf, each["GPU"] // gpus if gpus else np.inf) for each in machines
    )
    return cpus, gpus, max(1, int(sum(fitting)))


def _error_of_worker(job: Job, error: Exception) -> Exception:
    """What went wrong in a worker, in a line; what is finished stays."""
    cause = getattr(error, "cause", None) or error.__cause__ or error
    if isinstance(cause, (CheckpointError, DatasetError, ImportError)):
        return type(cause)(str(cause))
    reason = " ".join(str(cause).split())[-500:]  # a trace of the worker, whose end says what it is
    return DatasetError(
        f"a worker failed ({type(cause).__name__}: {reason}). Finished shards stay in {job.output}: the same command "
        "goes on from there. If memory ran out, take fewer workers or a smaller --batch-pixels"
    )
