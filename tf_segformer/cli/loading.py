"""What several commands share: a checkpoint's model and processor by name, without TensorFlow's start-up notes."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import click

from tf_segformer.errors import CheckpointError
from tf_segformer.hub import DEFAULT_HUB, HubOptions

if TYPE_CHECKING:
    from tf_segformer.checkpoints.loading import OpenCheckpoint
    from tf_segformer.imaging.processor import SegformerImageProcessor
    from tf_segformer.inference.engines import Engine
    from tf_segformer.modeling.models import PretrainedModel

_ENGINES_THAT_PRINT = ("tensorflow", "litert")


def load_model(
    name: str, hub: HubOptions = DEFAULT_HUB, precision: str = "float32", token_merging: float | None = None
) -> tuple[PretrainedModel, OpenCheckpoint]:
    """Loads a checkpoint into the model of its task; a bad one is reported before the seconds that Keras takes.

    Args:
        name: A folder, a checkpoint file, the name of an embedded model or a Hub id "owner/name".
        hub: How to reach the Hub.
        precision: One of `options.PRECISIONS`; the weights stay float32.
        token_merging: That of the configuration instead of the checkpoint's.

    Returns:
        The model and the checkpoint.

    Raises:
        CheckpointError: Where the checkpoint cannot be found, read, recognized or matched.
    """
    from tf_segformer.checkpoints.loading import open_checkpoint

    opened = open_checkpoint(name, hub).with_token_merging(token_merging)
    import_keras()
    from tf_segformer import loading

    return loading.load_model(opened, dtype=None if precision == "float32" else f"mixed_{precision}"), opened


def load_processor(checkpoint: OpenCheckpoint) -> SegformerImageProcessor:
    """Loads the image processor of a checkpoint; the default one, with a note on stderr, where it has none.

    Raises:
        CheckpointError: Where its file is there but not usable.
    """
    from tf_segformer.imaging.processor import CONFIG_NAME

    return _load_processor(checkpoint.find_file(CONFIG_NAME), checkpoint.name_or_path)


def _load_processor(file: Path | None, name: str | Path) -> SegformerImageProcessor:
    """The processor of a file, or the default one."""
    from tf_segformer.imaging.fields import defaults_note
    from tf_segformer.imaging.processor import CONFIG_NAME, SegformerImageProcessor

    if file is not None:
        return SegformerImageProcessor.from_pretrained(file)
    processor = SegformerImageProcessor()
    click.echo(f"tf-segformer: {name} has no {CONFIG_NAME}: {defaults_note(processor.target_size)}", err=True)
    return processor


class Predictable(NamedTuple):
    """What a predictor is made of.

    Args:
        model: A Keras model, or the engine of an exported one.
        processor: Prepares its images.
        task: "segmentation" or "classification".
    """

    model: Any
    processor: SegformerImageProcessor
    task: str

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes of its class maps; without a config.json, none."""
        from tf_segformer.imaging.labels import names_of_classes

        return tuple(names_of_classes(getattr(self.model.config, "id2label", {})).values())


def load_predictable(
    name: str, hub: HubOptions, precision: str, engine: str | None, token_merging: float | None, *tasks: str
) -> Predictable:
    """Loads a checkpoint, or opens what `export` wrote.

    Args:
        name: As for `load_model`; or the folder or file of an exported model, if no checkpoint is in the folder.
        hub: How to reach the Hub.
        precision: One of `options.PRECISIONS`.
        engine: Which engine runs the model, or "auto"; None is Keras for a checkpoint, "auto" for an exported model.
        token_merging: As for `load_model`; an exported model has its own.
        *tasks: What the model may be for: "segmentation", "classification".

    Returns:
        The model and its processor.

    Raises:
        CheckpointError: As for `load_model`, and for a model of another task.
        ImportError: No engine is installed that runs the exported model.
    """
    exported = _open_exported(name, precision, engine)
    if exported and token_merging is not None:
        raise click.UsageError(f"--token-merging is for checkpoints; export again with it what {name} was made of")
    opened = exported or _open_checkpoint(name, hub, precision, engine, token_merging)
    if opened.task not in tasks:
        raise CheckpointError(f"{name}: this is a model for {opened.task}, it has no decode head")
    return opened


def _open_exported(name: str, precision: str, engine_name: str | None) -> Predictable | None:
    """The engine of an exported model; None where there is none, or a checkpoint next to it."""
    from tf_segformer.hub import find_file
    from tf_segformer.imaging.processor import CONFIG_NAME
    from tf_segformer.inference.engines import exported_files, is_exported

    if not is_exported(name):
        return None
    engine = _open_engine(name, engine_name, precision)
    processor = _load_processor(find_file(exported_files(name)[0].parent, [CONFIG_NAME]), name)
    return Predictable(engine, processor, engine.task)


def _open_checkpoint(
    name: str, hub: HubOptions, precision: str, engine_name: str | None, token_merging: float | None
) -> Predictable:
    """The Keras model of a checkpoint, or the engine of what it is exported to."""
    chosen = _engine_of_checkpoint(engine_name)
    if chosen is None:
        model, checkpoint = load_model(name, hub, precision, token_merging)
        _check_backend(engine_name)
        return Predictable(model, load_processor(checkpoint), checkpoint.task)
    from tf_segformer.checkpoints.loading import open_checkpoint

    checkpoint = open_checkpoint(name, hub).with_token_merging(token_merging)
    processor = load_processor(checkpoint)
    if checkpoint.task == "encoder":  # which the caller rejects
        return Predictable(None, processor, checkpoint.task)
    engine = _open_engine(_exported_once(checkpoint, processor, chosen, precision), chosen, precision)
    return Predictable(engine, processor, checkpoint.task)


def exported_for_engine(name: str, hub: HubOptions, precision: str, engine: str | None) -> tuple[str, str]:
    """The model that an engine runs, and the engine, for workers that open it again.

    Args:
        name: As for `load_predictable`.
        hub: How to reach the Hub.
        precision: One of `options.PRECISIONS`.
        engine: As for `load_predictable`.

    Returns:
        The name, or the folder of what the checkpoint was exported to; the engine, or "auto".

    Raises:
        CheckpointError: As for `load_model`.
        ImportError: The engine is not installed.
    """
    from tf_segformer.checkpoints.loading import open_checkpoint
    from tf_segformer.inference.engines import AUTO, is_exported

    if is_exported(name):
        return name, engine or AUTO
    chosen = _engine_of_checkpoint(engine)
    if engine == "tensorflow":
        import_keras()
        _check_backend(engine)
    checkpoint = None if chosen is None else open_checkpoint(name, hub)
    if chosen is None or checkpoint is None or checkpoint.task != "segmentation":  # which the caller rejects
        return name, AUTO
    return str(_exported_once(checkpoint, load_processor(checkpoint), chosen, precision)), chosen


def _engine_of_checkpoint(name: str | None) -> str | None:
    """The engine that a checkpoint is exported for; None where Keras runs it."""
    from tf_segformer.inference.engines import AUTO, fastest_engine

    chosen = fastest_engine() if name == AUTO else name
    return None if chosen == "tensorflow" else chosen


def _exported_once(checkpoint: OpenCheckpoint, processor: SegformerImageProcessor, engine: str, precision: str) -> Path:
    """The folder of a checkpoint in the form of an engine."""
    from tf_segformer.cli.engine_cache import cached_export

    if precision != "float32" and engine != "openvino":
        raise click.UsageError(f"--precision {precision} is for tensorflow and openvino, not for --engine {engine}")
    return cached_export(checkpoint, engine, processor)


def _open_engine(path: str | Path, name: str | None, precision: str) -> Engine:
    """The engine of an exported model; options that it does not have are a usage error."""
    from tf_segformer.inference.engines import AUTO, open_engine

    try:
        engine = open_engine(path, name or AUTO, precision)
    except CheckpointError:
        raise
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if engine.name in _ENGINES_THAT_PRINT:
        with native_stderr_dropped():
            _ = engine.session  # loaded here, without the notes of its native code
    return engine


def _check_backend(engine: str | None) -> None:
    """`--engine tensorflow` means it: Keras may have been set to another backend."""
    import keras

    if engine == "tensorflow" and keras.backend.backend() != engine:
        raise click.UsageError(f"--engine tensorflow: Keras runs on {keras.backend.backend()} (KERAS_BACKEND)")


def import_keras(*others: str) -> None:
    """Imports Keras, its backend and other modules; what native code prints meanwhile is dropped.

    TensorFlow 2.20 and newer write notes on oneDNN and CUDA to file descriptor 2 whatever TF_CPP_MIN_LOG_LEVEL says.
    """
    with native_stderr_dropped():
        import keras

        keras.backend.backend()
        for name in others:
            importlib.import_module(name)


@contextlib.contextmanager
def native_stderr_dropped() -> Iterator[TextIO]:
    """Points file descriptor 2 elsewhere; Python's own exceptions still arrive.

    Yields:
        What writes to where it pointed.
    """
    with open(os.dup(2), "w", encoding="utf-8", errors="replace") as kept, open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield kept
        finally:
            os.dup2(kept.fileno(), 2)
