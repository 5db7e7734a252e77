"""`tf-segformer train`: a recipe, a folder of data, and a folder for the run."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tf_segformer.errors import DatasetError

if TYPE_CHECKING:
    import keras

    from tf_segformer.data.datasets import SegmentationDataset
    from tf_segformer.data.tfrecords import ShardedDataset
    from tf_segformer.training.recipes import Recipe

PRECISIONS = {"float32": "float32", "float16": "mixed_float16", "bfloat16": "mixed_bfloat16"}


@click.command(short_help="Train or fine-tune on a labelled dataset.")
@click.option("--recipe", "recipe_name", required=True, help="Name, such as ade20k-b0, or a .py file with RECIPE.")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder of the dataset, or of its shards.")
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), help="Folder of the run; default runs/RECIPE."
)
@click.option("--init", "initial_weights", metavar="CHECKPOINT", help="Start from these weights; 'random' for none.")
@click.option("--epochs", type=click.IntRange(1), help="Train for this many passes over the data.")
@click.option("--steps", type=click.IntRange(1), help="Train for this many batches.")
@click.option("--batch-size", type=click.IntRange(1), help="Images a batch.")
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), help="Highest rate of the encoder.")
@click.option("--seed", type=int, help="Decides initial weights, data order, augmentation and dropout.")
@click.option("--class-names", metavar="A,B,...", help="Class names of a dataset of kind 'folder'.")
@click.option("--palette", metavar="RRGGBB,...", help="Colors of the classes, where the labels are RGB images.")
@click.option("--precision", type=click.Choice(list(PRECISIONS)), default="float32", show_default=True)
@click.option("--jit/--no-jit", default=None, help="Compile the step with XLA; default as Keras decides.")
@click.option("--remat", is_flag=True, help="Compute activations again in the backward pass: less memory, more time.")
@click.option("--devices", type=click.IntRange(1), help="Train on this many GPUs; default all.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads; default all.")
@click.option("--check/--no-check", default=True, help="Open every file before the first step.")
@click.option("--write-tfrecords", type=click.Path(path_type=Path), help="Write the data as TFRecord shards and stop.")
@click.option("--resume", is_flag=True, help="Continue the run in the output folder.")
def train(
    recipe_name: str,
    data: Path,
    output: Path | None,
    precision: str,
    jit: bool | None,
    remat: bool,
    devices: int | None,
    threads: int | None,
    check: bool,
    write_tfrecords: Path | None,
    resume: bool,
    class_names: str | None,
    palette: str | None,
    **changes: Any,
) -> None:
    """Trains SegFormer by a recipe. Kill it at any time and go on with --resume: the weights will be the same.

    The output folder gets best/ and last/ (config, weights and processor, as save_pretrained writes them), log.csv,
    curves.png, tensorboard/ and the state that --resume reads.

    Example: tf-segformer train --recipe camvid-b0 --data CamVid
    """
    from tf_segformer.training.recipes import load_recipe

    recipe = load_recipe(recipe_name)
    splits = {split: _open_split(recipe, data, split, class_names, palette) for split in ("train", "val")}
    recipe = _change(recipe, splits["train"], **changes)
    if check:
        _check(splits)
    if write_tfrecords is not None:
        _write_tfrecords(splits, write_tfrecords)
        return

    import keras

    from tf_segformer import SegformerImageProcessor
    from tf_segformer.training import trainer

    strategy = _prepare_machine(threads, devices)
    keras.utils.set_random_seed(recipe.seed)
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = _make_model(recipe, splits["train"].class_names, PRECISIONS[precision])
        if remat:
            trainer.rematerialize(model)
        if strategy:
            trainer.synchronize_batch_norm(model)
        trainer.compile_model(model, recipe, jit_compile="auto" if jit is None else jit)
    _print_groups(model)
    best = trainer.train(
        model,
        recipe,
        splits["train"],
        splits["val"],
        output or Path("runs") / recipe.name,
        processor=SegformerImageProcessor(do_resize=False),
        resume=resume,
        parallel_calls=threads,
    )
    click.echo(f"best mIoU {100 * best['mIoU']:.2f} at step {best['step']}")


def _open_split(
    recipe: Recipe, data: Path, split: str, class_names: str | None, palette: str | None
) -> SegmentationDataset | ShardedDataset:
    """A split as files or, where the folder holds shards, as those."""
    from tf_segformer.data.datasets import find_dataset
    from tf_segformer.data.tfrecords import INDEX_NAME, open_tfrecords

    if (data / split / INDEX_NAME).is_file():
        return open_tfrecords(data / split)
    names = None if class_names is None else [name.strip() for name in class_names.split(",")]
    try:
        colors = None if palette is None else [tuple(bytes.fromhex(color)) for color in palette.split(",")]
        return find_dataset(recipe.dataset, data, split, names, colors)
    except DatasetError:
        raise
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _change(
    recipe: Recipe,
    train_data: SegmentationDataset | ShardedDataset,
    *,
    initial_weights: str | None,
    epochs: int | None,
    steps: int | None,
    batch_size: int | None,
    learning_rate: float | None,
    seed: int | None,
) -> Recipe:
    """The recipe with what the command line sets."""
    if epochs is not None and steps is not None:
        raise click.UsageError("--epochs and --steps exclude each other")
    if batch_size is not None:
        recipe = replace(recipe, phases=tuple(replace(phase, batch_size=batch_size) for phase in recipe.phases))
    if initial_weights is not None:
        recipe = replace(recipe, initial_weights=None if initial_weights == "random" else initial_weights)
    given: dict[str, Any] = {"learning_rate": learning_rate, "seed": seed}
    recipe = replace(recipe, **{name: value for name, value in given.items() if value is not None})
    if epochs is not None:
        images_a_step = sum(phase.steps * phase.batch_size for phase in recipe.phases) / recipe.steps
        steps = max(round(epochs * train_data.size / images_a_step), len(recipe.phases))
    return recipe if steps is None else recipe.with_steps(steps)


def _check(splits: dict[str, Any]) -> None:
    """Opens every file of the splits that are not shards, and tells the classes that are never labelled."""
    from tf_segformer.data.check import check_dataset
    from tf_segformer.data.tfrecords import ShardedDataset

    for dataset in splits.values():
        if isinstance(dataset, ShardedDataset):
            continue
        counts = check_dataset(dataset)
        absent = [name for name, count in zip(dataset.class_names, counts, strict=True) if not count]
        note = f"; never labelled: {', '.join(absent)}" if absent else ""
        click.echo(f"{dataset.name}: {dataset.size} images checked{note}")


def _write_tfrecords(splits: dict[str, Any], folder: Path) -> None:
    """Writes both splits below a folder that --data takes."""
    from tf_segformer.data.tfrecords import write_tfrecords

    for split, dataset in splits.items():
        written = write_tfrecords(dataset, folder / split)
        click.echo(f"{folder / split}: {written.size} examples in {len(written.paths)} shards")


def _prepare_machine(threads: int | None, devices: int | None) -> Any:
    """Sets the number of threads; a MirroredStrategy where several GPUs are to be used, else None."""
    import tensorflow as tf

    if threads is not None:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    gpus = [f"GPU:{index}" for index in range(len(tf.config.list_logical_devices("GPU")))]
    if devices is not None and devices > max(len(gpus), 1):
        raise click.UsageError(f"--devices {devices}: this machine has {len(gpus)} GPUs that TensorFlow sees")
    chosen = gpus[:devices]
    return tf.distribute.MirroredStrategy(chosen) if len(chosen) > 1 else None


def _make_model(recipe: Recipe, class_names: tuple[str, ...], policy: str) -> keras.Model:
    """The recipe's model, from random weights or from its checkpoint."""
    from tf_segformer import SegformerConfig, SegformerForSemanticSegmentation

    id2label = dict(enumerate(class_names))
    if recipe.initial_weights is None:
        config = SegformerConfig.from_variant(recipe.variant, id2label=id2label, **recipe.model)
        return SegformerForSemanticSegmentation(config, dtype=policy)
    return SegformerForSemanticSegmentation.from_pretrained(
        recipe.initial_weights, id2label=id2label, ignore_mismatched_sizes=True, dtype=policy, **recipe.model
    )


def _print_groups(model: keras.Model) -> None:
    """Prints the optimizer's groups."""
    from tf_segformer.training.optimization import format_groups, parameter_groups

    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    variables = model.trainable_variables
    click.echo(format_groups(parameter_groups(optimizer, variables), variables))
