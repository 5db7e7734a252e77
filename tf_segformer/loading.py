"""The model of a checkpoint, whichever of the three tasks it is for, and what there is to know of it."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tf_segformer.configuration import SegformerConfig
from tf_segformer.hub import HubOptions, origin_of
from tf_segformer.modeling import models
from tf_segformer.modeling.macs import classification_macs, encoder_macs, segmentation_macs

if TYPE_CHECKING:
    from tf_segformer.checkpoints.loading import OpenCheckpoint


def load_model(name_or_path: str | Path | OpenCheckpoint, **options: Any) -> models.PretrainedModel:
    """Loads a checkpoint into the model that its tensors are for.

    Args:
        name_or_path: A folder, a checkpoint file, the name of an embedded model, a Hub id "owner/name", or a
            checkpoint that is open already.
        **options: As for `from_pretrained` of the three models: `revision`, `token`, `cache_dir` and
            `local_files_only` for the Hub, `dtype`, fields of the configuration.

    Returns:
        A `SegformerForSemanticSegmentation`, a `SegformerForImageClassification` or a `SegformerModel`.

    Raises:
        CheckpointError: Where the checkpoint cannot be found, read, recognized or matched.

    Example:
        >>> type(load_model("camvid-b0")).__name__
        'SegformerForSemanticSegmentation'
    """
    from tf_segformer.checkpoints.architecture import TASK_CLASSES

    opened = _opened(name_or_path, options)
    return getattr(models, TASK_CLASSES[opened.task]).from_pretrained(opened, **options)


def describe_model(
    name_or_path: str | Path | OpenCheckpoint, size: tuple[int, int] = (512, 512), **options: Any
) -> dict[str, Any]:
    """What a checkpoint is, what it costs and which classes it has; `tf-segformer info` prints it.

    Args:
        name_or_path: As for `load_model`.
        size: (height, width) of the image whose cost is counted, in pixels.
        **options: As for `load_model`.

    Returns:
        Facts by name, ready for JSON; costs in GMAC, 10^9 multiply-accumulates.

    Raises:
        CheckpointError: Where the checkpoint cannot be found, read, recognized or matched.

    Example:
        >>> facts = describe_model("camvid-b0", size=(360, 480))
        >>> facts["variant"], facts["task"], facts["labels"]["0"]
        ('B0', 'segmentation', 'Sky')
    """
    from tf_segformer.checkpoints.architecture import variant_name

    checkpoint = _opened(name_or_path, options)
    model = load_model(checkpoint, **options)
    config = model.config
    trainable = sum(prod(variable.shape) for variable in model.trainable_variables)
    return {
        "loaded_from": str(checkpoint.path),
        **_origin(checkpoint),
        "file_megabytes": round(checkpoint.path.stat().st_size / 1e6, 1),
        "tensor_names": checkpoint.family,
        "task": checkpoint.task,
        "variant": variant_name(config) or "none of the published ones",
        "depths": list(config.depths),
        "hidden_sizes": list(config.hidden_sizes),
        "decoder_hidden_size": config.decoder_hidden_size,
        "num_channels": config.num_channels,
        "parameters_trainable": trainable,
        "parameters_total": model.count_params(),
        "size": list(size),
        **{name: round(macs / 1e9, 2) for name, macs in _costs(config, checkpoint.task, size).items()},
        "labels": {str(index): name for index, name in config.id2label.items()},
    }


def _origin(checkpoint: OpenCheckpoint) -> dict[str, str]:
    """The Hub's repository and commit, of the file itself or of the model that it was made from."""
    here = origin_of(checkpoint.path)
    if here is not None:
        return {"repository": here[0], "commit": here[1]}
    extra = checkpoint.config.extra
    names = {"made_from_repository": "_name_or_path", "made_from_commit": "_commit_hash"}
    return {name: str(extra[field]) for name, field in names.items() if "_commit_hash" in extra and field in extra}


def _costs(config: SegformerConfig, task: str, size: tuple[int, int]) -> dict[str, int]:
    """Multiply-accumulates of one image; of a decode head as it runs here and as the reference runs it."""
    if task == "segmentation":
        return {
            "gmac": segmentation_macs(config, size),
            "reference_gmac": segmentation_macs(config, size, composed_head=False),
        }
    return {"gmac": classification_macs(config, size) if task == "classification" else encoder_macs(config, size)}


def _opened(name_or_path: str | Path | OpenCheckpoint, options: dict[str, Any]) -> OpenCheckpoint:
    """The checkpoint of a name; takes what is for the Hub out of the options."""
    from tf_segformer.checkpoints.loading import OpenCheckpoint, open_checkpoint

    hub = HubOptions.pop_from(options)
    if isinstance(name_or_path, OpenCheckpoint):
        return name_or_path
    known = {name: options[name] for name in ("config", "num_attention_heads") if name in options}
    return open_checkpoint(name_or_path, hub, **known)
