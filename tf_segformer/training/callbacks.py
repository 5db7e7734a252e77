"""What a run does between the batches of its one `fit`: count, validate, keep the best weights, save, stop."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from tf_segformer.errors import SegformerError
from tf_segformer.imaging.processor import SegformerImageProcessor
from tf_segformer.training.distributed import count_processes, is_to_stop, process_index
from tf_segformer.training.recipes import Recipe
from tf_segformer.training.run_log import RunLog
from tf_segformer.training.state import save_state
from tf_segformer.training.validation import Validation

STATE_NAME, BEST_NAME, LAST_NAME = "state.npz", "best", "last"


class StepCounter(keras.callbacks.Callback):
    """Counts the batches of a run, and ends an epoch where the next validation is due or the run is to stop.

    An epoch of `fit` reaches from one validation to the next, `recipe.validate_every` batches. Two are shorter: the
    first of a run that was interrupted between validations, and the last of a run whose steps are no multiple. `fit`
    ends an epoch early when `stop_training` is set; taking it back lets the training go on. So this callback comes
    before those of the user, who may stop the training as well.

    Args:
        recipe: What is trained.
        step: Batches before this `fit`.
        stop: Event that ends the run after the current batch.
        log: Shows the progress.

    Raises:
        SegformerError: From a batch on, the loss is NaN.

    Example:
        >>> StepCounter(load_recipe("camvid-b0"), 1700, threading.Event(), log).epochs
        range(3, 19)
    """

    def __init__(self, recipe: Recipe, step: int, stop: threading.Event, log: RunLog) -> None:
        super().__init__()
        self.recipe, self.step, self.stop, self.log = recipe, step, stop, log
        self.loss = math.nan
        self._epoch_ended = False

    @property
    def epochs(self) -> range:
        """The epochs of `fit`, numbered from the beginning of the run."""
        return range(self.step // self.recipe.validate_every, -(-self.recipe.steps // self.recipe.validate_every))

    @property
    def validation_is_due(self) -> bool:
        """Whether the batches up to here are followed by a validation."""
        return self.step == self.recipe.steps or self.step % self.recipe.validate_every == 0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Counts the batch."""
        self.step += 1
        self.loss = float((logs or {})["loss"])  # the mean of the epoch so far
        self.log.progress(self.step, self.recipe.steps, self.loss)
        if math.isnan(self.loss):
            raise SegformerError(
                f"the loss became NaN before step {self.step}: lower the learning rate or clip the gradients; "
                f"{self.log.folder / STATE_NAME}, where there is one, holds the state of the last validation"
            )
        if is_to_stop(self.step):
            self.stop.set()
        if self.stop.is_set() or self.validation_is_due:
            self._epoch_ended = self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Lets `fit` go on, unless the run is to stop or is complete."""
        if self._epoch_ended and not self.stop.is_set() and self.step < self.recipe.steps:
            self.model.stop_training = False
        self._epoch_ended = False


class ValidationCallback(keras.callbacks.Callback):
    """Measures the (averaged) weights at the end of each epoch, logs the metrics and keeps the best weights.

    The metrics are added to the logs of the epoch as "val_mIoU", "val_aAcc" and "val_loss", for callbacks that follow.

    Args:
        counter: Comes before this callback.
        validation: Measures the model.
        log: Gets the metrics.
        processor: Saved next to the weights.

    Example:
        >>> callback = ValidationCallback(counter, Validation(model, val_data, processor), log, processor)
    """

    def __init__(
        self, counter: StepCounter, validation: Validation, log: RunLog, processor: SegformerImageProcessor
    ) -> None:
        super().__init__()
        self.counter, self.validation, self.log, self.processor = counter, validation, log, processor

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Starts the clock."""
        self._first_step, self._started = self.counter.step, time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Validates, unless the epoch was cut short."""
        counter = self.counter
        if not counter.validation_is_due:
            return
        images = counter.recipe.images_before(counter.step) - counter.recipe.images_before(self._first_step)
        speed = images / (time.monotonic() - self._started)
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        rates = {"learning_rate": rate, "head_learning_rate": rate * counter.recipe.head_lr_multiplier}
        with ema_weights(self.model):
            metrics = self.validation()
            if self.log.add(counter.step, counter.loss, rates, speed, metrics) and process_index() == 0:
                save_pretrained(self.model, self.processor, self.log.folder / BEST_NAME)
        if logs is not None:
            logs.update({f"val_{name}": metrics[name] for name in ("mIoU", "aAcc", "loss")})


class StateCallback(keras.callbacks.Callback):
    """Saves what a killed run needs to go on, at the end of each epoch; comes last, after the callbacks of the user.

    Args:
        counter: Counts the batches.
        log: Its rows are part of the state.

    Example:
        >>> callback = StateCallback(counter, log)
    """

    def __init__(self, counter: StepCounter, log: RunLog) -> None:
        super().__init__()
        self.counter, self.log = counter, log

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes the state, on process 0."""
        if process_index() == 0:
            save_state(self.log.folder / STATE_NAME, self.model, {"step": self.counter.step, "rows": self.log.rows})


@contextlib.contextmanager
def ema_weights(model: keras.Model) -> Iterator[None]:
    """Runs a block with the moving average of the weights, where the optimizer keeps one; exactly undone afterwards.

    `keras.callbacks.SwapEMAWeights` exchanges the two by additions, which changes the last bits of the weights. The
    copies stay on the devices.

    Args:
        model: Compiled model.

    Example:
        >>> with ema_weights(model):
        ...     model.save_pretrained("best")
    """
    variables = model.trainable_variables
    trained = [keras.ops.copy(variable) for variable in variables]
    model.optimizer.finalize_variable_values(variables)  # assigns the averages, if there are any
    try:
        yield
    finally:
        for variable, value in zip(variables, trained, strict=True):
            variable.assign(value)


def save_pretrained(model: keras.Model, processor: SegformerImageProcessor, folder: Path) -> None:
    """Writes model and processor to a folder that `from_pretrained` reads.

    Args:
        model: SegFormer model.
        processor: Its processor.
        folder: The folder; made where it is missing.

    Example:
        >>> save_pretrained(model, processor, Path("best"))
    """
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


@contextlib.contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set, so that a run ends after the current batch with its state saved.

    Where several processes train together, JAX handles SIGTERM, and `StepCounter` sets the event in all of them.

    Example:
        >>> with stop_on_signal() as stop:
        ...     stop.is_set()
        False
    """
    stop = threading.Event()
    is_main = threading.current_thread() is threading.main_thread()  # only there may handlers be set
    if not is_main or count_processes() > 1:
        yield stop
        return
    earlier = {kind: signal.signal(kind, lambda *_: stop.set()) for kind in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for kind, handler in earlier.items():
            signal.signal(kind, handler)
