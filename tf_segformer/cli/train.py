"""`tf-segformer train`: a recipe, a folder of data, and a folder for the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tf_segformer.cli.options import hub_options, precision_option
from tf_segformer.errors import DatasetError


@click.command(short_help="Train or fine-tune on a labelled dataset.")
@click.option("--recipe", required=True, help="Name, such as ade20k-b0, or a .py file with RECIPE.")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder of the dataset, or of its shards.")
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), help="Folder of the run; default runs/RECIPE."
)
@click.option("--init", "model", metavar="CHECKPOINT", help="Start from these weights; 'random' for none.")
@click.option("--epochs", type=click.IntRange(1), help="Train for this many passes over the data.")
@click.option("--steps", type=click.IntRange(1), help="Train for this many batches.")
@click.option("--batch-size", type=click.IntRange(1), help="Images per batch.")
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), help="Highest rate of the encoder.")
@click.option("--seed", type=int, help="Decides initial weights, data order, augmentation and dropout.")
@click.option("--class-names", metavar="A,B,...", help="Class names of a dataset of kind 'folder'.")
@click.option("--palette", metavar="RRGGBB,...", help="Colors of the classes, where the labels are RGB images.")
@precision_option("Of the computation; the weights stay float32.")
@click.option("--jit/--no-jit", default=None, help="Compile the step with XLA; default as Keras decides.")
@click.option(
    "--rematerialize", is_flag=True, help="Compute activations again in the backward pass: less memory, more time."
)
@click.option("--devices", type=click.IntRange(1), help="Train on this many GPUs; default all.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads; default all.")
@click.option("--check/--no-check", default=True, help="Open every file before the first step.")
@click.option("--write-tfrecords", type=click.Path(path_type=Path), help="Write the data as TFRecord shards and stop.")
@click.option("--resume", is_flag=True, help="Continue the run in the output folder.")
@hub_options
def train(
    recipe: str,
    data: Path,
    class_names: str | None,
    palette: str | None,
    jit: bool | None,
    threads: int | None,
    check: bool,
    write_tfrecords: Path | None,
    **options: Any,
) -> None:
    """Trains SegFormer by a recipe. Kill it at any time and go on with --resume: the weights will be the same.

    The output folder gets best/ and last/ (config, weights and processor, as save_pretrained writes them), log.csv,
    curves.png, tensorboard/ and the state that --resume reads.

    Example: tf-segformer train --recipe camvid-b0 --data CamVid
    """
    from tf_segformer.data import check_dataset
    from tf_segformer.training.recipes import load_recipe

    if options["epochs"] and options["steps"]:
        raise click.UsageError("--epochs and --steps exclude each other")
    loaded = load_recipe(recipe)
    splits = _open_splits(loaded.dataset, data, class_names, palette)
    if check:  # before the seconds that Keras takes
        for dataset in splits:
            click.echo(check_dataset(dataset))
    if write_tfrecords is not None:
        _write_tfrecords(splits, write_tfrecords)
        return
    _limit_threads(threads)
    from tf_segformer.training import trainer

    jit_compile = "auto" if jit is None else jit
    best = trainer.train(loaded, splits, jit_compile=jit_compile, check=False, parallel_calls=threads, **options)
    click.echo(f"best mIoU {100 * best['mIoU']:.2f} at step {best['step']}")


def _open_splits(kind: str, data: Path, class_names: str | None, palette: str | None) -> Any:
    """Both splits, with names and colors as the command line spells them."""
    from tf_segformer.data import open_splits

    names = None if class_names is None else [name.strip() for name in class_names.split(",")]
    try:
        colors = None if palette is None else [tuple(bytes.fromhex(color)) for color in palette.split(",")]
        return open_splits(kind, data, names, colors)
    except DatasetError:
        raise
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _write_tfrecords(splits: Any, folder: Path) -> None:
    """Writes both splits to a folder that --data takes."""
    from tf_segformer.data import write_tfrecords
    from tf_segformer.data.splits import SPLITS

    for split, dataset in zip(SPLITS, splits, strict=True):
        written = write_tfrecords(dataset, folder / split)
        click.echo(f"{folder / split}: {written.size} examples in {len(written.paths)} shards")


def _limit_threads(threads: int | None) -> None:
    """Sets the number of TensorFlow's threads, before it is used."""
    if threads is not None:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
