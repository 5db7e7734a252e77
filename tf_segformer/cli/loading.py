"""What several commands share: a checkpoint's model and processor by name, without TensorFlow's start-up notes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import click

from tf_segformer.errors import CheckpointError
from tf_segformer.hub import DEFAULT_HUB, HubOptions

if TYPE_CHECKING:
    from tf_segformer.checkpoints.loading import OpenCheckpoint
    from tf_segformer.imaging.processor import SegformerImageProcessor
    from tf_segformer.modeling.models import PretrainedModel, SegformerForSemanticSegmentation

DEFAULT_MODEL = "camvid-b0"


def load_model(
    name: str, hub: HubOptions = DEFAULT_HUB, precision: str = "float32"
) -> tuple[PretrainedModel, OpenCheckpoint]:
    """Loads a checkpoint into the model of its task; a bad one is reported before the seconds that Keras takes.

    Args:
        name: A folder, a checkpoint file, the name of an embedded model or a Hub id "owner/name".
        hub: How to reach the Hub.
        precision: One of `options.PRECISIONS`; the weights stay float32.

    Returns:
        The model and the checkpoint.

    Raises:
        CheckpointError: Where the checkpoint cannot be found, read, recognized or matched.
    """
    from tf_segformer.checkpoints.loading import open_checkpoint

    opened = open_checkpoint(name, hub)
    import_keras()
    from tf_segformer import loading

    return loading.load_model(opened, dtype=None if precision == "float32" else f"mixed_{precision}"), opened


def load_processor(checkpoint: OpenCheckpoint) -> SegformerImageProcessor:
    """Loads the image processor of a checkpoint; the default one, with a note on stderr, where it has none.

    Raises:
        CheckpointError: Where its file is there but not usable.
    """
    from tf_segformer.imaging.processor import CONFIG_NAME, SegformerImageProcessor

    file = checkpoint.find_file(CONFIG_NAME)
    if file is not None:
        return SegformerImageProcessor.from_pretrained(file)
    processor = SegformerImageProcessor()
    height, width = processor.target_size
    click.echo(
        f"tf-segformer: {checkpoint.name_or_path} has no {CONFIG_NAME}: images are resized to {width}x{height}, "
        "ImageNet's mean",
        err=True,
    )
    return processor


def load_segmenter(
    name: str, hub: HubOptions, precision: str
) -> tuple[SegformerForSemanticSegmentation, SegformerImageProcessor]:
    """Loads the model and the processor of a segmentation checkpoint.

    Raises:
        CheckpointError: As for `load_model`, and for a checkpoint of another task.
    """
    model, checkpoint = load_model(name, hub, precision)
    return require_segmentation(model, checkpoint), load_processor(checkpoint)


def require_segmentation(model: PretrainedModel, checkpoint: OpenCheckpoint) -> SegformerForSemanticSegmentation:
    """The model, if it is one for segmentation.

    Raises:
        CheckpointError: For a checkpoint of another task.
    """
    if checkpoint.task != "segmentation":
        raise CheckpointError(f"{checkpoint.path}: this is a checkpoint for {checkpoint.task}, it has no decode head")
    return cast("SegformerForSemanticSegmentation", model)


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
