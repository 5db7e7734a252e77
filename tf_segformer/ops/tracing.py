"""What a graph is traced for (this machine or another engine), and layers of the same form traced once."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import sys
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import keras

MANY_WEIGHTS = 500  # B3 has more, B2 fewer
DEVICES = ("CPU", "GPU")
_LITE_CONVERTER = "tensorflow.lite.python.lite"

_exporting = contextvars.ContextVar("exporting", default=False)
_device: contextvars.ContextVar[str | None] = contextvars.ContextVar("device", default=None)


@contextlib.contextmanager
def export_mode() -> Iterator[None]:
    """Traces graphs without loops and without what only TensorFlow's optimizer understands, for LiteRT.

    Example:
        >>> with export_mode():
        ...     exporting()
        True
    """
    token = _exporting.set(True)
    try:
        yield
    finally:
        _exporting.reset(token)


def exporting() -> bool:
    """Whether layers are called within `export_mode`, or by `tf.lite.TFLiteConverter.from_keras_model`."""
    return _exporting.get() or _called_by(_LITE_CONVERTER)


def _called_by(module: str) -> bool:
    """Whether a function of a module is running; it is looked for among the callers, since it does not say so."""
    if module not in sys.modules:
        return False
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") != module:
        frame = frame.f_back
    return frame is not None


@contextlib.contextmanager
def trace_for(device: str) -> Iterator[None]:
    """Traces graphs for a kind of device, whether this machine has one or not.

    Args:
        device: One of `DEVICES`.

    Raises:
        ValueError: Another kind of device.

    Example:
        >>> with trace_for("GPU"):
        ...     target_device(), tuned_for_cpu()
        ('GPU', False)
    """
    if device not in DEVICES:
        raise ValueError(f"device={device!r} must be one of {', '.join(DEVICES)}")
    token = _device.set(device)
    try:
        yield
    finally:
        _device.reset(token)


def target_device() -> str:
    """The kind of device that graphs are traced for: that of `trace_for`, or a GPU where TensorFlow sees one."""
    if _device.get() is not None:
        return str(_device.get())
    import tensorflow as tf

    return "GPU" if tf.config.list_logical_devices("GPU") else "CPU"


def tuned_for_cpu() -> bool:
    """Whether operations take the forms that are faster or smaller where TensorFlow computes on a CPU.

    Everywhere else they take the plain form or the framework's own: a GPU has kernels and memory for these, JAX and
    torch fuse them, and other engines do not know all operations of TensorFlow.
    """
    return keras.backend.backend() == "tensorflow" and not exporting() and target_device() == "CPU"


def runs_tensorflow_kernels() -> bool:
    """Whether TensorFlow runs this graph itself; XLA compiles a function that was made with `jit_compile=True`."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf
    from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext  # there is no public name for it

    return not GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


# === Layers of the same form ===


@dataclass(frozen=True)
class _TraceCache:
    """The functions traced so far by form, and their attributes in TensorFlow."""

    attributes: dict[str, Any]
    functions: dict[Hashable, Any] = field(default_factory=dict)


_cache: contextvars.ContextVar[_TraceCache | None] = contextvars.ContextVar("trace_cache", default=None)


@contextlib.contextmanager
def share_traces(num_weights: int) -> Iterator[None]:
    """Traces a TensorFlow graph for inference in which layers of the same form are calls of one function.

    TensorFlow inlines the calls before it optimizes the graph, which takes long where they are many: then they stay
    calls. On two cores B5, with 52 blocks of four forms, gives its first result after 5 s instead of 25, and later
    ones take 2 % longer; B0 would take 5 % longer, and is inlined.

    Args:
        num_weights: How many weights the model has.

    Example:
        >>> with share_traces(200):
        ...     sharing_traces()
        True
    """
    token = _cache.set(_TraceCache({"_noinline": True} if num_weights >= MANY_WEIGHTS else {}))
    try:
        yield
    finally:
        _cache.reset(token)


def sharing_traces() -> bool:
    """Whether layers are called within `share_traces`, neither for another engine nor within such a function."""
    return _cache.get() is not None and not exporting()


def traced_once(*unused: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Makes the `call` of a layer one function of its weights, which layers of the same form share in `share_traces`.

    Layers have the same form if their configurations agree, apart from the name and what inference does not use.
    Training, and calls with other options, are traced in full.

    Args:
        *unused: Names of the configuration that make no difference to inference.

    Returns:
        A decorator of `call(self, x, training=False, **options)`.
    """

    def decorate(call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def shared(self: Any, x: Any, training: bool = False, **options: Any) -> Any:
            if training or any(options.values()) or not sharing_traces():
                return call(self, x, training=training, **options)
            config = {key: value for key, value in self.get_config().items() if key not in ("name", *unused)}
            return _call_shared(self, functools.partial(call, self), x, repr(config))

        return shared

    return decorate


def _call_shared(layer: keras.layers.Layer, call: Callable[[Any], Any], x: Any, form: str) -> Any:
    """Calls a layer as a function of its weights, traced at the first layer of that form."""
    import tensorflow as tf

    weights = [tf.convert_to_tensor(weight.value) for weight in layer.weights]

    def call_with(x: Any, *values: Any) -> Any:
        token = _cache.set(None)
        try:
            with keras.StatelessScope(state_mapping=list(zip(layer.weights, values, strict=True))):
                return call(x)
        finally:
            _cache.reset(token)

    cache = _cache.get()
    assert cache is not None, "outside of share_traces"
    # Which of a layer's dense layers are quantized is in its weights alone
    key = form, x.dtype, tuple(x.shape), tuple((weight.dtype, tuple(weight.shape)) for weight in layer.weights)
    if key not in cache.functions:
        cache.functions[key] = tf.function(call_with, autograph=False, experimental_attributes=cache.attributes)
    return cache.functions[key](x, *weights)
