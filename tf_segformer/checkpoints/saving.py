"""From a model to a folder that Hugging Face's transformers and every `from_pretrained` load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tf_segformer.checkpoints.adapters import merged_kernel
from tf_segformer.checkpoints.architecture import TASK_CLASSES, infer_task
from tf_segformer.checkpoints.families import FAMILIES
from tf_segformer.checkpoints.formats.safetensors import write_safetensors
from tf_segformer.checkpoints.mapping import model_layers, model_variables, to_torch_names
from tf_segformer.checkpoints.tensors import LazyTensor
from tf_segformer.configuration import CONFIG_NAME, SegformerConfig
from tf_segformer.errors import write_errors
from tf_segformer.io import atomic_update, write_json

if TYPE_CHECKING:
    import keras

WEIGHTS_NAME = "model.safetensors"


def save_pretrained(model: keras.Model, folder: str | Path) -> None:
    """Writes config.json and model.safetensors under Hugging Face's names, so that PyTorch loads them back.

    Args:
        model: One of the SegFormer models.
        folder: The folder to write to; made where it is missing. A run that is killed leaves the old model or the
            new one, never a mixture.

    Raises:
        CheckpointError: Where the folder cannot be written; what was in it is then still there.
    """
    write_pretrained(Path(folder), model.config, model_tensors(model), family="huggingface")


def write_pretrained(folder: Path, config: SegformerConfig, tensors: Mapping[str, LazyTensor], *, family: str) -> None:
    """Writes config.json and model.safetensors under the names of a family, both of them or none.

    Args:
        folder: The folder to write to; made where it is missing.
        config: The configuration.
        tensors: Tensors by the names of the model's variables.
        family: "huggingface" or "nvlabs".

    Raises:
        CheckpointError: Where the folder cannot be written, or the family has no name for a tensor.
    """
    fields = config.to_dict()
    fields["architectures"] = [TASK_CLASSES[infer_task(tensors)]]
    # What config.json leaves out is read as the family's own, so what differs from it must be written.
    fields |= {
        name: getattr(config, name) for name, own in FAMILIES[family].fields.items() if getattr(config, name) != own
    }
    named = to_torch_names(tensors, family)
    with write_errors(folder), atomic_update(folder, fsync=True) as partial:
        write_safetensors(partial / WEIGHTS_NAME, named)
        write_json(partial / CONFIG_NAME, fields)


def model_tensors(model: keras.Model) -> dict[str, LazyTensor]:
    """The variables of a model as tensors by name.

    Args:
        model: One of the SegFormer models.

    Returns:
        Name such as "block_0_0/attention/query/kernel" -> tensor, read from the variable when asked for; adapters are
        merged into their kernels.
    """
    import keras

    layers = model_layers(model)

    def lazy(name: str, variable: Any) -> LazyTensor:
        layer = layers.get(name.removesuffix("/kernel"))
        shape, dtype = tuple(variable.shape), np.dtype(variable.dtype)
        if getattr(layer, "lora_enabled", False):
            return LazyTensor(shape, dtype, lambda: merged_kernel(layer))
        return LazyTensor(shape, dtype, lambda: keras.ops.convert_to_numpy(variable.value))

    return {name: lazy(name, variable) for name, variable in model_variables(model).items()}
