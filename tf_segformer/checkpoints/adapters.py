"""Low-rank adapters in and out: merged into the weights of a checkpoint, or alone in a folder of PEFT."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tf_segformer.checkpoints.adapter_merging import CONFIG_NAME
from tf_segformer.checkpoints.formats.safetensors import read_safetensors, write_safetensors
from tf_segformer.checkpoints.layouts import to_keras
from tf_segformer.checkpoints.mapping import model_layers, model_variables, to_torch_names
from tf_segformer.checkpoints.names import keras_names, source_names
from tf_segformer.checkpoints.tensors import LazyTensor
from tf_segformer.errors import CheckpointError, write_errors
from tf_segformer.hub import ADAPTER_NAME
from tf_segformer.io import atomic_update, read_json, write_json

if TYPE_CHECKING:
    import keras

_FAMILIES = ("huggingface", "huggingface-v5")  # whose names an adapter has, by the transformers that it was trained on
_PREFIX = "base_model.model."  # of PEFT, before the names of the network
_MATRICES = {"lora_A": "lora_kernel_a", "lora_B": "lora_kernel_b"}
_TENSOR = re.compile(rf"{re.escape(_PREFIX)}(.+?)\.(?:modules_to_save\.)?(?:(lora_[AB])\.)?(\w+)")
_OTHER_KINDS: dict[str, Any] = {  # what is not read, with its value where it is not used
    "use_dora": False,
    "use_rslora": False,
    "fan_in_fan_out": False,
    "rank_pattern": {},
    "alpha_pattern": {},
}


def save_lora(model: keras.Model, folder: str | Path, base_model: str | None = None) -> None:
    """Writes the adapters of a model, and what else it trained, as PEFT does; the pretrained weights are not in it.

    Args:
        model: A model after `enable_lora`.
        folder: The folder to write to; made where it is missing.
        base_model: What the adapters belong to, such as a Hub id: noted in adapter_config.json.

    Raises:
        CheckpointError: For a model without adapters, or a folder that cannot be written.
    """
    layers, variables = model_layers(model), model_variables(model)
    adapted = {place: layer for place, layer in layers.items() if getattr(layer, "lora_enabled", False)}
    if not adapted:
        raise CheckpointError("the model has no adapters to save: call enable_lora, or save_pretrained for all weights")
    module_of = {
        parts[0].rpartition("/")[0]: name.rpartition(".")[0]
        for name, parts in source_names("huggingface", variables).items()
    }
    tensors: dict[str, LazyTensor] = {}
    for place, layer in adapted.items():
        for matrix, attribute in _MATRICES.items():
            values = np.ascontiguousarray(_numpy(getattr(layer, attribute)).T)
            tensors[f"{_PREFIX}{module_of[place]}.{matrix}.weight"] = LazyTensor.of(values)
    trained = {
        place for place, layer in layers.items() if layer.trainable and place not in adapted and place in module_of
    }
    everything = {name: LazyTensor.of(_numpy(variable)) for name, variable in variables.items()}
    for name, tensor in to_torch_names(everything, "huggingface").items():
        if name.rpartition(".")[0] in {module_of[place] for place in trained}:
            tensors[f"{_PREFIX}{name}"] = tensor
    (rank, alpha) = next((layer.lora_rank, layer.lora_alpha) for layer in adapted.values())
    fields = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base_model,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": [module_of[place] for place in adapted],
        "modules_to_save": sorted(module_of[place] for place in trained) or None,
        "inference_mode": True,
        **_OTHER_KINDS,
    }
    folder = Path(folder)
    with write_errors(folder), atomic_update(folder, fsync=True) as partial:
        write_safetensors(partial / ADAPTER_NAME, tensors)
        write_json(partial / CONFIG_NAME, fields)


def load_lora(model: keras.Model, folder: str | Path) -> None:
    """Adds the adapters of a folder to the model that they were trained on, ready to predict or to train on.

    Args:
        model: The model, with or without adapters of the same layers.
        folder: What `save_lora` or PEFT wrote.

    Raises:
        CheckpointError: For a folder that is none, adapters of another kind, and tensors that do not fit. The model is
            then unchanged.
    """
    folder = Path(folder)
    fields, tensors = _read_adapter(folder)
    matrices: dict[tuple[str, str], np.ndarray] = {}
    whole: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        match = _TENSOR.fullmatch(name)
        found = [keras_names(family, f"{match[1]}.{match[3]}") if match else None for family in _FAMILIES]
        variables = next((each for each in found if each is not None), None)
        if match is None or variables is None:
            raise CheckpointError(f"{folder}: {name} is no adapter of a SegFormer's layer")
        if match[2] and variables:
            matrices[variables[0].rpartition("/")[0], _MATRICES[match[2]]] = tensor.read().T
        elif variables:
            whole[variables[0]] = to_keras(tensor.read(), variables[0], "torch")
    places = sorted({place for place, _ in matrices})
    _check_fit(model, folder, fields["r"], matrices, whole)
    layers = model_layers(model)
    if not any(getattr(layer, "lora_enabled", False) for layer in layers.values()):
        modules = {name.rpartition("/")[0] for name in whole}
        model.enable_lora(fields["r"], _exactly(places), fields.get("lora_alpha"), also_train=_exactly(modules))
    for (place, attribute), values in matrices.items():
        getattr(layers[place], attribute).assign(values)
    variables_of_model = model_variables(model)
    for name, values in whole.items():
        variables_of_model[name].assign(values)


def _exactly(names: Iterable[str]) -> list[str]:
    """Patterns of `enable_lora` that match these places alone."""
    return [rf"(^|/){re.escape(name)}$" for name in names]


def merged_kernel(layer: keras.layers.Dense) -> np.ndarray:
    """The kernel of an adapted layer with its adapter added, in the kernel's own precision."""
    from keras import ops

    kernel = next(weight for weight in layer.weights if weight.name == "kernel")
    change = (layer.lora_alpha / layer.lora_rank) * ops.matmul(layer.lora_kernel_a, layer.lora_kernel_b)
    return _numpy(ops.cast(ops.add(kernel, change), kernel.dtype))


def _read_adapter(folder: Path) -> tuple[Mapping[str, Any], Mapping[str, LazyTensor]]:
    """The fields of adapter_config.json and the tensors of an adapter."""
    try:
        fields = read_json(folder / CONFIG_NAME)
        if not isinstance(fields, dict):
            raise ValueError("it holds no JSON object")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: no readable {CONFIG_NAME}: {error}") from error
    other = [name for name, value in _OTHER_KINDS.items() if fields.get(name) and fields[name] != value]
    if fields.get("peft_type") != "LORA" or other or not isinstance(fields.get("r"), int):
        kind = ", ".join(other) or fields.get("peft_type")
        raise CheckpointError(f"{folder}: adapters with {kind} are not read: merge them where they were trained")
    return fields, read_safetensors(folder / ADAPTER_NAME).tensors


def _check_fit(
    model: keras.Model,
    folder: Path,
    rank: int,
    matrices: Mapping[tuple[str, str], np.ndarray],
    whole: Mapping[str, np.ndarray],
) -> None:
    """Compares an adapter's tensors with the layers of a model."""
    layers, variables = model_layers(model), model_variables(model)
    both = [(place, attribute) for place in {place for place, _ in matrices} for attribute in _MATRICES.values()]
    problems = [f"{place}: {attribute} is missing" for place, attribute in both if (place, attribute) not in matrices]
    for (place, attribute), values in matrices.items():
        kernel = variables.get(f"{place}/kernel")
        wanted = None if kernel is None else {"a": (kernel.shape[0], rank), "b": (rank, kernel.shape[1])}[attribute[-1]]
        if kernel is None or len(kernel.shape) != 2 or not hasattr(layers[place], "lora_enabled"):
            problems.append(f"{place}: no dense layer of the model")
        elif values.shape != wanted:
            problems.append(f"{place}: {attribute} is {values.shape}, the model takes {wanted}")
    for name, values in whole.items():
        if name not in variables or tuple(variables[name].shape) != values.shape:
            shape = tuple(variables[name].shape) if name in variables else "no such variable"
            problems.append(f"{name}: {values.shape}, the model has {shape}")
    enabled = {place: layer for place, layer in layers.items() if getattr(layer, "lora_enabled", False)}
    ranks = {place: layer.lora_rank for place, layer in enabled.items()}
    if enabled and ranks != {place: rank for place, _ in matrices}:
        problems.append("the model has adapters of other layers or of another rank: load them into one without")
    if problems:
        raise CheckpointError(f"{folder} does not fit the model, nothing was loaded:\n  " + "\n  ".join(problems))


def _numpy(value: Any) -> np.ndarray:
    from keras import ops

    return ops.convert_to_numpy(value)
