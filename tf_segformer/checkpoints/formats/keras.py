"""Reads what Keras saves: tf_model.h5 of Hugging Face, .weights.h5, and the one inside a .keras archive."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from tf_segformer.checkpoints.architecture import TASK_CLASSES
from tf_segformer.checkpoints.formats.hdf5.reader import read_datasets
from tf_segformer.checkpoints.formats.hdf5.source import Source
from tf_segformer.checkpoints.formats.zip_entries import start_of_entry
from tf_segformer.checkpoints.tensors import Checkpoint, LazyTensor
from tf_segformer.errors import CheckpointError
from tf_segformer.io import open_zip

CONFIG_IN_ARCHIVE = "config.json"
WEIGHTS_IN_ARCHIVE = "model.weights.h5"
MAX_CONFIG_BYTES = 2**20

_DAMAGE = (zipfile.BadZipFile, OSError, ValueError, KeyError, TypeError, EOFError, NotImplementedError, RecursionError)


def read_hdf5(path: Path) -> Checkpoint:
    """Reads names and shapes of an h5 file.

    Args:
        path: A file that begins with `HDF5_MAGIC`.

    Returns:
        Its tensors, not yet read, named "layer.layer.leaf".

    Raises:
        CheckpointError: For a damaged file, and for data that is not plainly in it.
    """
    return Checkpoint(path, _read_tensors(Source(path)))


def is_keras_archive(path: Path) -> bool:
    """Whether a zip archive has the two entries of a `.keras` file.

    Args:
        path: The archive.

    Returns:
        True for a `.keras` file.

    Raises:
        CheckpointError: For a damaged archive.
    """
    try:
        with open_zip(path) as archive:
            return {CONFIG_IN_ARCHIVE, WEIGHTS_IN_ARCHIVE} <= set(archive.namelist())
    except _DAMAGE as error:
        raise CheckpointError(f"{path}: a damaged zip archive: {error}") from error


def read_keras_archive(path: Path) -> Checkpoint:
    """Reads the tensors and the configuration of a SegFormer that Keras saved, without building what it describes.

    Args:
        path: A `.keras` file.

    Returns:
        Its tensors, not yet read, and the fields of its SegformerConfig.

    Raises:
        CheckpointError: For a damaged archive or one of another model.
    """
    try:
        with open_zip(path) as archive:
            described = archive.getinfo(CONFIG_IN_ARCHIVE)
            weights = archive.getinfo(WEIGHTS_IN_ARCHIVE)
            if described.file_size > MAX_CONFIG_BYTES:
                raise ValueError(f"its config.json has more than {MAX_CONFIG_BYTES} bytes")
            if weights.compress_type != zipfile.ZIP_STORED:
                raise ValueError("its weights are compressed, which Keras never does")
            model = json.loads(archive.read(described))
        class_name = model.get("class_name") if isinstance(model, dict) else None
        if class_name not in TASK_CLASSES.values():
            raise ValueError(f"a model of the class {str(class_name)[:80]!r}, not a SegFormer of this project")
        fields = model["config"]["config"]
        if not isinstance(fields, dict):
            raise ValueError("a SegFormer without its configuration")
        start = start_of_entry(path, weights)
    except _DAMAGE as error:
        raise CheckpointError(f"{path}: not a readable Keras archive: {error!r}") from error
    size = min(weights.file_size, path.stat().st_size - start)
    return Checkpoint(path, _read_tensors(Source(path, start, size)), config=fields)


def _read_tensors(source: Source) -> dict[str, LazyTensor]:
    """The tensors of an h5 file under names with dots."""
    try:
        datasets = read_datasets(source, wanted=lambda name: not _is_state(name))
        tensors = {_dotted(name): tensor for name, tensor in datasets.items()}
        if len(tensors) < len(datasets):
            raise ValueError("two tensors of one name")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{source.path}: not a readable h5 file: {error}") from error
    return tensors


def _is_state(name: str) -> bool:
    """Whether a dataset is the state of an optimizer or of a random generator, not of a model."""
    return name.startswith("optimizer/") or "seed_generator" in name


def _dotted(name: str) -> str:
    """The name of a dataset with dots, without the groups that say nothing."""
    return ".".join(piece for piece in name.split("/") if piece not in ("layers", "vars")).removesuffix(":0")
