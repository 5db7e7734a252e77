"""train: one recipe through one `model.fit`, saved so that it can be killed and resumed at any time."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from tf_segformer.configuration import SegformerConfig
from tf_segformer.data.check import check_splits
from tf_segformer.data.examples import LabelledDataset
from tf_segformer.data.pipeline import training_dataset
from tf_segformer.data.splits import open_splits
from tf_segformer.errors import CheckpointError, SegformerError
from tf_segformer.hub import DEFAULT_HUB, HubOptions, find_file
from tf_segformer.imaging.fields import defaults_note
from tf_segformer.imaging.processor import CONFIG_NAME, SegformerImageProcessor
from tf_segformer.io import read_text
from tf_segformer.modeling.models import SegformerForSemanticSegmentation
from tf_segformer.training.callbacks import (
    BEST_NAME,
    LAST_NAME,
    STATE_NAME,
    StateCallback,
    StepCounter,
    ValidationCallback,
    save_pretrained,
    stop_on_signal,
)
from tf_segformer.training.devices import device_scope, synchronize_batch_norm
from tf_segformer.training.distributed import (
    check_distribution,
    check_precision,
    count_processes,
    data_parallel,
    gather,
    lost_processes_named,
    on_first_process,
    process_index,
)
from tf_segformer.training.images import check_channels, fit_processor, image_type_of_splits
from tf_segformer.training.losses import SegmentationLoss
from tf_segformer.training.optimization import create_optimizer, format_groups, parameter_groups
from tf_segformer.training.process_group import start_processes
from tf_segformer.training.recipes import Recipe, load_recipe
from tf_segformer.training.run_log import RunLog
from tf_segformer.training.state import load_state
from tf_segformer.training.validation import Validation

if TYPE_CHECKING:
    import tensorflow as tf

PRECISIONS = {"float32": "float32", "float16": "mixed_float16", "bfloat16": "mixed_bfloat16"}
"""Keras' dtype policy for each precision; the weights stay float32."""

RECIPE_NAME = "recipe.json"


class Interrupted(SegformerError):
    """A run was stopped by SIGTERM or SIGINT after its state was saved."""


def train(
    recipe: Recipe | str | Path,
    data: str | Path | tuple[LabelledDataset, LabelledDataset],
    output: str | Path | None = None,
    *,
    model: keras.Model | str | Path | None = None,
    processor: SegformerImageProcessor | None = None,
    class_names: Sequence[str] | None = None,
    palette: Sequence[Sequence[int]] | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    seed: int | None = None,
    precision: str = "float32",
    jit_compile: bool | str = "auto",
    rematerialize: bool = False,
    devices: int | None = None,
    backend: str | None = None,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    check: bool = True,
    resume: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    parallel_calls: int | None = None,
    hub: HubOptions = DEFAULT_HUB,
) -> dict[str, Any]:
    """Trains a model by a recipe: what `tf-segformer train` does.

    Args:
        recipe: A recipe, its name such as "finetune-b0", or a .py file that defines `RECIPE`.
        data: The dataset's folder, of the recipe's kind (any kind, where that is "folder") or with TFRecord shards; or
            (training, validation) datasets.
        output: Folder of the run; by default runs/ and the recipe's name. It gets `best/` and `last/` (as
            `save_pretrained` writes them), `state.npz`, `log.csv`, `recipe.json`, `curves.png` and `tensorboard/`.
        model: A model, or the checkpoint to start from ("random" for none); by default the recipe's.
        processor: Prepares the images; by default that of the checkpoint, or ImageNet's mean and std, without resizing.
            Images beyond 8-bit RGB that these are not for get the statistics of the training split.
        class_names: Class names of a folder of kind "folder".
        palette: Colors of the classes where the labels are RGB images, one per class.
        epochs: Passes over the training images, instead of the recipe's steps.
        steps: Batches, instead of the recipe's.
        batch_size: Images per batch over all devices, instead of the recipe's.
        learning_rate: Highest rate of the encoder, instead of the recipe's.
        seed: Decides initial weights, data order, augmentation and dropout, instead of the recipe's.
        precision: "float32", or "float16" or "bfloat16" for the computation; the weights stay float32.
        jit_compile: Whether XLA compiles the step; "auto" as Keras decides.
        rematerialize: Whether the backward pass computes activations again: less memory, more time.
        devices: Number of GPUs; None for all.
        backend: The backend of Keras that this is meant for; it is chosen by KERAS_BACKEND before the first import.
        coordinator: "HOST:PORT" of process 0, where several train together; see `process_group.find_process_group`
            for the variables from which this and the next two are read.
        num_processes: How many processes train together.
        process_id: Number of this one; process 0 writes `output`.
        check: Whether to open every file before the first step.
        resume: Continue the run in `output`: same data order and schedule, so that the weights become those of a run
            that was never interrupted.
        callbacks: Keras callbacks of your own; an epoch reaches from one validation to the next, and its logs hold
            "val_mIoU", "val_aAcc" and "val_loss".
        parallel_calls: Images prepared at once; None lets tf.data decide.
        hub: How to reach the Hub, where `model` is a Hub id.

    Returns:
        The row of the log with the best validation mIoU.

    Raises:
        CheckpointError: The folder holds a run and `resume` is off, or it holds none (or another) and it is on.
        DatasetError: The data cannot be found or used.
        Interrupted: On SIGTERM or SIGINT, after the state was saved.
        SegformerError: The loss became NaN; another process ended; what the backend cannot do was asked for.
        ValueError: For an argument out of range.

    Example:
        >>> best = train(recipe, (train_data, val_data), "runs/camvid", model=model, check=False)
        group ...
        >>> best["step"]
        2
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r} must be one of {', '.join(PRECISIONS)}")
    if backend not in (None, keras.backend.backend()):
        raise SegformerError(
            f"backend={backend!r}: Keras runs on {keras.backend.backend()}; set KERAS_BACKEND={backend} before the "
            "first import of keras"
        )
    start_processes(coordinator, num_processes, process_id)
    check_precision(precision)
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    kind = None if recipe.dataset == "folder" else recipe.dataset
    splits = open_splits(kind, data, class_names, palette) if isinstance(data, (str, Path)) else data
    recipe = recipe.with_options(
        train_size=splits[0].size,
        epochs=epochs,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
    )
    if check:
        on_first_process(lambda: print(check_splits(splits)))
    run = Path(output or Path("runs") / recipe.name)
    given, image_type = processor is not None, image_type_of_splits(*splits)
    keras.utils.set_random_seed(recipe.seed)
    with data_parallel(devices):
        with device_scope(devices) as count:
            if count > 1 and recipe.accumulation_steps:
                raise SegformerError(
                    f"{recipe.name}: Keras accumulates gradients on one GPU only: train with devices=1 (--devices 1), "
                    "without accumulation_steps, whose larger batch several GPUs share, or with --backend jax"
                )
            if not isinstance(model, keras.Model):
                checkpoint = recipe.initial_weights if model is None else None if model == "random" else model
                processor = processor or _make_processor(checkpoint, recipe, hub)
                policy, channels = PRECISIONS[precision], image_type.channels
                model = _make_model(checkpoint, recipe, splits[0].class_names, policy, rematerialize, hub, channels)
            check_channels(model, splits[0])
            if count > 1:
                synchronize_batch_norm(model)
            compile_model(model, recipe, jit_compile=jit_compile)
        return fit_recipe(
            model,
            recipe,
            *splits,
            run,
            processor=fit_processor(processor, splits[0], given=given, saved=run / BEST_NAME if resume else None),
            resume=resume,
            callbacks=callbacks,
            parallel_calls=parallel_calls,
        )


def compile_model(model: keras.Model, recipe: Recipe, *, jit_compile: bool | str = "auto") -> None:
    """Compiles a model with the recipe's optimizer and loss, and creates the optimizer's variables.

    Args:
        model: Segmentation model with the dataset's number of classes.
        recipe: What to train.
        jit_compile: As in `keras.Model.compile`.

    Example:
        >>> compile_model(model, load_recipe("camvid-b0"))
    """
    accumulated = recipe.accumulation_steps or 1
    optimizer = create_optimizer(
        recipe.learning_rate,
        max(recipe.steps // accumulated, 1),
        warmup_steps=recipe.warmup_steps // accumulated,
        power=recipe.power,
        decay_start=recipe.decay_start // accumulated,
        weight_decay=recipe.weight_decay,
        head_lr_multiplier=recipe.head_lr_multiplier,
        clip_norm=recipe.clip_norm,
        accumulation_steps=recipe.accumulation_steps,
        ema_momentum=recipe.ema_momentum,
    )
    model.compile(optimizer, loss=SegmentationLoss.from_config(model.config, **recipe.loss), jit_compile=jit_compile)
    model.optimizer.build(model.trainable_variables)


def fit_recipe(
    model: keras.Model,
    recipe: Recipe,
    train_data: LabelledDataset,
    val_data: LabelledDataset,
    output: str | Path,
    *,
    processor: SegformerImageProcessor,
    resume: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    parallel_calls: int | None = None,
) -> dict[str, Any]:
    """The `fit` of `train`, for a model that is compiled already (see `compile_model`).

    Args:
        model: Compiled with the recipe's optimizer; afterwards it has the last weights, averaged where the recipe says.
        recipe: What to train.
        train_data: Examples to learn from; checked before.
        val_data: Examples to choose the best weights by.
        output: Folder of the run.
        processor: The model's.
        resume: Continue the run in `output`.
        callbacks: Keras callbacks of your own.
        parallel_calls: Images prepared at once; None lets tf.data decide.

    Returns:
        The row of the log with the best validation mIoU.

    Raises:
        CheckpointError, Interrupted, SegformerError: As `train` does.

    Example:
        >>> best = fit_recipe(model, recipe, train_data, val_data, "runs/again", processor=processor)
        group ...
    """
    output, is_first, variables = Path(output), process_index() == 0, model.trainable_variables
    check_distribution(model, [phase.batch_size for phase in recipe.phases])
    step, rows = _start(model, recipe, output, resume)
    if is_first:
        groups = parameter_groups(variables, recipe.head_lr_multiplier, recipe.weight_decay)
        print(format_groups(groups, variables))
    log = RunLog(output, val_data.class_names, rows, writes=is_first)
    with stop_on_signal() as stop, lost_processes_named():
        counter = StepCounter(recipe, step, stop, log)
        validation = ValidationCallback(counter, Validation(model, val_data, processor), log, processor)
        if step < recipe.steps:
            model.fit(
                _batches(recipe, train_data, step, processor, model.config.semantic_loss_ignore_index, parallel_calls),
                initial_epoch=counter.epochs.start,
                epochs=counter.epochs.stop,
                steps_per_epoch=recipe.validate_every,
                verbose=0,
                shuffle=False,
                callbacks=[counter, validation, *callbacks, StateCallback(counter, log)],
            )
        else:  # complete, but killed before it was finished: the state holds the weights without their average
            model.optimizer.finalize_variable_values(model.trainable_variables)
        if stop.is_set() and counter.step < recipe.steps:
            raise Interrupted(f"stopped after step {counter.step} of {recipe.steps}; continue with --resume")
    if is_first:
        save_pretrained(model, processor, output / LAST_NAME)  # `fit` ends with the averaged weights
    log.finish()
    gather(np.array([step]))  # all wait for the one that writes
    assert log.best is not None  # a run ends with a validation
    return log.best


def _batches(
    recipe: Recipe,
    data: LabelledDataset,
    first_step: int,
    processor: SegformerImageProcessor,
    ignore_index: int,
    parallel_calls: int | None,
) -> tf.data.Dataset:
    """The batches of all phases, one after the other, from a step on; the last phase has no end.

    Sizes in which the phases differ are open in the dataset's signature, also where a resumed run has left a phase
    behind: so it traces the same graph, and computes the same bits.
    """
    start, parts = 0, []
    for index, phase in enumerate(recipe.phases):
        end = start + phase.steps
        part = training_dataset(
            data,
            phase.augmentation,
            phase.batch_size,
            processor=processor,
            ignore_index=ignore_index,
            seed=recipe.seed,
            first_step=min(max(first_step, start), end),
            last_step=end if index < len(recipe.phases) - 1 else None,
            parallel_calls=parallel_calls,
            part=process_index(),
            parts=count_processes(),
        )
        parts.append(part)
        start = end
    batches = parts[0]
    for part in parts[1:]:
        batches = batches.concatenate(part)
    return batches


def _make_model(
    checkpoint: str | Path | None,
    recipe: Recipe,
    class_names: Sequence[str],
    policy: str,
    rematerialize: bool,
    hub: HubOptions,
    channels: int = 3,
) -> keras.Model:
    """The recipe's model, from random weights or from a checkpoint."""
    id2label, fields = dict(enumerate(class_names)), {"num_channels": channels, **recipe.model}
    options: dict[str, Any] = {"dtype": policy, "rematerialize": rematerialize}
    if checkpoint is None:
        config = SegformerConfig.from_variant(recipe.variant, id2label=id2label, **fields)
        return SegformerForSemanticSegmentation(config, **options)
    options |= {"ignore_mismatched_sizes": True, "new_channels": "zero" if channels > 3 else "spread"}
    return SegformerForSemanticSegmentation.from_pretrained(
        checkpoint, id2label=id2label, **options, **vars(hub), **fields
    )


def _make_processor(
    checkpoint: str | Path | None, recipe: Recipe, hub: HubOptions = DEFAULT_HUB
) -> SegformerImageProcessor:
    """The checkpoint's processor, but for images at their own size and labels as the dataset gives them."""
    fields: dict[str, Any] = {"do_resize": False, "do_reduce_labels": recipe.dataset == "ade20k"}
    if checkpoint is None:
        return SegformerImageProcessor(**fields)
    if find_file(checkpoint, [CONFIG_NAME], hub) is None:
        note = defaults_note(None, "pass `processor`, or put the file next to them")
        warnings.warn(f"{checkpoint} has no {CONFIG_NAME}: {note}", stacklevel=3)
        return SegformerImageProcessor(**fields)
    return SegformerImageProcessor.from_pretrained(checkpoint, **vars(hub), **fields)


def _start(model: keras.Model, recipe: Recipe, output: Path, resume: bool) -> tuple[int, list[dict[str, Any]]]:
    """The step to begin with and the log so far."""
    if on_first_process(lambda: _open_folder(recipe, output, resume)):
        meta = load_state(output / STATE_NAME, model)
        step, rows = meta.get("step"), meta.get("rows")
        if not isinstance(step, int) or not isinstance(rows, list):
            raise CheckpointError(f"{output / STATE_NAME}: not of a run of `train`: it has no step and no log")
        return step, rows
    return 0, []


def _open_folder(recipe: Recipe, output: Path, resume: bool) -> bool:
    """Makes the folder of a new run, or makes sure that it holds the one to be continued; whether it does."""
    settings = output / RECIPE_NAME
    wanted = json.dumps(recipe.to_dict(), indent=2, sort_keys=True)
    if resume:
        if settings.is_file() and not _holds(settings, wanted):
            raise CheckpointError(f"{settings}: the run was started with another recipe; resume with the same options")
        return True
    if (output / STATE_NAME).exists():
        raise CheckpointError(f"{output}: holds a run already; continue it with --resume or choose another folder")
    output.mkdir(parents=True, exist_ok=True)
    settings.write_text(wanted)
    return False


def _holds(settings: Path, wanted: str) -> bool:
    """Whether a file of a run holds a text; one that is too large or not text does not."""
    try:
        return read_text(settings) == wanted
    except (OSError, ValueError):
        return False
