"""Less memory in training: the inside of attention and feed-forward layers is computed anew for the gradient."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import keras

_BLOCK = re.compile(r"block_\d+_\d+")


def rematerialize(model: keras.Model) -> None:
    """Computes the inside of every attention and feed-forward layer again in the backward pass: less memory, more time.

    `keras.RematScope` would do this, but under TensorFlow it fails on layers that are called with `training=`, and
    around a whole block it would sample another stochastic depth the second time.

    Args:
        model: SegFormer model without dropout inside those layers, not traced yet.

    Raises:
        ValueError: The model has dropout there, which would be sampled anew.

    Source: Chen et al. 2016, https://arxiv.org/abs/1604.06174.

    Example:
        >>> rematerialize(model)
    """
    config = model.config
    if config.hidden_dropout_prob or config.attention_probs_dropout_prob:
        raise ValueError("rematerialization needs hidden_dropout_prob=0 and attention_probs_dropout_prob=0")
    for layer in model._flatten_layers():
        if _BLOCK.fullmatch(layer.name):
            layer.attention.mix = _attention_again(layer.attention.mix)
            layer.mlp.mix = _again(layer.mlp.mix)


def _again(mix: Callable[..., Any]) -> Callable[..., Any]:
    """A layer's `mix` that keeps its input only."""

    def mix_again(positions: Any, *arguments: Any, **options: Any) -> Any:
        return keras.remat(lambda positions: mix(positions, *arguments, **options))(positions)

    return mix_again


def _attention_again(mix: Callable[..., tuple[Any, None]]) -> Callable[..., tuple[Any, None]]:
    """The same of attention, which has no probabilities to give in training."""
    outputs = _again(lambda *arguments, **options: mix(*arguments, **options)[0])
    return lambda *arguments, **options: (outputs(*arguments, **options), None)
