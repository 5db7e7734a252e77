"""What the config.json of other packages says of a SegFormer: theirs are not the fields of a SegformerConfig."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

# Names of keras-hub's models with a MiT encoder.
KERAS_HUB_CLASSES = ("SegFormerImageSegmenter", "SegFormerBackbone", "MiTImageClassifier", "MiTBackbone")
_KERAS_HUB_FIELDS = {
    "depths": "layerwise_depths",
    "num_attention_heads": "layerwise_num_heads",
    "strides": "layerwise_strides",
}
_OURS = {"model_type", "depths", "hidden_sizes", "num_encoder_blocks", "architectures"}  # one is in every other file
_SMP_ENCODER = re.compile(r"mit_b[0-5]")
_MAX_NESTING = 8


def foreign_fields(description: Mapping[str, Any]) -> dict[str, Any] | None:
    """The fields of a SegformerConfig that the config.json of another package states.

    Args:
        description: The parsed config.json.

    Returns:
        Fields that no tensor's shape implies, none of them where the shapes say all; None for a config.json of
        Hugging Face or of this project.

    Raises:
        ValueError: For an encoder that is no MiT.

    Example:
        >>> foreign_fields({"encoder_name": "mit_b0", "classes": 3}), foreign_fields({"depths": [2, 2, 2, 2]})
        ({}, None)
    """
    if "encoder_name" in description:  # segmentation_models_pytorch
        name = str(description["encoder_name"])[:80]
        if not _SMP_ENCODER.fullmatch(name):
            raise ValueError(f"its encoder is {name!r}, not the MiT of a SegFormer (mit_b0 to mit_b5)")
        return {}
    if description.get("class_name") not in KERAS_HUB_CLASSES:
        return None if _OURS & set(description) else {}
    encoder = next((each for each in _configs(description) if "layerwise_num_heads" in each), {})
    return {field: tuple(encoder[name]) for field, name in _KERAS_HUB_FIELDS.items() if _is_stages(encoder.get(name))}


def _configs(description: Any, depth: int = 0) -> Iterator[Mapping[str, Any]]:
    """The configurations of a serialized layer of Keras and of those within."""
    if isinstance(description, dict) and depth < _MAX_NESTING:
        yield description
        for value in description.values():
            yield from _configs(value, depth + 1)


def _is_stages(value: Any) -> bool:
    """Whether a value is one whole number per stage."""
    return isinstance(value, list) and all(isinstance(each, int) and each > 0 for each in value)
