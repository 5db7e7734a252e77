"""Low-rank adapters on the dense layers of a model: little is trained, the pretrained weights stay as they are."""

from __future__ import annotations

import re
from collections.abc import Sequence

import keras

from tf_segformer.modeling.quantization import dense_layers

ATTENTION = ("attention/",)


def enable_lora(
    model: keras.Model,
    rank: int,
    layers: Sequence[str],
    alpha: float | None,
    also_train: Sequence[str],
) -> None:
    """Adds adapters to dense layers and freezes all else; `PretrainedMixin.enable_lora` describes the arguments.

    Source: Hu et al. 2021, https://arxiv.org/abs/2106.09685.
    """
    if getattr(getattr(model, "optimizer", None), "built", False):
        raise ValueError("enable_lora comes before fit: the optimizer has the variables of before")
    adapted = {place: layer for place, layer in dense_layers(model).items() if _matches(place, layers)}
    if not adapted:
        raise ValueError(f"layers={layers!r} match no dense layer, such as {', '.join(list(dense_layers(model))[:3])}")
    chosen = {id(layer) for layer in adapted.values()}
    for layer in model._flatten_layers():
        if len(list(layer._flatten_layers())) == 1 and layer.weights:
            layer.trainable = id(layer) in chosen or _matches(layer.path, also_train)
    for layer in adapted.values():
        layer.enable_lora(rank, lora_alpha=alpha)
        if layer.use_bias:
            layer.bias.trainable = False


def _matches(place: str, patterns: Sequence[str]) -> bool:
    return any(re.search(pattern, place) for pattern in patterns)
