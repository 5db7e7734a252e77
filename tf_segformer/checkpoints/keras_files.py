"""Writes .weights.h5 and .keras files as Keras would, tensor by tensor, without Keras and without a model."""

from __future__ import annotations

import datetime
import json
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from tf_segformer.checkpoints.hdf5_files import WEIGHTS_IN_ARCHIVE
from tf_segformer.checkpoints.names import source_names
from tf_segformer.checkpoints.schema import TASK_CLASSES, task_of
from tf_segformer.checkpoints.tensors import LazyTensor
from tf_segformer.checkpoints.writers import written_aside
from tf_segformer.configuration import CONFIG_NAME, SegformerConfig
from tf_segformer.errors import CheckpointError

_PACKAGE = "tf_segformer"  # under which the models are registered with Keras
_COPIED_AT_ONCE = 2**20  # bytes
# Layers of a block that hold no variables; Keras writes a group for these as well.
_BARE_IN_BLOCK = ("", ".attention", ".attention.dropout", ".drop_path", ".dropout", ".mlp", ".mlp.dropout")


def write_keras_weights(path: Path, config: SegformerConfig, tensors: Mapping[str, LazyTensor]) -> None:
    """Writes what `model.save_weights` would write, and config.json beside it, where `from_pretrained` looks for it.

    Args:
        path: A "*.weights.h5" file; its folder is made where it is missing.
        config: The model's configuration.
        tensors: All variables of the model by name; each is read when its turn comes and dropped after it.

    Raises:
        CheckpointError: Where the file cannot be written, or a config.json of another model lies in the folder; what
            was in its place is then still there.
    """
    described = path.with_name(CONFIG_NAME)
    if described.exists() and not _describes(described, config):
        raise CheckpointError(
            f"{described}: not the configuration of the model to be written beside it: "
            "give another folder, or a .keras file, which holds its own"
        )
    with written_aside(path) as partial:
        _write_h5(partial, config, tensors)
        if not described.exists():
            config.save_pretrained(path.parent)


def write_keras_archive(path: Path, config: SegformerConfig, tensors: Mapping[str, LazyTensor]) -> None:
    """Writes what `model.save` would write for a model that was never compiled.

    Args:
        path: A "*.keras" file; its folder is made where it is missing.
        config: The model's configuration.
        tensors: All variables of the model by name; each is read when its turn comes and dropped after it.

    Raises:
        CheckpointError: Where the file cannot be written; what was in its place is then still there.
    """
    metadata = {
        "keras_version": version("keras"),
        "date_saved": datetime.datetime.now().strftime("%Y-%m-%d@%H:%M:%S"),
    }
    # HDF5 writes here and there, a zip archive only onwards: the weights go through a file of their own.
    weights = path.with_name(f"{path.name}.weights.partial")
    with written_aside(path) as partial:
        try:
            _write_h5(weights, config, tensors)
            with zipfile.ZipFile(partial, "w") as archive:
                archive.writestr("metadata.json", json.dumps(metadata))
                archive.writestr("config.json", json.dumps(describe_model(config, task_of(tensors))))
                with weights.open("rb") as source, archive.open(WEIGHTS_IN_ARCHIVE, "w", force_zip64=True) as entry:
                    shutil.copyfileobj(source, entry, _COPIED_AT_ONCE)
        finally:
            weights.unlink(missing_ok=True)


def describe_model(config: SegformerConfig, task: str) -> dict[str, Any]:
    """What config.json says in the `.keras` archive of a model in float32 that was never compiled.

    Args:
        config: The model's configuration.
        task: A key of `TASK_CLASSES`.

    Returns:
        JSON-ready values.

    Example:
        >>> describe_model(SegformerConfig(), "encoder")["registered_name"]
        'tf_segformer>SegformerModel'
    """
    class_name = TASK_CLASSES[task]
    policy = {
        "module": "keras",
        "class_name": "DTypePolicy",
        "config": {"name": "float32"},
        "registered_name": None,
    }
    return {
        "module": "tf_segformer.modeling.models",
        "class_name": class_name,
        "config": {
            "config": config.to_dict(),
            "output_hidden_states": False,
            "output_attentions": False,
            "dtype": policy,
            "name": _model_name(task),
            "trainable": True,
        },
        "registered_name": f"{_PACKAGE}>{class_name}",
        "build_config": {"input_shape": None},
        "compile_config": {},
    }


def _describes(path: Path, config: SegformerConfig) -> bool:
    """Whether a config.json says the same of the network and its classes."""
    try:
        return SegformerConfig.from_pretrained(path).replace(extra={}) == config.replace(extra={})
    except CheckpointError:
        return False


def _write_h5(path: Path, config: SegformerConfig, tensors: Mapping[str, LazyTensor]) -> None:
    """Writes the groups of all layers and the variables in them, which are float32 whatever the source has."""
    import h5py

    names = source_names("keras", tensors)
    with h5py.File(path, "w") as file:
        for layer, name in _bare_layers(config, task_of(tensors)):
            _add_layer(file, _group(layer, config), name)
        for dataset, (variable,) in names.items():
            layer, _, number = dataset.rpartition(".")
            group = _add_layer(file, _group(layer, config), variable.split("/")[-2])
            group[number] = np.asarray(tensors[variable].read(), np.float32)


def _add_layer(file: Any, group: str, name: str) -> Any:
    """The group of a layer's variables, which tells the layer's name."""
    variables = file.require_group(f"{group}/vars")
    variables.attrs["name"] = name
    return variables


def _bare_layers(config: SegformerConfig, task: str) -> Iterator[tuple[str, str]]:
    """Path and name of every layer without variables of its own, the model itself included."""
    encoder = "" if task == "encoder" else "segformer_model."
    yield "", _model_name(task)
    yield "input_layer", "pixel_values"
    if encoder:
        yield "segformer_model", _model_name("encoder")
    for stage, depth in enumerate(config.depths):
        yield f"{encoder}overlap_patch_embedding_{stage}", f"patch_embedding_{stage}"
        for block in range(depth):
            for layer in _BARE_IN_BLOCK:
                path = f"block_{stage}_{block}{layer}"
                yield f"{encoder}{path}", path.rpartition(".")[2]
    if task == "classification":
        yield "global_average_pooling2d", "pool"
    if task == "segmentation":
        yield "decode_head", "decode_head"
        yield "decode_head.dropout", "dropout"


def _group(layer: str, config: SegformerConfig) -> str:
    """The h5 group of a layer, by the classes of the layers around it: what the reader undoes."""
    blocks = [f"block_{stage}_{block}" for stage, depth in enumerate(config.depths) for block in range(depth)]
    spelled = {name: f"transformer_block_{number}" for number, name in enumerate(blocks)}
    spelled["decode_head"] = f"{config.decode_head_type}_decode_head"
    group = "/".join(spelled.get(piece, piece).removesuffix("_0") for piece in layer.split("."))
    if not group:
        return ""
    return f"layers/{group}".replace("layers/segformer_model/", "layers/segformer_model/layers/")


def _model_name(task: str) -> str:
    """The name that a model has by default."""
    return "segformer" if task == "encoder" else re.sub(r"(?<!^)(?=[A-Z])", "_", TASK_CLASSES[task]).lower()
