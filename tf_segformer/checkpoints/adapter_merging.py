"""Merges the low-rank adapters (LoRA) that PEFT saves into the weights that they were trained for."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tf_segformer.checkpoints.layouts import to_keras
from tf_segformer.checkpoints.mapping import MappedCheckpoint
from tf_segformer.checkpoints.names import detect_family, keras_names
from tf_segformer.checkpoints.tensors import Checkpoint, LazyTensor
from tf_segformer.errors import CheckpointError
from tf_segformer.io import read_json

CONFIG_NAME = "adapter_config.json"
_PREFIX = re.compile(r"base_model\.model\.")
_FACTOR = re.compile(r"(.*)\.lora_([AB])(?:\.\w+)?\.weight")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*|[a-z0-9-]+")
_OTHER_KINDS = {"use_dora": "DoRA", "alora_invocation_tokens": "aLoRA"}
_LARGEST_ALPHA = 2**31  # also of a whole number that is larger than any float
_MERGE = "merge it with PEFT's merge_and_unload() and save_pretrained, and load that"


def read_adapter_config(path: Path) -> dict[str, Any]:
    """Reads adapter_config.json and rejects what is no plain LoRA.

    Args:
        path: The file.

    Returns:
        Its fields.

    Raises:
        CheckpointError: For an unreadable file, another kind of adapter, and a base that is no Hub id and no embedded
            model: a file names no path.
    """
    try:
        fields = read_json(path)
        if not isinstance(fields, dict):
            raise ValueError("it holds no JSON object")
        kinds = [name for field, name in _OTHER_KINDS.items() if fields.get(field)]
        if kinds or fields.get("peft_type") != "LORA":
            kind = kinds[0] if kinds else str(fields.get("peft_type"))[:40]
            raise ValueError(f"an adapter of the kind {kind}, not plain LoRA: {_MERGE}")
        base = fields.get("base_model_name_or_path")
        if not isinstance(base, str) or not _HUB_ID.fullmatch(base) or ".." in base:
            raise ValueError(f"its base {str(base)[:100]!r} is no Hub id 'owner/name': {_MERGE}")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a usable adapter of PEFT: {error}") from error
    return fields


def merge_adapter(base: MappedCheckpoint, adapter: Checkpoint, fields: Mapping[str, Any]) -> MappedCheckpoint:
    """Adds the products of an adapter's factors to the weights, and puts modules that were trained whole in place.

    Args:
        base: The weights that it was trained for.
        adapter: The tensors of adapter_model.safetensors.
        fields: Its adapter_config.json.

    Returns:
        The merged tensors, computed when they are read.

    Raises:
        CheckpointError: For names or shapes that do not fit the base.
    """
    factors: dict[str, dict[str, LazyTensor]] = {}
    whole: dict[str, LazyTensor] = {}
    for name, tensor in adapter.tensors.items():
        short = _PREFIX.sub("", name, count=1)
        if match := _FACTOR.fullmatch(short):
            factors.setdefault(match[1], {})[match[2]] = tensor
        else:
            whole[short] = tensor
    try:
        family = detect_family([*(f"{module}.weight" for module in factors), *whole])
        replaced = {
            variable: _converted(tensor, variable)
            for name, tensor in whole.items()
            for variable in _names(family, name)
        }
        tensors = {**base.tensors, **replaced}
        for module, pair in factors.items():
            (variable,) = _names(family, f"{module}.weight")
            if set(pair) != {"A", "B"} or variable not in tensors:
                raise CheckpointError(f"{module}: no pair of factors of a weight that the base has")
            tensors[variable] = _merged(tensors[variable], variable, pair, _scale(module, pair, fields))
    except CheckpointError as error:
        raise CheckpointError(f"{adapter.path}: {error}") from error
    sources = {**base.sources, **{variable: variable for variable in replaced}}
    return dataclasses.replace(base, path=adapter.path, tensors=tensors, sources=sources)


def _names(family: str, name: str) -> tuple[str, ...]:
    """The variables that a tensor of PyTorch is."""
    found = keras_names(family, name)
    if found is None:
        raise CheckpointError(f"the tensor {name[:100]!r} is of no SegFormer: {_MERGE}")
    return found


def _converted(tensor: LazyTensor, variable: str) -> LazyTensor:
    """A tensor of PyTorch in the layout of a variable."""
    shape = to_keras(np.broadcast_to(np.zeros((), np.int8), tensor.shape), variable, "torch").shape
    return LazyTensor(shape, tensor.dtype, lambda: to_keras(tensor.read(), variable, "torch"))


def _merged(weight: LazyTensor, variable: str, pair: Mapping[str, LazyTensor], scale: float) -> LazyTensor:
    """A weight plus the scaled product of its factors: (r, in, ...) and (out, r, ...)."""
    first, second = pair["A"], pair["B"]
    rank = first.shape[0]
    if len(second.shape) < 2 or second.shape[1] != rank or math.prod(second.shape[2:]) != 1:
        raise CheckpointError(f"{variable}: factors of the shapes {first.shape} and {second.shape} have no product")
    shape = (second.shape[0], *first.shape[1:])
    if to_keras(np.broadcast_to(np.zeros((), np.int8), shape), variable, "torch").shape != weight.shape:
        raise CheckpointError(f"{variable}: the adapter changes {shape}, the base has {weight.shape}")

    def read() -> np.ndarray:
        left = second.read().reshape(shape[0], rank).astype(np.float32)
        right = first.read().reshape(rank, -1).astype(np.float32)
        return weight.read() + to_keras((scale * (left @ right)).reshape(shape), variable, "torch").astype(np.float32)

    return LazyTensor(weight.shape, np.dtype(np.float32), read)


def _scale(module: str, pair: Mapping[str, LazyTensor], fields: Mapping[str, Any]) -> float:
    """alpha / rank, or alpha / sqrt(rank), with the module's own alpha where the configuration has one."""
    rank, alpha = pair["A"].shape[0], fields.get("lora_alpha", 8)
    patterns = fields.get("alpha_pattern")
    for name, own in patterns.items() if isinstance(patterns, dict) else ():
        if module == name or module.endswith(f".{name}"):
            alpha = own
    if not isinstance(alpha, int | float) or not abs(alpha) < _LARGEST_ALPHA or rank < 1:
        raise CheckpointError(f"{module}: lora_alpha={alpha!r} and rank {rank} give no scale")
    return alpha / math.sqrt(rank) if fields.get("use_rslora") else alpha / rank
