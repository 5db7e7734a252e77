"""train: one recipe through `model.fit`, saved so that it can be killed and resumed at any time."""

from __future__ import annotations

import contextlib
import json
import math
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tf_segformer.data.datasets import SegmentationDataset
from tf_segformer.data.pipeline import denormalize, training_dataset, validation_dataset
from tf_segformer.data.tfrecords import ShardedDataset
from tf_segformer.errors import CheckpointError, SegformerError
from tf_segformer.evaluation.metrics import MeanIoU
from tf_segformer.imaging.postprocess import class_map_from_logits
from tf_segformer.imaging.processor import SegformerImageProcessor
from tf_segformer.io import read_text
from tf_segformer.training.losses import SegmentationLoss
from tf_segformer.training.optimization import create_optimizer
from tf_segformer.training.recipes import Phase, Recipe
from tf_segformer.training.run_log import RunLog
from tf_segformer.training.state import load_state, save_state

STATE_NAME, RECIPE_NAME = "state.npz", "recipe.json"
BEST_NAME, LAST_NAME = "best", "last"
_BLOCK = re.compile(r"block_\d+_\d+")
_EXAMPLES = 3  # validation images that TensorBoard shows


class Interrupted(SegformerError):
    """A run was stopped by SIGTERM or SIGINT after its state was saved."""


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
    model.compile(optimizer, loss=SegmentationLoss(**recipe.loss), jit_compile=jit_compile)
    model.optimizer.build(model.trainable_variables)


def synchronize_batch_norm(model: keras.Model) -> None:
    """Lets batch norms take their moments over all devices of a `tf.distribute` strategy, as the authors trained.

    Args:
        model: Built in the strategy's scope, not traced yet.

    Example:
        >>> synchronize_batch_norm(model)
    """
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True


def rematerialize(model: keras.Model) -> None:
    """Computes the inside of every attention and feed-forward layer again in the backward pass: less memory, more time.

    `keras.RematScope` would do this, but under TensorFlow it fails on layers that are called with `training=`, and
    around a whole block it would draw another stochastic depth the second time.

    Args:
        model: SegFormer model without dropout inside those layers, not traced yet.

    Raises:
        ValueError: The model has dropout there, which would be drawn anew.

    Source: Chen et al. 2016, https://arxiv.org/abs/1604.06174.

    Example:
        >>> rematerialize(model)
    """
    config = model.config
    if config.hidden_dropout_prob or config.attention_probs_dropout_prob:
        raise ValueError("rematerialization needs hidden_dropout_prob=0 and attention_probs_dropout_prob=0")
    for layer in model._flatten_layers():
        if _BLOCK.fullmatch(layer.name):
            layer.attention.mix = _attention_again(layer.attention.mix)
            layer.mlp.mix = _again(layer.mlp.mix)


def _again(mix: Callable[..., Any]) -> Callable[..., Any]:
    """A layer's `mix` that keeps its input only."""

    def mix_again(positions: Any, *arguments: Any, **options: Any) -> Any:
        return keras.remat(lambda positions: mix(positions, *arguments, **options))(positions)

    return mix_again


def _attention_again(mix: Callable[..., tuple[Any, None]]) -> Callable[..., tuple[Any, None]]:
    """The same of attention, which has no probabilities to give in training."""
    outputs = _again(lambda *arguments, **options: mix(*arguments, **options)[0])
    return lambda *arguments, **options: (outputs(*arguments, **options), None)


def train(
    model: keras.Model,
    recipe: Recipe,
    train_data: SegmentationDataset | ShardedDataset,
    val_data: SegmentationDataset | ShardedDataset,
    output: str | Path,
    *,
    processor: SegformerImageProcessor,
    resume: bool = False,
    parallel_calls: int | None = None,
) -> dict[str, Any]:
    """Trains a compiled model (see `compile_model`) and keeps its best and last weights.

    Args:
        model: Compiled with the recipe's optimizer.
        recipe: What to train.
        train_data: Examples to learn from; checked before.
        val_data: Examples to choose by.
        output: Folder of the run: `best/` and `last/` (as `save_pretrained` writes them), `state.npz`, `log.csv`,
            `recipe.json`, `curves.png` and `tensorboard/`.
        processor: Saved beside the weights.
        resume: Continue the run in `output`: same data order and schedule, so the weights become those of a run that
            was never interrupted.
        parallel_calls: Images prepared at once; None lets tf.data decide.

    Returns:
        The row of the log with the best validation mIoU.

    Raises:
        CheckpointError: The folder holds a run and `resume` is off, or it holds none (or another) and it is on.
        Interrupted: On SIGTERM or SIGINT, after the state was saved.
        SegformerError: The loss became NaN.

    Example:
        >>> best = train(model, recipe, train_data, val_data, "runs/camvid", processor=processor)
        step 2: loss ...
    """
    output = Path(output)
    step, rows = _start(model, recipe, output, resume)
    log = RunLog(output, val_data.class_names, rows)
    validate = make_validation(model, val_data, parallel_calls)
    with _stop_on_signal() as stop:
        while step < recipe.steps and not stop.is_set():
            phase, end = _next_stretch(recipe, step)
            batches = training_dataset(
                train_data,
                phase.augmentation,
                phase.batch_size,
                seed=recipe.seed,
                first_step=step,
                last_step=end,
                parallel_calls=parallel_calls,
            )
            follower = _ProgressCallback(log, stop, step, recipe.steps)
            started = time.monotonic()
            model.fit(batches, steps_per_epoch=end - step, epochs=1, verbose=0, shuffle=False, callbacks=[follower])
            seconds = time.monotonic() - started
            if math.isnan(follower.loss):
                raise SegformerError(
                    f"the loss became NaN before step {follower.step}: lower the learning rate or clip the gradients; "
                    f"{output / STATE_NAME} still holds the last good state"
                )
            speed = (follower.step - step) * phase.batch_size / seconds
            step = follower.step
            if step == recipe.steps or step % recipe.validate_every == 0:
                with ema_weights(model):
                    scores = validate()
                    if log.add(step, follower.loss, _learning_rates(model), speed, scores):
                        _save_pretrained(model, processor, output / BEST_NAME)
            save_state(output / STATE_NAME, model, {"step": step, "rows": log.rows})
    if step < recipe.steps:
        raise Interrupted(f"stopped after step {step} of {recipe.steps}; continue with --resume")
    with ema_weights(model):
        _save_pretrained(model, processor, output / LAST_NAME)
    log.finish()
    assert log.best is not None  # a run ends with a validation
    return log.best


def make_validation(
    model: keras.Model, dataset: SegmentationDataset | ShardedDataset, parallel_calls: int | None = None
) -> Callable[[], dict[str, Any]]:
    """A function that measures the model on whole images.

    Args:
        model: Compiled segmentation model.
        dataset: The validation split.
        parallel_calls: Images prepared at once; None lets tf.data decide.

    Returns:
        Function without arguments that returns the scores of `metrics.metrics_from_confusion`, "loss", and "examples":
        (image uint8, class map, target) of the first three images.

    Example:
        >>> 0 <= make_validation(model, val_data)()["mIoU"] <= 1
        True
    """
    metric, loss = MeanIoU(dataset.num_labels), model.loss

    @tf.function(reduce_retracing=True)
    def measure(images: Any, labels: Any) -> tuple[Any, Any]:
        logits = model(images, training=False)
        metric.update_state(labels, logits)
        return loss(labels, logits), logits

    def validate() -> dict[str, Any]:
        metric.reset_state()
        losses: list[float] = []
        examples: list[tuple[Any, Any, Any]] = []
        for images, labels in validation_dataset(dataset, parallel_calls):
            value, logits = measure(images, labels)
            losses.append(float(value))
            if len(examples) < _EXAMPLES:
                class_map = class_map_from_logits(logits[0].numpy(), tuple(labels.shape[1:]))
                examples.append((denormalize(images[0]), class_map, labels[0].numpy()))
        return {**metric.metrics(), "loss": sum(losses) / len(losses), "examples": examples}

    return validate


@contextlib.contextmanager
def ema_weights(model: keras.Model) -> Iterator[None]:
    """Runs a block with the moving average of the weights, where the optimizer keeps one.

    Args:
        model: Compiled model.

    Example:
        >>> with ema_weights(model):
        ...     model.save_pretrained("best")
    """
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    if not optimizer.use_ema:
        yield
        return
    variables = model.trainable_variables
    trained = [keras.ops.convert_to_numpy(variable) for variable in variables]
    for variable, average in zip(variables, optimizer._model_variables_moving_average, strict=True):
        variable.assign(average)
    try:
        yield
    finally:
        for variable, value in zip(variables, trained, strict=True):
            variable.assign(value)


class _ProgressCallback(keras.callbacks.Callback):
    """Counts the steps, shows the progress, and ends `fit` when the run is to stop."""

    def __init__(self, log: RunLog, stop: threading.Event, step: int, steps: int) -> None:
        super().__init__()
        self.log, self.stop, self.step, self.steps = log, stop, step, steps
        self.loss = math.nan

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.step += 1
        self.loss = (logs or {})["loss"]  # the mean since the last validation
        self.log.progress(self.step, self.steps, self.loss)
        if self.stop.is_set() or math.isnan(self.loss):
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        # `fit` ends by replacing the weights by their average; this run goes on with the weights themselves.
        self._keeps_average, self._optimizer.use_ema = self._optimizer.use_ema, False

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._optimizer.use_ema = self._keeps_average

    @property
    def _optimizer(self) -> keras.optimizers.Optimizer:
        return getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)


def _start(model: keras.Model, recipe: Recipe, output: Path, resume: bool) -> tuple[int, list[dict[str, Any]]]:
    """The step to begin with and the log so far."""
    state, settings = output / STATE_NAME, output / RECIPE_NAME
    wanted = json.dumps(recipe.to_dict(), indent=2, sort_keys=True)
    if resume:
        if settings.is_file() and not _says(settings, wanted):
            raise CheckpointError(f"{settings}: the run was started with another recipe; resume with the same options")
        meta = load_state(state, model)
        return meta["step"], meta["rows"]
    if state.exists():
        raise CheckpointError(f"{output}: holds a run already; continue it with --resume or choose another folder")
    output.mkdir(parents=True, exist_ok=True)
    settings.write_text(wanted)
    return 0, []


def _says(settings: Path, wanted: str) -> bool:
    """Whether a file of a run holds a text; one that is too large or not text does not."""
    try:
        return read_text(settings) == wanted
    except (OSError, ValueError):
        return False


def _next_stretch(recipe: Recipe, step: int) -> tuple[Phase, int]:
    """The phase that `step` lies in, and the step before which to validate, to save or to change the phase."""
    phase_end = 0
    for phase in recipe.phases:
        phase_end += phase.steps
        if step < phase_end:
            break
    validation = (step // recipe.validate_every + 1) * recipe.validate_every
    return phase, min(phase_end, validation)


def _learning_rates(model: keras.Model) -> dict[str, float]:
    """The rates of encoder and head at the coming step."""
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    rate = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
    return {"learning_rate": rate, "head_learning_rate": rate * optimizer.head_lr_multiplier}


def _save_pretrained(model: keras.Model, processor: SegformerImageProcessor, folder: Path) -> None:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


@contextlib.contextmanager
def _stop_on_signal() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set, so that the run ends between two steps with its state saved."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield stop
        return
    earlier = {kind: signal.signal(kind, lambda *_: stop.set()) for kind in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for kind, handler in earlier.items():
            signal.signal(kind, handler)
