"""Images per second of the input pipeline and of the training step: the input must not be the bottleneck.

    python -m benchmarks.pipeline --recipe camvid-b0 --data CamVid

Batches from files, batches from shards and steps on one ready batch take turns.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks.harness import report
from tf_segformer.benchmarking.turns import time_in_turns

_BATCHES = 4  # per turn: one alone may come from a buffer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="camvid-b0")
    parser.add_argument("--data", required=True, help="folder of the recipe's dataset")
    parser.add_argument("--runs", type=int, default=5, help=f"turns of {_BATCHES} batches that count")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    from benchmarks.peers.ours import set_tensorflow_threads
    from tf_segformer.data import find_dataset, write_tfrecords
    from tf_segformer.training.recipes import load_recipe

    set_tensorflow_threads(arguments.threads)
    recipe = load_recipe(arguments.recipe)
    dataset = find_dataset(recipe.dataset, arguments.data, "train")
    with tempfile.TemporaryDirectory() as folder:
        sources = {"files": dataset, "shards": write_tfrecords(dataset, folder)}
        rows = [_row(recipe, phase, sources, arguments) for phase in recipe.phases]
    notes = f"{arguments.runs} turns of {_BATCHES} batches. {report.machine([])}"
    report.publish("pipeline", [report.Table(f"Images per second: {recipe.name} on {dataset.name}", rows, notes)])


def _row(recipe: Any, phase: Any, sources: dict[str, Any], arguments: argparse.Namespace) -> report.Row:
    """Rates of one phase."""
    from tf_segformer import SegformerImageProcessor
    from tf_segformer.data import training_dataset

    batches = {}
    for name, source in sources.items():
        batches[name] = training_dataset(
            source,
            phase.augmentation,
            phase.batch_size,
            processor=SegformerImageProcessor(),
            last_step=_BATCHES * (arguments.runs + 1) + 1,
            parallel_calls=arguments.threads,
        )
    ready = next(iter(batches["files"]))
    step = _training_step(recipe, sources["files"].num_labels)
    runs: dict[str, Callable[[], float]] = {name: _timed(iter(each)) for name, each in batches.items()}
    runs["training step"] = _timed(step(*ready) for _ in itertools.count())
    seconds = time_in_turns(runs, arguments.runs, warmup=1)
    images = _BATCHES * phase.batch_size
    rates = {name: images / statistics.median(taken) for name, taken in seconds.items()}
    return {"crop": "x".join(map(str, phase.augmentation.crop_size)), "batch": phase.batch_size, **rates}


def _training_step(recipe: Any, num_labels: int) -> Callable[..., Any]:
    from tf_segformer import SegformerConfig, SegformerForSemanticSegmentation
    from tf_segformer.training.trainer import compile_model

    config = SegformerConfig.from_variant(recipe.variant, num_labels=num_labels, **recipe.model)
    model = SegformerForSemanticSegmentation(config)
    compile_model(model, recipe)
    return model.train_on_batch


def _timed(iterator: Iterable[Any]) -> Callable[[], float]:
    def seconds() -> float:
        start = time.perf_counter()
        for _ in itertools.islice(iterator, _BATCHES):
            pass
        return time.perf_counter() - start

    return seconds


if __name__ == "__main__":
    main()
