"""Reads h5 files: Hugging Face's tf_model.h5, Keras' .weights.h5, and the one inside a .keras archive."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from tf_segformer.checkpoints.archives import Window, start_of_entry
from tf_segformer.checkpoints.tensors import Checkpoint, LazyTensor
from tf_segformer.errors import CheckpointError

if TYPE_CHECKING:
    import h5py

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
MAX_TENSORS = 20_000  # a B5 in training has 3,600
MAX_CONFIG_BYTES = 2**20

_WEIGHTS_IN_ARCHIVE = "model.weights.h5"
_OUR_CLASSES = ("SegformerModel", "SegformerForImageClassification", "SegformerForSemanticSegmentation")
_DAMAGE = (OSError, RuntimeError, ValueError, KeyError, TypeError, OverflowError)  # what h5py raises on damaged files


def read_hdf5(path: Path) -> Checkpoint:
    """Reads names and shapes of an h5 file.

    Args:
        path: A file that begins with `HDF5_MAGIC`.

    Returns:
        Its tensors, not yet read, named "layer.layer.leaf".

    Raises:
        CheckpointError: For a damaged file, and for data that is not plainly in it: links to other files, filters,
            more bytes than the file has.
    """
    return Checkpoint(path, _read_tensors(path, path, path.stat().st_size))


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
        with zipfile.ZipFile(path) as archive:
            described = archive.getinfo("config.json")
            weights = archive.getinfo(_WEIGHTS_IN_ARCHIVE)
            if described.file_size > MAX_CONFIG_BYTES:
                raise ValueError(f"its config.json has more than {MAX_CONFIG_BYTES} bytes")
            if weights.compress_type != zipfile.ZIP_STORED:
                raise ValueError("its weights are compressed, which Keras never does")
            model = json.loads(archive.read(described))
        class_name = model.get("class_name") if isinstance(model, dict) else None
        if class_name not in _OUR_CLASSES:
            raise ValueError(f"a model of the class {str(class_name)[:80]!r}, not a SegFormer of this project")
        fields = model["config"]["config"]
        start = start_of_entry(path, weights)
    except (*_DAMAGE, zipfile.BadZipFile, EOFError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a readable Keras archive: {error!r}") from error
    size = min(weights.file_size, path.stat().st_size - start)
    return Checkpoint(path, _read_tensors(path, Window(path, start, size), size), config=fields)


def _read_tensors(path: Path, source: Any, size: int) -> dict[str, LazyTensor]:
    """The tensors of an h5 file under names with dots."""
    import h5py

    datasets: dict[str, h5py.Dataset] = {}
    layer_names: dict[str, str] = {}

    def visit(name: str, item: Any) -> None:  # hard links only: h5py follows no others
        if len(datasets) + len(layer_names) > MAX_TENSORS:
            raise ValueError(f"more than {MAX_TENSORS} tensors")
        if isinstance(item, h5py.Dataset):
            datasets[name] = item
        elif name.rpartition("/")[2] == "vars" and isinstance(item.attrs.get("name"), str):
            layer_names[name.rpartition("/")[0]] = item.attrs["name"]

    try:
        h5py.File(source, "r").visititems(visit)
        return _named({name: _lazy(path, dataset, size) for name, dataset in datasets.items()}, layer_names)
    except _DAMAGE as error:
        raise CheckpointError(f"{path}: not a readable h5 file: {str(error) or type(error).__name__}") from error


def _lazy(path: Path, dataset: h5py.Dataset, size: int) -> LazyTensor:
    """A dataset as a tensor, refused where its numbers do not plainly lie in the file."""
    dtype = dataset.dtype
    if dtype.kind == "V" and dtype.itemsize == 2 and dataset.attrs.get("dtype") == "bfloat16":
        dtype = np.dtype(ml_dtypes.bfloat16)
    elif dtype.kind not in "fiu":
        raise ValueError(f"{dataset.name[:100]} holds no numbers but {dtype}")
    if dataset.external or dataset.is_virtual or dataset.id.get_create_plist().get_nfilters():
        raise ValueError(f"{dataset.name[:100]} is compressed or lies in another file")
    if dataset.shape is None or dataset.nbytes > size or dataset.id.get_storage_size() < dataset.nbytes:
        raise ValueError(f"{dataset.name[:100]} claims {dataset.nbytes} bytes in a file of {size}")

    def read() -> np.ndarray:
        try:
            return np.asarray(dataset[()]).view(dtype)
        except _DAMAGE as error:
            raise CheckpointError(f"{path}: {dataset.name[:100]} cannot be read: {error}") from error

    return LazyTensor(tuple(dataset.shape), dtype, read)


def _named(tensors: dict[str, LazyTensor], layer_names: dict[str, str]) -> dict[str, LazyTensor]:
    """Tensors under names with dots; the state of an optimizer and of random generators is left out.

    Keras names the groups of a file after classes, numbered as they come, and keeps the layers' own names beside. Ours
    are unique, so they are taken; those of other projects are partly numbered by chance.
    """
    ours = "patch_embedding_0" in layer_names.values()
    named = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer/") or "seed_generator" in name:
            continue
        parents = [str(parent) for parent in PurePosixPath(name).parents][-2::-1]  # from the outermost on
        if ours:
            pieces = [layer_names[parent] for parent in parents if parent in layer_names]
            pieces.append(name.rpartition("/")[2])
        else:
            pieces = [piece for piece in name.split("/") if piece not in ("layers", "vars")]
        named[".".join(pieces).removesuffix(":0")] = tensor
    return named if ours else _number_blocks_by_stage(named)


def _number_blocks_by_stage(tensors: dict[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Renames keras-hub's blocks, numbered through all stages, after the stage that has their width."""
    block = re.compile(r"(.*)hierarchical_transformer_encoder(?:_(\d+))?\.(.*)")
    widths = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(r".*overlapping_patching_and_embedding(?:_(\d+))?\.norm\.0", name)
        if match:
            widths[tensor.shape] = int(match[1] or 0)
    firsts: dict[int, int] = {}
    for name, tensor in tensors.items():
        match = block.fullmatch(name)
        if match and match[3] == "norm1.0" and tensor.shape in widths:
            stage, number = widths[tensor.shape], int(match[2] or 0)
            firsts[stage] = min(firsts.get(stage, number), number)

    def renamed(name: str) -> str:
        match = block.fullmatch(name)
        if not match or not firsts:
            return name
        number = int(match[2] or 0)
        stage = max((stage for stage in firsts if firsts[stage] <= number), default=0)
        return f"{match[1]}block_{stage}_{number - firsts.get(stage, 0)}.{match[3]}"

    return {renamed(name): tensor for name, tensor in tensors.items()}
