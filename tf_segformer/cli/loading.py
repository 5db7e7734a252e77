"""What several commands share: a checkpoint's model and processor by name, without TensorFlow's start-up notes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tf_segformer.errors import CheckpointError

if TYPE_CHECKING:
    from tf_segformer.imaging.processor import SegformerImageProcessor

DEFAULT_MODEL = "camvid-b0"


@dataclass(frozen=True)
class LoadedModel:
    """A model with its weights, and where they came from.

    Args:
        model: The Keras model of the checkpoint's task.
        task: "segmentation", "classification" or "encoder".
        weights: The file of the weights.
        family: Whose tensor names it has, in words.
    """

    model: Any
    task: str
    weights: Path
    family: str


def load_model(name: str, bfloat16: bool = False) -> LoadedModel:
    """Loads a checkpoint into the model that its tensors are made for.

    Args:
        name: A folder, a checkpoint file, the name of an embedded model or a Hub id "owner/name".
        bfloat16: Whether the model computes in bfloat16; its weights stay float32.

    Returns:
        The model and its origin.

    Raises:
        CheckpointError: Where the checkpoint cannot be found, read, recognized or matched.
    """
    from tf_segformer.checkpoints.architecture import TASK_CLASSES
    from tf_segformer.checkpoints.loading import open_checkpoint

    opened = open_checkpoint(name)
    import_keras()  # seconds: only after the checkpoint was found to be one
    from tf_segformer.modeling import models

    model_class = getattr(models, TASK_CLASSES[opened.task])
    model = model_class.from_pretrained(opened, dtype="mixed_bfloat16" if bfloat16 else None)
    return LoadedModel(model, opened.task, opened.path, opened.family)


def load_processor(name: str) -> SegformerImageProcessor:
    """Loads the image processor beside a checkpoint; the usual one, with a note on stderr, where there is none.

    Args:
        name: A folder, a checkpoint file, the name of an embedded model or a Hub id "owner/name".

    Returns:
        The processor.

    Raises:
        CheckpointError: Where its file is there but not usable.
    """
    from tf_segformer.hub import find_file
    from tf_segformer.imaging.processor import CONFIG_NAME, SegformerImageProcessor

    if find_file(name, [CONFIG_NAME]) is not None:
        return SegformerImageProcessor.from_pretrained(name)
    processor = SegformerImageProcessor()
    height, width = processor.target_size
    click.echo(
        f"tf-segformer: {name} has no {CONFIG_NAME}: images are resized to {width}x{height}, ImageNet's mean",
        err=True,
    )
    return processor


def require_segmentation(loaded: LoadedModel) -> Any:
    """The model of a segmentation checkpoint.

    Raises:
        CheckpointError: For a checkpoint of another task.
    """
    if loaded.task != "segmentation":
        raise CheckpointError(f"{loaded.weights}: this is a checkpoint for {loaded.task}, it has no decode head")
    return loaded.model


def import_keras() -> None:
    """Imports Keras and its backend; what native code prints meanwhile is dropped.

    TensorFlow 2.20 and newer write notes on oneDNN and CUDA to file descriptor 2 whatever TF_CPP_MIN_LOG_LEVEL says.
    """
    with _native_stderr_dropped():
        import keras

        keras.backend.backend()


@contextlib.contextmanager
def _native_stderr_dropped() -> Iterator[None]:
    """Points file descriptor 2 elsewhere; Python's own exceptions still arrive."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
