"""Reads what Keras saves: tf_model.h5 of Hugging Face, .weights.h5, and the one inside a .keras archive."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tf_segformer.checkpoints.architecture import TASK_CLASSES
from tf_segformer.checkpoints.descriptions import KERAS_HUB_CLASSES
from tf_segformer.checkpoints.formats.hdf5.reader import read_datasets
from tf_segformer.checkpoints.formats.hdf5.source import Source
from tf_segformer.checkpoints.formats.zip_entries import start_of_entry
from tf_segformer.checkpoints.tensors import Checkpoint, LazyTensor
from tf_segformer.errors import CheckpointError
from tf_segformer.io import open_zip

CONFIG_IN_ARCHIVE = "config.json"
WEIGHTS_IN_ARCHIVE = "model.weights.h5"
MAX_CONFIG_BYTES = 2**20

# tf-keras saves no variable of a list of lists, as transformers' TensorFlow port keeps its blocks.
_WITHOUT_BLOCKS = (
    "saved by tf-keras from transformers' TFSegformer: its transformer blocks are missing, since tf-keras leaves lists "
    "of lists out of .weights.h5 and .keras files. Other files of the same model hold them: tf_model.h5 of "
    "save_pretrained, an .h5 of save_weights or save whose name does not end in .weights.h5, a TensorFlow checkpoint "
    "(.index and .data), a SavedModel"
)
_PORT_IN_WEIGHTS, _PORT_IN_CONFIG = "tf_segformer_overlap_patch_embeddings", b"TFSegformer"
_ENCODER_OF_PORT = "layers/tf_segformer_main_layer/encoder/layers/"  # of a model of tf_segformer.transformers
_HERE_IN_CONFIG = b"tf_segformer>TFSegformer"  # a model of tf_segformer.transformers, as Keras 3 saves it

_DAMAGE = (zipfile.BadZipFile, OSError, ValueError, KeyError, TypeError, RecursionError)


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
        Its tensors, not yet read, and what it says of its configuration: the fields of its SegformerConfig, or the
        description of a model of keras-hub.

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
            text = archive.read(described)
        if _PORT_IN_CONFIG in text and _HERE_IN_CONFIG not in text:
            raise ValueError(_without_blocks(path))
        fields = _configuration(json.loads(text))
        start = start_of_entry(path, weights)
    except _DAMAGE as error:
        reason = str(error) if isinstance(error, ValueError) else repr(error)
        raise CheckpointError(f"{path}: not a readable Keras archive: {reason}") from error
    size = min(weights.file_size, path.stat().st_size - start)
    return Checkpoint(path, _read_tensors(Source(path, start, size)), config=fields)


def _configuration(model: Any) -> Mapping[str, Any]:
    """What the description of a model says of its configuration."""
    class_name = model.get("class_name") if isinstance(model, dict) else None
    if class_name in KERAS_HUB_CLASSES:
        return model
    if str(class_name).removeprefix("TF") not in TASK_CLASSES.values():
        raise ValueError(f"a model of the class {str(class_name)[:80]!r}, not a SegFormer of this project or keras-hub")
    fields = model["config"]["config"]
    if not isinstance(fields, dict):
        raise ValueError("a SegFormer without its configuration")
    if "quantization" in model["config"]:
        raise ValueError("a quantized model, which keras.models.load_model reads")
    return fields


def _read_tensors(source: Source) -> dict[str, LazyTensor]:
    """The tensors of an h5 file under names with dots."""
    try:
        datasets = read_datasets(source, wanted=lambda name: not _is_state(name))
        tensors = {_dotted(name): tensor for name, tensor in datasets.items()}
        if len(tensors) < len(datasets):
            raise ValueError("two tensors of one name")
        if any(_PORT_IN_WEIGHTS in name for name in tensors):
            raise ValueError(_without_blocks(source.path))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{source.path}: not a readable h5 file: {error}") from error
    return tensors


def _without_blocks(path: Path) -> str:
    """Why a file of tf-keras cannot be read, and which files next to it could be."""
    files = [*path.parent.glob("*.h5"), *path.parent.glob("*.index")]
    others = sorted(file.name for file in files if file != path and not file.name.endswith(".weights.h5"))
    return f"{_WITHOUT_BLOCKS}{'. Next to it: ' if others else ''}{', '.join(others[:5])}"


def _is_state(name: str) -> bool:
    """Whether a dataset is the state of an optimizer or of a random generator, not of a model."""
    return name.startswith(("optimizer/", "optimizer_weights/")) or "seed_generator" in name


def _dotted(name: str) -> str:
    """The name of a dataset with dots, without the groups that say nothing."""
    name = name.replace(_ENCODER_OF_PORT, "segformer_model/")
    pieces = name.removeprefix("model_weights/").split("/")  # of a whole model that Keras 2 saved
    return ".".join(piece for piece in pieces if piece not in ("layers", "vars")).removesuffix(":0")
