"""A checkpoint in the form that an engine reads, written once into the user's cache folder."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

import tf_segformer
from tf_segformer.cli.loading import import_keras
from tf_segformer.inference.engines import exported_files, how_to_install, is_installed
from tf_segformer.io import atomic_write

if TYPE_CHECKING:
    from tf_segformer.checkpoints.loading import OpenCheckpoint
    from tf_segformer.imaging.processor import SegformerImageProcessor

_FORMATS = {"openvino": "openvino", "onnxruntime": "onnx", "litert": "litert"}  # engine -> format


def cache_folder() -> Path:
    """Where this package keeps what it can write again: XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tf_segformer" / "engines"


def cached_export(checkpoint: OpenCheckpoint, engine: str, processor: SegformerImageProcessor) -> Path:
    """The folder of a checkpoint in the form of an engine; written where it is missing.

    Args:
        checkpoint: The checkpoint.
        engine: One of `_FORMATS`.
        processor: Prepares its images; saved in the folder.

    Returns:
        The folder, whose name is a hash of the weights, the configuration, the processor and this package's version.

    Raises:
        ImportError: The engine is not installed.
        OSError: The cache folder cannot be written.
    """
    if not is_installed(engine):
        raise ImportError(f"--engine {engine}: it is not installed: {how_to_install(engine)}")
    format_name = _FORMATS[engine]
    folder = cache_folder() / f"{_hash(checkpoint, processor)}-{format_name}"
    if not exported_files(folder):
        shutil.rmtree(folder, ignore_errors=True)  # its model was removed, for being damaged
        import_keras()
        model = tf_segformer.load_model(checkpoint)
        options = {"size": None} if format_name == "litert" else {}
        try:
            with atomic_write(folder) as partial:
                getattr(tf_segformer, f"export_{format_name}")(model, partial, processor, **options)
        except OSError:
            if not exported_files(folder):  # else another process was faster
                raise
        click.echo(f"tf-segformer: wrote {folder}, which --engine {engine} runs from now on", err=True)
    return folder


def _hash(checkpoint: OpenCheckpoint, processor: SegformerImageProcessor) -> str:
    """Stands for all that decides what is exported."""
    settings = [checkpoint.config.to_dict(), processor.to_dict()]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update(tf_segformer.__version__.encode())
    for name, tensor in sorted(checkpoint.mapped.tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        digest.update(tensor.read().tobytes())
    return digest.hexdigest()[:32]
