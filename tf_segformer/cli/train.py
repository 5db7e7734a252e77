"""`tf-segformer train`: a recipe, a folder of data, and a folder for the run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from tf_segformer.cli.data_options import data_options, open_with_options
from tf_segformer.cli.loading import import_keras
from tf_segformer.cli.options import hub_options, precision_option
from tf_segformer.errors import CheckpointError


@click.command(short_help="Train or fine-tune on a labelled dataset.")
@click.option("--data", required=True, help="Folder of the dataset, or of its shards.")
@click.option(
    "--recipe", default="finetune-b0", show_default=True, help="Name, such as ade20k-b0, or a .py file with RECIPE."
)
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), help="Folder of the run; default runs/RECIPE."
)
@click.option("--init", "model", metavar="CHECKPOINT", help="Start from these weights; 'random' for none.")
@click.option("--epochs", type=click.IntRange(1), help="Train for this many passes over the data.")
@click.option("--steps", type=click.IntRange(1), help="Train for this many batches.")
@click.option("--batch-size", type=click.IntRange(1), help="Images per batch.")
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), help="Highest rate of the encoder.")
@click.option("--seed", type=int, help="Decides initial weights, data order, augmentation and dropout.")
@data_options
@click.option(
    "--class-weights", metavar="W,W,...", help="Weight of each class in the loss, or 'balanced': more for rare ones."
)
@precision_option("Of the computation; the weights stay float32.")
@click.option("--jit/--no-jit", default=None, help="Compile the step with XLA; default as Keras decides.")
@click.option(
    "--rematerialize", is_flag=True, help="Compute activations again in the backward pass: less memory, more time."
)
@click.option("--devices", type=click.IntRange(1), help="Train on this many GPUs; default all.")
@click.option(
    "--backend", type=click.Choice(["tensorflow", "jax", "torch"]), help="Of Keras; default KERAS_BACKEND, TensorFlow."
)
@click.option("--coordinator", metavar="HOST:PORT", help="Of process 0, where several train together, with JAX.")
@click.option("--num-processes", type=click.IntRange(1), help="How many train together; default as SLURM or JAX_* say.")
@click.option("--process-id", type=click.IntRange(0), help="Number of this process; number 0 writes the output.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads; default all.")
@click.option("--check/--no-check", default=True, help="Open every file before the first step.")
@click.option("--write-tfrecords", type=click.Path(path_type=Path), help="Write the data as TFRecord shards and stop.")
@click.option("--resume", is_flag=True, help="Continue the run in the output folder.")
@hub_options
def train(
    recipe: str,
    data: str,
    data_options: dict[str, Any],
    class_weights: str | None,
    jit: bool | None,
    backend: str | None,
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    threads: int | None,
    check: bool,
    write_tfrecords: Path | None,
    **options: Any,
) -> None:
    """Trains SegFormer by a recipe. Kill it at any time and go on with --resume: the weights will be the same.

    The output folder gets best/ and last/ (config, weights and processor, as save_pretrained writes them), log.csv,
    curves.png, tensorboard/ and the state that --resume reads.

    Example: tf-segformer train --data my-dataset --init camvid-b0
    """
    if options["epochs"] and options["steps"]:
        raise click.UsageError("--epochs and --steps exclude each other")
    if backend is not None:
        os.environ["KERAS_BACKEND"] = backend
    import_keras("tensorflow")  # which prepares the images for every backend, without its start-up notes
    from tf_segformer.training import trainer
    from tf_segformer.training.distributed import (
        failing_together,
        lost_processes_named,
        on_first_process,
        process_index,
    )
    from tf_segformer.training.process_group import start_processes
    from tf_segformer.training.recipes import load_recipe

    processes: dict[str, Any] = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    start_processes(**processes)
    with failing_together(unless=trainer.Interrupted), lost_processes_named():
        loaded = load_recipe(recipe)
        if data_options["kind"] is None and loaded.dataset != "folder":
            data_options["kind"] = loaded.dataset
        splits = open_with_options(data, data_options)
        balanced = class_weights == "balanced"
        weights = on_first_process(lambda: _check(splits, check, balanced)) if check or balanced else None
        if write_tfrecords is not None:
            on_first_process(lambda: _write_tfrecords(splits, write_tfrecords))
            return
        if class_weights is not None:
            loaded = _with_class_weights(loaded, weights or _numbers(class_weights), splits[0].class_names)
        _limit_threads(threads)
        options |= {"jit_compile": "auto" if jit is None else jit, "backend": backend, **processes}
        try:
            best = trainer.train(loaded, splits, check=False, parallel_calls=threads, **options)
        except CheckpointError as error:
            if options["model"] is None and str(error).startswith(f"{loaded.initial_weights}: "):
                raise CheckpointError(
                    f"{error}; or start from weights of this package (--init camvid-b0) or from none (--init random)"
                ) from error
            raise
    if process_index() == 0:
        click.echo(f"best mIoU {100 * best['mIoU']:.2f} at step {best['step']}")


def _check(splits: Any, raise_on_problems: bool, balanced: bool) -> list[float] | None:
    """Prints what the checks found; returns the weights of the classes, if they are to be balanced."""
    from tf_segformer.data import check_splits
    from tf_segformer.data.check import balanced_weights

    report = check_splits(splits, raise_on_problems=raise_on_problems)
    click.echo(report)
    return [float(weight) for weight in balanced_weights(report.splits["train"])] if balanced else None


def _numbers(text: str) -> list[float]:
    """Numbers parted by commas."""
    try:
        return [float(number) for number in text.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is neither 'balanced' nor numbers", param_hint="--class-weights") from error


def _with_class_weights(recipe: Any, weights: list[float], class_names: Sequence[str]) -> Any:
    """The recipe with weights of its loss, which are printed."""
    if len(weights) != len(class_names):
        raise click.UsageError(f"--class-weights has {len(weights)} numbers for {len(class_names)} classes")
    pairs = [f"{name} {weight:g}" for name, weight in zip(class_names, weights, strict=True)]
    click.echo(f"class weights: {', '.join(pairs)}")
    return replace(recipe, loss={**recipe.loss, "class_weights": weights})


def _write_tfrecords(splits: Any, folder: Path) -> None:
    """Writes both splits to a folder that --data takes."""
    from tf_segformer.data import write_tfrecords
    from tf_segformer.data.datasets import SPLITS

    for split, dataset in zip(SPLITS, splits, strict=True):
        written = write_tfrecords(dataset, folder / split)
        click.echo(f"{folder / split}: {written.size} examples in {len(written.paths)} shards")


def _limit_threads(threads: int | None) -> None:
    """Sets the number of TensorFlow's threads, before it is used."""
    if threads is not None:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
