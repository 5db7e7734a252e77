"""Which dense layers `quantize` changes, and what is saved of it so that a quantized model comes back as it was."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import keras

_PLACE = re.compile(r"(?:^|/)((?:block_\d+_\d+|decode_head|classifier)(?:/.*)?)$")


def dense_layers(model: keras.Model) -> dict[str, keras.layers.Dense]:
    """The dense layers of a model by their place, such as "block_0_0/attention/query"."""
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.Dense)]
    places = [_PLACE.search(layer.path) for layer in layers]
    return {place[1]: layer for place, layer in zip(places, layers, strict=True) if place}


def layer_filter(model: keras.Model, filters: Any) -> Callable[[Any], bool]:
    """Keras' `filters` for the dense layers of a model; by default all but the classifier.

    Args:
        model: One of the SegFormer models.
        filters: None, a regular expression or a list of them for the layers' names, or a function of the layer.

    Returns:
        A function that says of a layer whether it is quantized.

    Raises:
        ValueError: Where no dense layer is among them.
    """
    layers = dense_layers(model).values()
    if filters is None:
        # 8 bits for the classifier change the class of 1 % of the pixels, for all the others together 0.1 %
        chosen = [layer for layer in layers if layer.name != "classifier"]
    elif callable(filters):
        chosen = [layer for layer in layers if filters(layer)]
    else:
        patterns: Iterable[str] = [filters] if isinstance(filters, str) else filters
        chosen = [layer for layer in layers if any(re.search(pattern, layer.name) for pattern in patterns)]
    if not chosen:
        names = ", ".join(sorted({layer.name for layer in layers}))
        raise ValueError(f"filters={filters!r} leave no dense layer to quantize: the names are {names}")
    kept = {id(layer) for layer in chosen}
    return lambda layer: id(layer) in kept


def quantized_layers(model: keras.Model) -> dict[str, dict[str, Any]]:
    """How the layers of a model were quantized, ready for JSON.

    Args:
        model: One of the SegFormer models.

    Returns:
        Place of each quantized layer -> its mode and its configuration; empty where none is.
    """
    return {
        place: {
            "mode": layer.quantization_mode,
            "config": keras.saving.serialize_keras_object(layer.quantization_config),
        }
        for place, layer in dense_layers(model).items()
        if layer.quantization_mode
    }


def quantize_again(model: keras.Model, recorded: dict[str, dict[str, Any]]) -> None:
    """Quantizes the layers that `quantized_layers` recorded; their weights follow.

    Args:
        model: The same model, not quantized.
        recorded: What `quantized_layers` returned.
    """
    layers = dense_layers(model)
    for place, how in recorded.items():
        layers[place].quantize(how["mode"], config=keras.saving.deserialize_keras_object(how["config"]))
