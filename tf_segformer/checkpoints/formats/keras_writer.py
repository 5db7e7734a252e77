"""Writes .weights.h5 and .keras files as Keras would, tensor by tensor, without Keras and without a model."""

from __future__ import annotations

import datetime
import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from tf_segformer.checkpoints.architecture import TASK_CLASSES, infer_task
from tf_segformer.checkpoints.formats.keras import CONFIG_IN_ARCHIVE, WEIGHTS_IN_ARCHIVE
from tf_segformer.checkpoints.names import source_names
from tf_segformer.checkpoints.tensors import LazyTensor
from tf_segformer.configuration import CONFIG_NAME, SegformerConfig
from tf_segformer.errors import CheckpointError, write_errors
from tf_segformer.io import atomic_write

_PACKAGE = "tf_segformer"  # under which the models are registered with Keras
_DTYPE = np.dtype("<f4")  # of every variable, whatever the source has
# Layers of a block that hold no variables; Keras writes a group for these as well.
_BARE_IN_BLOCK = ("", ".attention", ".attention.dropout", ".drop_path", ".dropout", ".mlp", ".mlp.dropout")


def write_keras_weights(path: Path, config: SegformerConfig, tensors: Mapping[str, LazyTensor]) -> None:
    """Writes what `model.save_weights` would write, and config.json next to it, where `from_pretrained` looks for it.

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
            f"{described}: not the configuration of the model to be written next to it: "
            "give another folder, or a .keras file, which holds its own"
        )
    with write_errors(path), atomic_write(path, fsync=True) as partial:
        with partial.open("wb") as file:
            file.writelines(_h5_pieces(path, config, tensors))
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
    with (
        write_errors(path),
        atomic_write(path, fsync=True) as partial,
        zipfile.ZipFile(partial, "w") as archive,
    ):
        archive.writestr("metadata.json", json.dumps(metadata))
        archive.writestr(CONFIG_IN_ARCHIVE, json.dumps(describe_model(config, infer_task(tensors))))
        with archive.open(WEIGHTS_IN_ARCHIVE, "w", force_zip64=True) as entry:
            entry.writelines(_h5_pieces(path, config, tensors))


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
            "rematerialize": False,
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
    except (OSError, CheckpointError):
        return False


def _h5_pieces(path: Path, config: SegformerConfig, tensors: Mapping[str, LazyTensor]) -> Iterator[bytes | memoryview]:
    """The bytes of the h5 file from first to last: HDF5 lays it out with space for the values, which are put in here.

    So a zip archive, which is written onwards only, takes it without a second copy of the values on the disk.
    """
    layout = path.with_name(f"{path.name}.layout.partial")  # all its values are holes
    try:
        places = _lay_out(layout, config, tensors)
        with layout.open("rb") as file:
            for offset, variable in sorted(places):
                yield file.read(offset - file.tell())
                values = np.ascontiguousarray(tensors[variable].read(), _DTYPE)
                file.seek(values.nbytes, os.SEEK_CUR)
                yield values.data.cast("B")
            yield file.read()
    finally:
        layout.unlink(missing_ok=True)


def _lay_out(path: Path, config: SegformerConfig, tensors: Mapping[str, LazyTensor]) -> list[tuple[int, str]]:
    """Writes an h5 file with the groups of all layers and space for their variables; gives the place of each."""
    import h5py

    datasets = source_names("keras", tensors)
    layers = dict(_bare_layers(config, infer_task(tensors)))
    layers |= {dataset.rpartition(".")[0]: variable.split("/")[-2] for dataset, (variable,) in datasets.items()}
    space = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    space.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    space.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    numbers = h5py.h5t.py_create(_DTYPE)
    places = []
    with h5py.File(path, "w") as file:
        groups = {}
        for layer, name in layers.items():
            groups[layer] = file.create_group(f"{_group(layer, config)}/vars")
            groups[layer].attrs["name"] = name
        for dataset, (variable,) in datasets.items():
            layer, _, number = dataset.rpartition(".")
            shape = h5py.h5s.create_simple(tensors[variable].shape)
            made = h5py.h5d.create(groups[layer].id, number.encode(), numbers, shape, dcpl=space)
            places.append((made.get_offset(), variable))
    return places


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
