"""From a checkpoint file to another one, tensor by tensor, without building a model."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tf_segformer.checkpoints.architecture import variable_shapes
from tf_segformer.checkpoints.formats.keras_writer import write_keras_archive, write_keras_weights
from tf_segformer.checkpoints.loading import OpenCheckpoint
from tf_segformer.checkpoints.saving import write_pretrained
from tf_segformer.checkpoints.tensors import LazyTensor
from tf_segformer.errors import CheckpointError
from tf_segformer.hub import KERAS_ARCHIVE_NAME
from tf_segformer.imaging.labels import LABELS
from tf_segformer.io import read_text

TARGETS = ("huggingface", "nvlabs", "keras")
KERAS_WRITERS = {".keras": write_keras_archive, ".weights.h5": write_keras_weights}
PREPROCESSOR_NAME = "preprocessor_config.json"

Progress = Callable[[int], Any]
"""Called with the number of bytes of every tensor that has been read."""


def convert_checkpoint(
    source: OpenCheckpoint, target: str | Path, *, to: str, progress: Progress | None = None
) -> Path:
    """Writes a checkpoint in another format, with the same bits in every tensor.

    Args:
        source: The open checkpoint.
        target: For "huggingface" and "nvlabs" a folder, which gets config.json and model.safetensors; for "keras" a
            file "*.keras", or "*.weights.h5", which gets config.json next to it, or a folder, which gets model.keras.
        to: One of `TARGETS`.
        progress: Called with the bytes of every tensor that has been read.

    Returns:
        The folder or file that was written, which `from_pretrained` loads.

    Raises:
        CheckpointError: Where the checkpoint lacks tensors or has others, the target cannot be written, its format has
            no place for this decode head, or a config.json of another model lies where one of this model is due.
    """
    target = Path(target)
    source.check_complete()
    names = variable_shapes(source.config, source.task)
    tensors = {name: _counted(source.mapped.tensors[name], progress) for name in names}
    suffix = next((suffix for suffix in KERAS_WRITERS if target.name.endswith(suffix)), None)
    if to == "keras" and suffix is not None:
        KERAS_WRITERS[suffix](target, source.config, tensors)
        return target
    if target.is_file() or target.suffix in (".safetensors", ".keras", ".h5"):
        raise CheckpointError(f"{target}: give a folder, which gets config.json and the weights")
    if to == "keras":
        write_keras_archive(target / KERAS_ARCHIVE_NAME, source.config, tensors)
    else:
        write_pretrained(target, source.config, tensors, family=to)
    preprocessor = source.find_file(PREPROCESSOR_NAME)
    if preprocessor is not None and preprocessor.resolve().parent != target.resolve():
        shutil.copyfile(preprocessor, target / PREPROCESSOR_NAME)
    return target / KERAS_ARCHIVE_NAME if to == "keras" else target


def read_labels(labels: str | Path) -> tuple[str, ...]:
    """Names of classes: those of a dataset, or of a file with one name per line or a JSON list or object.

    Args:
        labels: A key of `imaging.labels.LABELS`, or a path.

    Returns:
        The names in the order of their indices.

    Raises:
        CheckpointError: For a file that cannot be read or holds no names.

    Example:
        >>> len(read_labels("cityscapes"))
        19
    """
    if str(labels) in LABELS:
        return LABELS[str(labels)]
    try:
        text = read_text(labels)
        values = json.loads(text) if text.lstrip()[:1] in ("[", "{") else text.splitlines()
        if isinstance(values, dict):  # id2label
            values = [values[str(index)] for index in range(len(values))]
    except (OSError, ValueError, KeyError, RecursionError) as error:
        known = ", ".join(LABELS)
        raise CheckpointError(f"{labels}: neither {known} nor a readable file of class names: {error}") from error
    names = tuple(str(name).strip() for name in values if str(name).strip())
    if not names:
        raise CheckpointError(f"{labels}: no class name in it")
    return names


def _counted(tensor: LazyTensor, progress: Progress | None) -> LazyTensor:
    """The tensor, which reports that it was read."""
    if progress is None:
        return tensor

    def read() -> Any:
        values = tensor.read()
        progress(tensor.nbytes)
        return values

    return dataclasses.replace(tensor, read=read)
