"""`tf-segformer train`: a recipe, a folder of data, a folder for the run."""

from __future__ import annotations

import click


@click.command()
@click.option("--recipe", "recipe_name", required=True, help="Name of a recipe, such as ade20k-b0, or a .py file.")
@click.option("--data", required=True, type=click.Path(), help="Folder of the dataset.")
@click.option("--output", default=None, type=click.Path(), help="Folder of the run; default runs/RECIPE.")
@click.option("--steps", default=None, type=click.IntRange(min=1), help="Train for this many batches instead.")
@click.option("--seed", default=None, type=int, help="Decides weights, data order, augmentation and dropout.")
@click.option("--resume", is_flag=True, help="Continue the run in the output folder.")
@click.option("--threads", default=None, type=click.IntRange(min=1), help="CPU threads; default all.")
def train(recipe_name, data, output, steps, seed, resume, threads):
    """Train or fine-tune SegFormer by a recipe; kill it at any time and go on with --resume."""
    from dataclasses import replace

    import keras
    import tensorflow as tf

    from tf_segformer import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor
    from tf_segformer.training import trainer
    from tf_segformer.training.datasets import find_dataset
    from tf_segformer.training.recipes import load_recipe

    if threads is not None:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    recipe = load_recipe(recipe_name)
    if steps is not None:
        recipe = recipe.with_steps(steps)
    if seed is not None:
        recipe = replace(recipe, seed=seed)
    train_data, val_data = (find_dataset(recipe.dataset, data, split) for split in ("train", "val"))
    keras.utils.set_random_seed(recipe.seed)
    config = SegformerConfig.from_variant(
        recipe.variant, id2label=dict(enumerate(train_data.class_names)), **recipe.model
    )
    model = SegformerForSemanticSegmentation(config)
    trainer.compile_model(model, recipe)
    best = trainer.train(
        model,
        recipe,
        train_data,
        val_data,
        output or f"runs/{recipe.name}",
        processor=SegformerImageProcessor(),
        resume=resume,
        parallel_calls=threads,
    )
    click.echo(f"best mIoU {100 * best['mIoU']:.2f} at step {best['step']}")
