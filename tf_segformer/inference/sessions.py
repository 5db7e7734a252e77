"""How each framework runs an exported file: from pixel values to logits, in NumPy, at any size that the file allows."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tf_segformer.errors import CheckpointError
from tf_segformer.inference.forward import forward_function
from tf_segformer.inference.threads import MAX_AT_ONCE, cores
from tf_segformer.io import read_json
from tf_segformer.requirements import import_extra

EXPORT_NAME = "export.json"
"""File of an exported folder that says what was exported and what was measured of it."""

_TO_CHANNELS_FIRST, _TO_CHANNELS_LAST = (0, 3, 1, 2), (0, 2, 3, 1)
# Precision -> OpenVINO's hint, and what it calls the ability of a device.
_OPENVINO_PRECISIONS = {"float32": ("f32", "FP32"), "float16": ("f16", "FP16"), "bfloat16": ("bf16", "BF16")}
_Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Session:
    """A network that a framework has loaded.

    Args:
        run: From pixel values (B, H, W, C) float32 to logits (B, h, w, K), or (B, K) for a classifier.
        input_shape: (B, H, W, C); None where the network takes any size.
        device: "CPU" or "GPU".
        for_many: Makes a session of the same network for many images, where that is faster: each is run on fewer cores.
        at_once: How many threads may call `run` at the same time with a gain.
    """

    run: Callable[[np.ndarray], np.ndarray]
    input_shape: _Shape
    device: str
    for_many: Callable[[], Session] | None = None
    at_once: int = 1


def keras_session(model: Any) -> Session:
    """Runs a Keras model on the backend of Keras.

    Args:
        model: Keras model from (B, H, W, C) float32 to logits, or to a dictionary with "logits".

    Returns:
        The session.
    """
    import keras

    from tf_segformer.inference.on_device import sees_gpu

    on_gpu = sees_gpu()
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        on_gpu = bool(tf.config.list_logical_devices("GPU"))
    return Session(forward_function(model), tuple(model.input_shape), "GPU" if on_gpu else "CPU")


def saved_model_session(path: Path, channels: int, precision: str) -> Session:
    """Runs the signature of a SavedModel that takes pixel values: "tensor" of `export_saved_model`."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path.parent))
    for name in ("tensor", "serving_default"):  # the second is that of Keras' own export
        function = loaded.signatures.get(name)
        taken = {} if function is None else function.structured_input_signature[1]
        if len(taken) == 1 and next(iter(taken.values())).shape.rank == 4:
            break
    else:
        raise CheckpointError(
            f"{path}: no signature that takes pixel values (B, H, W, C): export with export_saved_model"
        )
    ((argument, spec),) = taken.items()

    def run(pixel_values: np.ndarray, _owner: Any = loaded) -> np.ndarray:  # a function does not keep its variables
        (logits,) = function(**{argument: tf.constant(pixel_values)}).values()
        return logits.numpy()

    device = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    return Session(run, tuple(spec.shape.as_list()), device)


def onnxruntime_session(path: Path, channels: int, precision: str) -> Session:
    """Runs an ONNX file in onnxruntime, on a GPU where the installed onnxruntime has CUDA."""
    onnxruntime = import_extra("onnxruntime", "onnx", f"{path}: running an ONNX file")
    available = onnxruntime.get_available_providers()
    providers = [each for each in ("CUDAExecutionProvider", "CPUExecutionProvider") if each in available]
    session = onnxruntime.InferenceSession(path, providers=providers)
    (given,) = session.get_inputs()
    shape = tuple(side if isinstance(side, int) else None for side in given.shape)
    device = "GPU" if session.get_providers()[0].startswith("CUDA") else "CPU"
    return _any_layout(Session(lambda x: session.run(None, {given.name: x})[0], shape, device), channels)


def openvino_session(path: Path, channels: int, precision: str) -> Session:
    """Runs an IR or an ONNX file in OpenVINO on the CPU.

    The first shape gets a network that is compiled for it, which is faster; all others share one of open sizes.
    """
    openvino = import_extra("openvino", "openvino", f"{path}: running it in OpenVINO")
    core = openvino.Core()
    hint = _precision_hint(core, path, precision)
    network = core.read_model(path)
    sides = network.inputs[0].get_partial_shape()
    shape = tuple(None if side.is_dynamic else side.get_length() for side in sides)

    def make(at_once: int) -> Session:
        run = _openvino_run(core, network, shape, hint, at_once)
        for_many = (lambda: make(min(cores(), MAX_AT_ONCE))) if at_once == 1 < cores() else None
        return _any_layout(Session(run, shape, "CPU", for_many, at_once), channels)

    return make(1)


def _openvino_run(
    core: Any, network: Any, shape: _Shape, precision_hint: str, at_once: int
) -> Callable[[np.ndarray], np.ndarray]:
    """A function from an input to the output, which some threads may call at the same time."""
    settings = {
        "INFERENCE_PRECISION_HINT": precision_hint,
        "PERFORMANCE_HINT": "LATENCY" if at_once == 1 else "THROUGHPUT",
        "PERFORMANCE_HINT_NUM_REQUESTS": str(at_once),
    }
    lock, of_thread = threading.Lock(), threading.local()
    compiled: dict[_Shape, Any] = {}

    def network_for(given: tuple[int, ...]) -> tuple[_Shape, Any]:
        with lock:
            key = given if not compiled or given in compiled else shape
            if key not in compiled:
                special = network
                if key != shape:
                    special = network.clone()
                    special.reshape(key)
                compiled[key] = core.compile_model(special, "CPU", settings)
            return key, compiled[key]

    def run(x: np.ndarray) -> np.ndarray:
        key, fitting = network_for(x.shape)
        # A request serves one thread at a time, and writes all its logits to one place: those that somebody still holds
        # keep theirs, and the next ones get a request of their own. A copy took a tenth of the time at 2048x2048.
        requests = of_thread.__dict__.setdefault("requests", {})
        request, logits_of = requests.get(key, (None, None))
        if request is None or logits_of() is not None:
            request = fitting.create_infer_request()
        logits = request.infer(x, share_inputs=True, share_outputs=True)[0]
        requests[key] = request, weakref.ref(logits)
        return logits

    return run


def _precision_hint(core: Any, path: Path, asked: str) -> str:
    """What OpenVINO computes in: what was asked for, or else what the file was exported for, where the CPU can."""
    described = path.with_name(EXPORT_NAME)
    precision = read_json(described).get("precision") if asked == "float32" and described.is_file() else asked
    hint, capability = _OPENVINO_PRECISIONS.get(precision, _OPENVINO_PRECISIONS["float32"])
    if capability in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return hint
    if asked == precision:
        warnings.warn(f"this CPU does not compute in {asked}: OpenVINO runs in float32", stacklevel=2)
    return _OPENVINO_PRECISIONS["float32"][0]


def litert_session(path: Path, channels: int, precision: str) -> Session:
    """Runs a LiteRT file, quantizing and dequantizing where its input and output are whole numbers."""
    interpreter = import_extra("ai_edge_litert.interpreter", "litert", f"{path}: running it in LiteRT")
    network = interpreter.Interpreter(str(path), num_threads=cores())  # by default it takes one
    network.allocate_tensors()  # of some size: a file that does not run is an error now
    (given,), (wanted,) = network.get_input_details(), network.get_output_details()
    shape = tuple(None if side < 0 else int(side) for side in given["shape_signature"])
    allocated: list[tuple[int, ...]] = []

    def run(x: np.ndarray) -> np.ndarray:
        if allocated != [x.shape]:
            network.resize_tensor_input(given["index"], x.shape)
            network.allocate_tensors()
            allocated[:] = [x.shape]
        network.set_tensor(given["index"], _quantized(x, given))
        network.invoke()
        return _dequantized(network.get_tensor(wanted["index"]), wanted)

    return _any_layout(Session(run, shape, "CPU"), channels)


def _quantized(values: np.ndarray, tensor: dict[str, Any]) -> np.ndarray:
    """Values as a tensor of a LiteRT file takes them."""
    kind = np.dtype(tensor["dtype"])
    if kind.kind == "f":
        return values.astype(kind, copy=False)
    scale, zero_point = tensor["quantization"]
    limits = np.iinfo(kind)
    return np.clip(np.round(values / scale) + zero_point, limits.min, limits.max).astype(kind)


def _dequantized(values: np.ndarray, tensor: dict[str, Any]) -> np.ndarray:
    """The float32 values of a tensor of a LiteRT file."""
    if values.dtype.kind == "f":
        return values
    scale, zero_point = tensor["quantization"]
    return (values.astype(np.float32) - zero_point) * np.float32(scale)


def _any_layout(session: Session, channels: int) -> Session:
    """A session in channels last of a network that is in either layout."""
    shape = session.input_shape
    if len(shape) != 4 or channels not in (shape[1], shape[3]):
        raise CheckpointError(f"the network takes {shape}, not images (B, H, W, {channels}) or (B, {channels}, H, W)")
    if shape[3] == channels:
        return session

    def run_channels_first(x: np.ndarray) -> np.ndarray:
        logits = session.run(np.ascontiguousarray(x.transpose(_TO_CHANNELS_FIRST)))
        return logits.transpose(_TO_CHANNELS_LAST) if logits.ndim == 4 else logits

    return replace(session, run=run_channels_first, input_shape=tuple(shape[axis] for axis in _TO_CHANNELS_LAST))
