"""load_model: the model of a checkpoint, whichever of the three tasks it is for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tf_segformer.modeling import models

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
    from tf_segformer.checkpoints.loading import OpenCheckpoint, open_checkpoint
    from tf_segformer.hub import HubOptions

    hub = HubOptions.pop_from(options)
    opened = name_or_path if isinstance(name_or_path, OpenCheckpoint) else open_checkpoint(name_or_path, hub)
    return getattr(models, TASK_CLASSES[opened.task]).from_pretrained(opened, **options)
