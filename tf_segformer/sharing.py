"""Draws layers of the same form once: TensorFlow's time to the first result grows faster than its graph."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Hashable, Iterator
from typing import Any

import keras

# The functions drawn so far by form; None where layers are drawn one by one.
_functions: contextvars.ContextVar[dict[Hashable, Any] | None] = contextvars.ContextVar("functions", default=None)


@contextlib.contextmanager
def alike_layers_drawn_once() -> Iterator[None]:
    """Draws a TensorFlow graph for inference in which layers of the same form are calls of one function.

    B5 has 52 blocks of four forms: on two cores its first result comes after 6 s instead of 25; later ones take 1 to
    2 % longer.

    Example:
        >>> with alike_layers_drawn_once():
        ...     sharing_wanted()
        True
    """
    token = _functions.set({})
    try:
        yield
    finally:
        _functions.reset(token)


def sharing_wanted() -> bool:
    """Whether layers are called within `alike_layers_drawn_once`, and not within such a function already."""
    return _functions.get() is not None


def call_shared(layer: keras.layers.Layer, x: Any, form: Hashable) -> Any:
    """Calls a layer for inference as a function of its weights, drawn at the first layer of that form.

    Args:
        layer: The layer; its `call` is drawn.
        x: A tensor.
        form: Differs between layers that would compute something else with the same weights.

    Returns:
        What the layer gives for `x`.
    """
    import tensorflow as tf

    weights = [tf.convert_to_tensor(weight.value) for weight in layer.weights]

    def call_with(x: Any, *values: Any) -> Any:
        token = _functions.set(None)
        try:
            with keras.StatelessScope(state_mapping=list(zip(layer.weights, values, strict=True))):
                return layer.call(x)
        finally:
            _functions.reset(token)

    functions = _functions.get()
    assert functions is not None, "outside of alike_layers_drawn_once"
    key = form, x.dtype, tuple(x.shape)
    if key not in functions:  # inlined, its copies would be optimized one by one
        functions[key] = tf.function(call_with, autograph=False, experimental_attributes={"_noinline": True})
    return functions[key](x, *weights)
