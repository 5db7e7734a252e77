"""Reads h5 files: Hugging Face's tf_model.h5, Keras' .weights.h5, and the one inside a .keras archive."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from tf_segformer.checkpoints.formats.zip_entries import Window, start_of_entry
from tf_segformer.checkpoints.schema import TASK_CLASSES
from tf_segformer.checkpoints.tensors import Checkpoint, LazyTensor
from tf_segformer.errors import CheckpointError
from tf_segformer.io import open_zip

if TYPE_CHECKING:
    import h5py

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
WEIGHTS_IN_ARCHIVE = "model.weights.h5"
MAX_TENSORS = 20_000  # a B5 in training has 3,600
MAX_CONFIG_BYTES = 2**20

# Of keras-hub and of this project.
_BLOCK = re.compile(r"(|.*\.)(?:hierarchical_transformer_encoder|transformer_block)(?:_(\d{1,4}))?\.(.*)")
_BLOCK_WIDTH = re.compile(
    r".*(?:hierarchical_transformer_encoder|transformer_block)(?:_(\d{1,4}))?\.(?:layer_)?norm_?1\.0"
)
_STAGE_WIDTH = re.compile(
    r".*(?:overlapping_patching_and_embedding|overlap_patch_embedding)(?:_(\d{1,4}))?\.(?:layer_)?norm\.0"
)

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
        with open_zip(path) as archive:
            described = archive.getinfo("config.json")
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
        depths = [int(depth) for depth in fields["depths"]]
        start = start_of_entry(path, weights)
    except (*_DAMAGE, zipfile.BadZipFile, EOFError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a readable Keras archive: {error!r}") from error
    size = min(weights.file_size, path.stat().st_size - start)
    return Checkpoint(path, _read_tensors(path, Window(path, start, size), size, depths), config=fields)


def _read_tensors(path: Path, source: Any, size: int, depths: Sequence[int] | None = None) -> dict[str, LazyTensor]:
    """The tensors of an h5 file under names with dots.

    Attributes are never read, though Keras writes the layers' names there: in a damaged file HDF5 can hang on them.
    """
    import h5py

    datasets: dict[str, h5py.Dataset] = {}

    def visit(name: str, item: Any) -> None:  # hard links only: h5py follows no others
        if len(datasets) > MAX_TENSORS:
            raise ValueError(f"more than {MAX_TENSORS} tensors")
        if isinstance(item, h5py.Dataset):
            datasets[name] = item

    try:
        h5py.File(source, "r").visititems(visit)
        tensors = {name: _lazy(path, dataset, size) for name, dataset in datasets.items() if not _is_state(name)}
        return _number_blocks_by_stage({_dotted(name): tensor for name, tensor in tensors.items()}, depths)
    except _DAMAGE as error:
        raise CheckpointError(f"{path}: not a readable h5 file: {str(error) or type(error).__name__}") from error


def _lazy(path: Path, dataset: h5py.Dataset, size: int) -> LazyTensor:
    """A dataset as a tensor, rejectd where its numbers do not plainly lie in the file."""
    dtype = dataset.dtype
    if dtype == np.dtype("V2"):
        dtype = np.dtype(ml_dtypes.bfloat16)  # h5 has no such type; Keras writes two bytes
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


def _is_state(name: str) -> bool:
    """Whether a dataset is the state of an optimizer or of a random generator, not of a model."""
    return name.startswith("optimizer/") or "seed_generator" in name


def _dotted(name: str) -> str:
    """The name of a dataset with dots, without the groups that say nothing."""
    return ".".join(piece for piece in name.split("/") if piece not in ("layers", "vars")).removesuffix(":0")


def _number_blocks_by_stage(tensors: dict[str, LazyTensor], depths: Sequence[int] | None) -> dict[str, LazyTensor]:
    """Renames the blocks of Keras' files, numbered through all stages, to "block_{stage}_{block}".

    The stage is the one whose patch embedding has the block's width, unless the depths are known.
    """
    widths = {}  # of a stage -> the stage
    numbers = {}  # of a block in the file -> its width
    for name, tensor in tensors.items():
        if match := _STAGE_WIDTH.fullmatch(name):
            if depths is None and tensor.shape in widths:
                raise ValueError("two stages of one width: their blocks can only be told apart in a .keras file")
            widths[tensor.shape] = int(match[1] or 0)
        if match := _BLOCK_WIDTH.fullmatch(name):
            numbers[int(match[1] or 0)] = tensor.shape
    if depths is None:
        stages = [widths.get(numbers[number], 0) for number in sorted(numbers)]
        depths = [stages.count(stage) for stage in range(len(widths))]
    blocks = [f"block_{stage}_{block}" for stage, depth in enumerate(depths) for block in range(depth)]

    def renamed(name: str) -> str:
        match = _BLOCK.fullmatch(name)
        number = int(match[2] or 0) if match else len(blocks)
        return f"{match[1]}{blocks[number]}.{match[3]}" if match and number < len(blocks) else name

    return {renamed(name): tensor for name, tensor in tensors.items()}
