"""Between the tensors of a checkpoint and the variables of a Keras model: by name, and in the layout of the other."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tf_segformer.checkpoints.families import FAMILIES
from tf_segformer.checkpoints.layouts import to_keras, to_torch
from tf_segformer.checkpoints.names import (
    HEADS,
    detect_family,
    is_left_out,
    keras_names,
    network_prefix,
    number_blocks_by_stage,
    source_names,
)
from tf_segformer.checkpoints.tensors import Checkpoint, LazyTensor
from tf_segformer.errors import CheckpointError

if TYPE_CHECKING:
    import keras

_FUSE_BIAS, _FUSE_MEAN = "decode_head/linear_fuse/bias", "decode_head/batch_norm/moving_mean"
_EXPORT_HINT = (
    "\nA SavedModel of Keras' export keeps no names of its weights: tf.saved_model.load runs it; save_pretrained or "
    'save("model.keras") of the model that it was made of writes weights that load.'
)
_VARIABLE = re.compile(r"(?:.*?/)??((?:patch_embedding_|block_|stage_norm_|decode_head/|classifier/).*)")


@dataclass(frozen=True)
class MappedCheckpoint:
    """A checkpoint under the names and in the layout of the Keras models.

    Args:
        path: The file; error messages name it.
        family: A key of `FAMILIES`.
        tensors: Tensors by the names of the model's variables, not yet read.
        sources: The name in the file that each of them comes from.
        unknown: Names in the file that the family does not know.
        left_out: Names of what training keeps next to the network: losses, metrics, averaged weights.
    """

    path: Path
    family: str
    tensors: Mapping[str, LazyTensor]
    sources: Mapping[str, str]
    unknown: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    @property
    def unknown_in_encoder(self) -> tuple[str, ...]:
        """The unknown names within the modules of the encoder, which so has parts that no SegFormer has."""
        encoder = [name for variable, name in self.sources.items() if not variable.startswith(HEADS)]
        pieces = [name.split(".") for name in encoder]
        depth = 1 + next((i for i, each in enumerate(zip(*pieces, strict=False)) if len(set(each)) > 1), 0)
        modules = {tuple(name.split(".")[:depth]) for name in encoder}
        return tuple(name for name in self.unknown if tuple(name.split(".")[:depth]) in modules)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors' shapes by the names of the model's variables."""
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}


def map_names(checkpoint: Checkpoint, depths: Sequence[int] | None = None) -> MappedCheckpoint:
    """Detects the family of a checkpoint and renames its tensors.

    Args:
        checkpoint: What a reader returned.
        depths: Blocks of each stage, for files of Keras, which number the blocks through all stages; by default the
            stage of a block is the one of its width.

    Returns:
        The same tensors under the names of the model's variables, in their layout.

    Raises:
        CheckpointError: For names of no known family, and for two tensors of one meaning.

    Example:
        >>> tensor = LazyTensor.of(np.ones((5, 3), "float32"))
        >>> names = ["encoder.layer_norm.0.weight", "classifier.weight", "encoder.layer_norm.0.bias"]
        >>> map_names(Checkpoint(Path("x"), dict.fromkeys(names, tensor))).tensors["classifier/kernel"].shape
        (3, 5)
    """
    try:
        prefix = network_prefix(checkpoint.tensors)
        inside = [name for name in checkpoint.tensors if name.startswith(prefix) and not is_left_out(name)]
        short = {name[len(prefix) :]: tuple(checkpoint.tensors[name].shape) for name in inside}
        stage_names = number_blocks_by_stage(short, depths)
        family = detect_family(stage_names.values())
    except CheckpointError as error:
        hint = _EXPORT_HINT if checkpoint.path.name == "variables.index" else ""
        raise CheckpointError(f"{checkpoint.path}: {error}{hint}") from error
    layout = FAMILIES[family].layout
    tensors: dict[str, LazyTensor] = {}
    sources: dict[str, str] = {}
    unknown = []
    for name in inside:
        variables = keras_names(family, stage_names[name[len(prefix) :]])
        if variables is None:
            unknown.append(name)
            continue
        for part, variable in enumerate(variables):
            if variable in tensors:
                raise CheckpointError(
                    f"{checkpoint.path}: {sources[variable]} and {name} are the same tensor {variable}"
                )
            tensors[variable] = _in_layout_of(variable, checkpoint.tensors[name], layout, part, len(variables))
            sources[variable] = name
    _fold_bias(tensors)
    left_out = tuple(name for name in checkpoint.tensors if name not in set(inside))
    return MappedCheckpoint(checkpoint.path, family, tensors, sources, tuple(unknown), left_out)


def to_torch_names(tensors: Mapping[str, LazyTensor], family: str) -> dict[str, LazyTensor]:
    """Brings the variables of a model into the names and the layout of a family of PyTorch.

    Args:
        tensors: The model's variables by name.
        family: "huggingface" or "nvlabs".

    Returns:
        The family's tensors by name, with `num_batches_tracked` next to every batch norm's statistics.

    Raises:
        CheckpointError: Where the family has no name for a variable.

    Example:
        >>> list(to_torch_names({"classifier/bias": LazyTensor.of(np.zeros(3, "float32"))}, "nvlabs"))
        ['head.bias']
    """
    result = {}
    for name, variables in source_names(family, tensors).items():
        parts = [tensors[variable] for variable in variables]
        result[name] = _stacked(parts, variables)
        if name.endswith(".running_var"):
            counter = f"{name.rpartition('.')[0]}.num_batches_tracked"
            result[counter] = LazyTensor.of(np.zeros((), np.int64))
    return result


def model_variables(model: keras.Model) -> dict[str, keras.Variable]:
    """The variables of a model by their names without the layers around them.

    Args:
        model: One of the SegFormer models.

    Returns:
        Name such as "block_0_0/attention/query/kernel" -> variable; those of adapters are left out.

    Raises:
        ValueError: Where a variable's path has no such end, so that it is no SegFormer.
        CheckpointError: For a quantized model, whose weights are of no checkpoint's types.
    """
    if any(getattr(layer, "quantization_mode", None) for layer in model._flatten_layers()):
        raise CheckpointError(
            "the model is quantized, and a checkpoint holds float weights: model.save('model.keras') keeps it as it "
            "is; save_pretrained comes before quantize"
        )
    variables = {}
    for variable in model.weights:
        if variable.name.startswith("lora_kernel_"):
            continue
        match = _VARIABLE.fullmatch(variable.path)
        if match is None:
            raise ValueError(f"{variable.path} is no variable of a SegFormer model")
        variables[match[1]] = variable
    return variables


def model_layers(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """The layers of a model that have weights, by their names without the layers around them.

    Args:
        model: One of the SegFormer models.

    Returns:
        Name such as "block_0_0/attention/query" -> layer.
    """
    layers = [layer for layer in model._flatten_layers() if len(list(layer._flatten_layers())) == 1 and layer.weights]
    matches = [_VARIABLE.fullmatch(f"{layer.path}/") for layer in layers]
    return {match[1][:-1]: layer for match, layer in zip(matches, layers, strict=True) if match}


def _fold_bias(tensors: dict[str, LazyTensor]) -> None:
    """Moves a bias before the head's batch norm, which NVIDIA TAO has, into its mean: (x + b) - m = x - (m - b)."""
    bias, mean = tensors.pop(_FUSE_BIAS, None), tensors.get(_FUSE_MEAN)
    if bias is not None and mean is not None and bias.shape == mean.shape:
        tensors[_FUSE_MEAN] = LazyTensor(mean.shape, mean.dtype, lambda: mean.read() - bias.read())
    elif bias is not None:
        tensors[_FUSE_BIAS] = bias


def _in_layout_of(variable: str, tensor: LazyTensor, layout: str, part: int, parts: int) -> LazyTensor:
    """A tensor in the layout of a variable; the shape is found on a placeholder of the tensor's shape."""
    shape = to_keras(_placeholder(tensor), variable, layout, part, parts).shape
    return LazyTensor(shape, tensor.dtype, lambda: to_keras(tensor.read(), variable, layout, part, parts))


def _stacked(parts: list[LazyTensor], variables: tuple[str, ...]) -> LazyTensor:
    """Variables as the one tensor of PyTorch's layout that holds them."""
    shape = to_torch([_placeholder(part) for part in parts], variables).shape
    return LazyTensor(shape, parts[0].dtype, lambda: to_torch([part.read() for part in parts], variables))


def _placeholder(tensor: LazyTensor) -> np.ndarray:
    """An array of a tensor's shape that takes no memory."""
    return np.broadcast_to(np.zeros((), np.int8), tensor.shape)
