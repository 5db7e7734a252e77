"""From a name to a model with its weights, and from a model to a folder or to the Hub."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tf_segformer.checkpoints.architecture import infer_config
from tf_segformer.checkpoints.families import FAMILIES
from tf_segformer.checkpoints.hub_upload import push_to_hub
from tf_segformer.checkpoints.loading import Translation, load_weights_into, model_tensors, to_family, translate
from tf_segformer.checkpoints.readers import read_checkpoint
from tf_segformer.checkpoints.saving import write_folder
from tf_segformer.checkpoints.schema import TASK_CLASSES, infer_task
from tf_segformer.checkpoints.tensors import Checkpoint, LazyTensor
from tf_segformer.configuration import CONFIG_NAME, SegformerConfig
from tf_segformer.errors import CheckpointError
from tf_segformer.hub import find_file, resolve_weights

__all__ = ["checkpoint_config", "load_pretrained", "push_to_hub", "save_pretrained"]

if TYPE_CHECKING:
    import keras

_CONFIG_FIELDS = frozenset(each.name for each in dataclasses.fields(SegformerConfig))


def load_pretrained(
    model_class: type[keras.Model],
    name_or_path: str | Path,
    *,
    config: SegformerConfig | None = None,
    num_labels: int | None = None,
    id2label: Mapping[int, str] | None = None,
    ignore_mismatched_sizes: bool = False,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    dtype: Any = None,
    **options: Any,
) -> keras.Model:
    """Builds the model of a checkpoint and fills in its weights.

    Args:
        model_class: One of the SegFormer models.
        name_or_path: A folder, a checkpoint file, the name of an embedded model or a Hub id "owner/name".
        config: The configuration; by default config.json beside the weights, or what the tensors imply.
        num_labels: Number of classes, where it shall differ from the checkpoint's.
        id2label: Names of the classes, where they shall differ.
        ignore_mismatched_sizes: Draw a head of another size anew and warn, instead of refusing.
        revision: Branch, tag or commit on the Hub.
        token: Access token of the Hub; True takes the stored one.
        cache_dir: Where downloads are kept.
        local_files_only: Take files from the cache only.
        dtype: Keras dtype policy of the model.
        **options: Other fields of the configuration, and arguments of the model's constructor.

    Returns:
        The model.

    Raises:
        CheckpointError: Where the checkpoint cannot be found, read, recognised or matched.
    """
    from tf_segformer.modeling.initialization import skip_initialization  # imports Keras

    hub_options: dict[str, Any] = {
        "revision": revision,
        "token": token,
        "cache_dir": cache_dir,
        "local_files_only": local_files_only,
    }
    weights = resolve_weights(name_or_path, **hub_options)
    checkpoint = read_checkpoint(weights)
    translation = translate(checkpoint)
    if config is None:
        config = checkpoint_config(checkpoint, translation, find_file(name_or_path, [CONFIG_NAME], **hub_options))
    changes = {name: options.pop(name) for name in list(options) if name in _CONFIG_FIELDS}
    if num_labels is not None:
        changes["num_labels"] = num_labels
    if id2label is not None:
        changes["id2label"] = dict(id2label)
    with skip_initialization():
        model = model_class(config.replace(**changes), dtype=dtype, **options)
    load_weights_into(model, translation, ignore_mismatched_sizes=ignore_mismatched_sizes)
    return model


def checkpoint_config(checkpoint: Checkpoint, translation: Translation, config_file: Path | None) -> SegformerConfig:
    """The configuration of a checkpoint: its own, that of its config.json, or what its tensors imply.

    What the file does not state and the shapes do not show, such as epsilons, is that of the checkpoint's family.

    Args:
        checkpoint: What the reader returned.
        translation: Its tensors under the names of the model's variables.
        config_file: The config.json beside it, or None.

    Returns:
        The configuration, with class names and palette from the checkpoint where no config.json names them.

    Raises:
        CheckpointError: Where config.json is not usable, or is missing and the tensors do not tell enough.
    """
    if checkpoint.config is not None:
        try:
            return SegformerConfig.from_dict(checkpoint.config)
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{checkpoint.path}: not a usable SegFormer configuration: {error}") from error
    if config_file is not None:
        config = SegformerConfig.from_pretrained(config_file)
        stated = json.loads(config_file.read_text(encoding="utf-8"))
        own = {name: value for name, value in FAMILIES[translation.family].fields.items() if name not in stated}
        return config.replace(**own)
    config = infer_config(translation)
    if checkpoint.class_names is not None and len(checkpoint.class_names) == config.num_labels:
        config = config.replace(id2label=dict(enumerate(checkpoint.class_names)))
        if checkpoint.palette is not None:
            config.extra["palette"] = [list(color) for color in checkpoint.palette]
    return config


def save_pretrained(model: keras.Model, folder: str | Path) -> None:
    """Writes config.json and model.safetensors under Hugging Face's names, so that PyTorch loads them back.

    Args:
        model: One of the SegFormer models.
        folder: The folder to write to; made where it is missing. A run that is killed leaves what was there, or a
            folder that is rejectd, never a mixture.

    Raises:
        CheckpointError: Where the folder cannot be written.
    """
    write_pretrained(Path(folder), model.config, model_tensors(model), family="huggingface")


def write_pretrained(folder: Path, config: SegformerConfig, tensors: Mapping[str, LazyTensor], *, family: str) -> None:
    """Writes config.json and model.safetensors under the names of a family.

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
    write_folder(folder, fields, to_family(tensors, family))
