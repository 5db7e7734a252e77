"""Between the tensors of a checkpoint and the variables of a Keras model, matched by name and by shape."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tf_segformer.checkpoints.families import FAMILIES
from tf_segformer.checkpoints.layouts import to_keras, to_torch
from tf_segformer.checkpoints.names import HEADS, keras_names, recognise, source_names
from tf_segformer.checkpoints.tensors import Checkpoint, LazyTensor
from tf_segformer.errors import CheckpointError

if TYPE_CHECKING:
    import keras

_VARIABLE = re.compile(r"(?:.*?/)??((?:patch_embedding_|block_|stage_norm_|decode_head/|classifier/).*)")


@dataclass(frozen=True)
class Translation:
    """A checkpoint in the names and the layout of the Keras models.

    Args:
        path: The file; error messages name it.
        family: A key of `FAMILIES`.
        tensors: Tensors by the names of the model's variables, not yet read.
        sources: The name in the file that each of them comes from.
        unknown: Names in the file that the family does not know.
    """

    path: Path
    family: str
    tensors: Mapping[str, LazyTensor]
    sources: Mapping[str, str]
    unknown: tuple[str, ...]


def translate(checkpoint: Checkpoint) -> Translation:
    """Recognises the family of a checkpoint and renames its tensors.

    Args:
        checkpoint: What a reader returned.

    Returns:
        The same tensors under the names of the model's variables, in their layout.

    Raises:
        CheckpointError: For names of no known family, and for two tensors of one meaning.

    Example:
        >>> tensor = LazyTensor.of(np.ones((5, 3), "float32"))
        >>> names = ["encoder.layer_norm.0.weight", "classifier.weight", "encoder.layer_norm.0.bias"]
        >>> translate(Checkpoint(Path("x"), dict.fromkeys(names, tensor))).tensors["classifier/kernel"].shape
        (3, 5)
    """
    try:
        family = recognise(checkpoint.tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from error
    layout = FAMILIES[family].layout
    tensors: dict[str, LazyTensor] = {}
    sources: dict[str, str] = {}
    unknown = []
    for name, tensor in checkpoint.tensors.items():
        variables = keras_names(family, name)
        if variables is None:
            unknown.append(name)
            continue
        for part, variable in enumerate(variables):
            if variable in tensors:
                raise CheckpointError(
                    f"{checkpoint.path}: {sources[variable]} and {name} are the same tensor {variable}"
                )
            tensors[variable] = _laid_out(tensor, variable, layout, part, len(variables))
            sources[variable] = name
    return Translation(checkpoint.path, family, tensors, sources, tuple(unknown))


def model_variables(model: keras.Model) -> dict[str, keras.Variable]:
    """The variables of a model by their names without the layers around them.

    Args:
        model: One of the SegFormer models.

    Returns:
        Name such as "block_0_0/attention/query/kernel" -> variable.

    Raises:
        ValueError: Where a variable's path has no such end, so that it is no SegFormer.
    """
    variables = {}
    for variable in model.weights:
        match = _VARIABLE.fullmatch(variable.path)
        if match is None:
            raise ValueError(f"{variable.path} is no variable of a SegFormer model")
        variables[match[1]] = variable
    return variables


def load_weights_into(model: keras.Model, translation: Translation, *, ignore_mismatched_sizes: bool = False) -> None:
    """Fills a model with the weights of a checkpoint, all of them or none.

    A model with a head takes a checkpoint that has none: the head stays as it is, and a warning says so.

    Args:
        model: One of the SegFormer models; its variables' dtypes decide.
        translation: The checkpoint's tensors.
        ignore_mismatched_sizes: Leave a tensor of the head that has another shape as it is and warn, for fine-tuning
            to other classes.

    Raises:
        CheckpointError: Listing every tensor that is missing, unexpected or misshapen. The model is then unchanged.
    """
    variables = model_variables(model)
    shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
    matched = match_shapes(shapes, translation, ignore_mismatched_sizes=ignore_mismatched_sizes)
    for name in matched:
        values = translation.tensors[name].read()
        variables[name].assign(values.astype(variables[name].dtype, copy=False))


def match_shapes(
    expected: Mapping[str, tuple[int, ...]],
    translation: Translation,
    *,
    ignore_mismatched_sizes: bool = False,
) -> list[str]:
    """Compares the names and shapes of a checkpoint with those that a model needs.

    Args:
        expected: Name of each variable of the model -> its shape.
        translation: The checkpoint's tensors.
        ignore_mismatched_sizes: Let tensors of the head have another shape.

    Returns:
        The variables to fill, in the order of `expected`. Warns of those that stay as they are.

    Raises:
        CheckpointError: Listing every tensor that is missing, unexpected or misshapen.
    """
    found = translation.tensors
    without_head = [head for head in HEADS if _has(expected, head) and not _has(found, head)]
    other_heads = tuple(head for head in HEADS if not _has(expected, head))
    wanted = [name for name in expected if not name.startswith(tuple(without_head))]
    missing = [name for name in wanted if name not in found]
    unexpected = [
        translation.sources[name] for name in found if name not in expected and not name.startswith(other_heads)
    ]
    misshapen = [name for name in wanted if name in found and tuple(found[name].shape) != tuple(expected[name])]
    fresh = [name for name in misshapen if ignore_mismatched_sizes and name.startswith(HEADS)]
    problems = [
        *(f"missing: {name} {tuple(expected[name])}" for name in missing),
        *(f"unexpected: {name}" for name in (*unexpected, *translation.unknown)),
        *(
            f"misshapen: {translation.sources[name]} gives {name} {found[name].shape}, the model has {expected[name]}"
            for name in misshapen
            if name not in fresh
        ),
    ]
    if problems:
        hint = "" if missing or unexpected or not all(name.startswith(HEADS) for name in misshapen) else _HEAD_HINT
        title = FAMILIES[translation.family].title
        lines = "\n  ".join(problems)
        raise CheckpointError(
            f"{translation.path} ({title}) does not fit the model, nothing was loaded:\n  {lines}{hint}"
        )
    for head in without_head:
        _warn(f"{translation.path} has no {head.rstrip('/')}: the model's is newly initialized, train it first")
    if fresh:
        _warn(f"{translation.path} has other shapes of {', '.join(fresh)}: newly initialized, train them first")
    return [name for name in wanted if name not in fresh]


def to_family(tensors: Mapping[str, LazyTensor], family: str) -> dict[str, LazyTensor]:
    """Brings the variables of a model into the names and the layout of a family of PyTorch.

    Args:
        tensors: The model's variables by name.
        family: "huggingface" or "nvlabs".

    Returns:
        The family's tensors by name, with `num_batches_tracked` beside every batch norm's statistics.

    Raises:
        CheckpointError: Where the family has no name for a variable.

    Example:
        >>> list(to_family({"classifier/bias": LazyTensor.of(np.zeros(3, "float32"))}, "nvlabs"))
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


def model_tensors(model: keras.Model) -> dict[str, LazyTensor]:
    """The variables of a model as tensors by name.

    Args:
        model: One of the SegFormer models.

    Returns:
        Name such as "block_0_0/attention/query/kernel" -> tensor, read from the variable when asked for.
    """
    import keras

    def lazy(variable: Any) -> LazyTensor:
        shape, dtype = tuple(variable.shape), np.dtype(variable.dtype)
        return LazyTensor(shape, dtype, lambda: keras.ops.convert_to_numpy(variable.value))

    return {name: lazy(variable) for name, variable in model_variables(model).items()}


_HEAD_HINT = "\nPass ignore_mismatched_sizes=True to keep the encoder and train a new head."


def _warn(message: str) -> None:
    """Warns at the line that called `from_pretrained`."""
    warnings.warn(message, UserWarning, stacklevel=6)


def _has(names: Mapping[str, Any], head: str) -> bool:
    return any(name.startswith(head) for name in names)


def _laid_out(tensor: LazyTensor, variable: str, layout: str, part: int, parts: int) -> LazyTensor:
    """A tensor in the layout of a variable; its shape is found on a stand-in that holds no values."""
    stand_in = np.broadcast_to(np.zeros((), np.int8), tensor.shape)
    shape = to_keras(stand_in, variable, layout, part, parts).shape
    return LazyTensor(shape, tensor.dtype, lambda: to_keras(tensor.read(), variable, layout, part, parts))


def _stacked(parts: list[LazyTensor], variables: tuple[str, ...]) -> LazyTensor:
    """Variables as the one tensor of PyTorch's layout that holds them."""
    stand_ins = [np.broadcast_to(np.zeros((), np.int8), part.shape) for part in parts]
    shape = to_torch(stand_ins, variables).shape
    return LazyTensor(shape, parts[0].dtype, lambda: to_torch([part.read() for part in parts], variables))
