"""One way to run a network whatever form it has: a Keras model, or what `export` wrote, in the engine that reads it."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tf_segformer.configuration import CONFIG_NAME, SegformerConfig
from tf_segformer.errors import CheckpointError, SegformerError
from tf_segformer.hub import WEIGHT_FILES, find_file
from tf_segformer.inference import sessions

AUTO = "auto"
PRECISIONS = ("float32", "float16", "bfloat16")

_GPU_DEVICES = ("/dev/nvidia0", "/dev/kfd", "/dev/dxg")  # NVIDIA, AMD, Windows' subsystem for Linux


class _Kind(NamedTuple):
    """What an engine needs, and how it starts a session from a file, the channels of an image and a precision."""

    module: str
    extra: str
    start: Callable[[Path, int, str], sessions.Session]


_KINDS = {
    "openvino": _Kind("openvino", "openvino", sessions.openvino_session),
    "tensorflow": _Kind("tensorflow", "", sessions.saved_model_session),
    "onnxruntime": _Kind("onnxruntime", "onnx", sessions.onnxruntime_session),
    "litert": _Kind("ai_edge_litert", "litert", sessions.litert_session),
}
ENGINES = tuple(_KINDS)
"""Names of the engines, the fastest on a CPU first."""

# File of an exported model -> the engines that read it.
_READERS = {
    "saved_model.pb": ("tensorflow",),
    "model.xml": ("openvino",),
    "model.onnx": ("openvino", "onnxruntime"),
    "model.tflite": ("litert",),
}
_READERS_BY_SUFFIX = {Path(name).suffix: engines for name, engines in _READERS.items()}


@dataclass(frozen=True)
class Engine:
    """A network in a framework that runs it; loaded when it is first used.

    Args:
        name: "tensorflow", "openvino", "onnxruntime" or "litert"; of a Keras model, the backend of Keras.
        start: Loads the network.
        config: A `SegformerConfig` with class names and colors, or None where nothing is known of them.
        path: The exported file, or None for a Keras model.

    Example:
        >>> import keras
        >>> inputs = keras.Input((None, None, 3))
        >>> engine = open_engine(keras.Model(inputs, keras.layers.Conv2D(2, 4, strides=4)(inputs)))
        >>> engine(np.zeros((1, 32, 64, 3), np.float32)).shape
        (1, 8, 16, 2)
    """

    name: str
    start: Callable[[], sessions.Session]
    config: Any = None
    path: Path | None = None

    @functools.cached_property
    def session(self) -> sessions.Session:
        """The loaded network."""
        return self.start()

    @functools.cached_property
    def for_many(self) -> Engine | None:
        """The same engine for many images, `session.at_once` of which run at the same time; None where none gains."""
        start = self.session.for_many
        return None if start is None else Engine(self.name, start, self.config, self.path)

    @property
    def task(self) -> str:
        """ "classification" where the configuration names such a model, else "segmentation"."""
        names = getattr(self.config, "extra", {}).get("architectures") or [""]
        return "classification" if str(names[0]).endswith("ImageClassification") else "segmentation"

    @property
    def device(self) -> str:
        """ "CPU" or "GPU"."""
        return self.session.device

    @property
    def num_channels(self) -> int:
        """The number of channels C of an image."""
        channels = self.session.input_shape[-1]
        assert channels is not None  # every network has a first kernel
        return channels

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """(H, W) where the network takes images of one size only, else None."""
        height, width = self.session.input_shape[1:3]
        return None if height is None or width is None else (height, width)

    def __call__(self, pixel_values: np.ndarray) -> np.ndarray:
        """Runs the network.

        Args:
            pixel_values: (B, H, W, C), as the processor gives them.

        Returns:
            Logits (B, ceil(H/4), ceil(W/4), K) float32; (B, K) of a classifier.

        Raises:
            ValueError: A shape that the network does not take.
        """
        pixel_values = np.ascontiguousarray(pixel_values, np.float32)
        if pixel_values.ndim != 4 or pixel_values.shape[-1] != self.num_channels:
            raise ValueError(
                f"pixel values have the shape {pixel_values.shape}, the model takes (B, H, W, {self.num_channels})"
            )
        size = pixel_values.shape[1:3]
        if self.fixed_size not in (None, size):
            height, width = self.fixed_size  # type: ignore[misc]
            raise ValueError(
                f"{self.path or 'the model'} takes images of {height}x{width} pixels only, not {size[0]}x{size[1]}: "
                "use mode='resize' with a processor of that size, or export it for any size"
            )
        batch = self.session.input_shape[0]
        parts = [pixel_values] if batch is None else _in_batches(pixel_values, batch)
        logits = [np.asarray(self.session.run(part), np.float32) for part in parts]
        return logits[0] if len(logits) == 1 else np.concatenate(logits)[: len(pixel_values)]


def _in_batches(images: np.ndarray, count: int) -> list[np.ndarray]:
    """Images in batches of a fixed size, the last filled up with zeros."""
    surplus = -len(images) % count
    filled = np.concatenate([images, np.zeros((surplus, *images.shape[1:]), images.dtype)]) if surplus else images
    return np.split(filled, len(filled) // count)


def open_engine(model: Any, engine: str = AUTO, precision: str = "float32") -> Engine:
    """The engine that runs a model.

    Args:
        model: A Keras model; what `export` wrote: its folder or file (of a folder of versions the largest); or an
            engine, which is returned.
        engine: Which of `ENGINES` runs an exported file; "auto" takes the fastest that is installed and reads it.
        precision: What OpenVINO computes in, where the CPU can: "float32", "float16" or "bfloat16"; by default what
            the folder's export.json says.

    Returns:
        The engine; nothing is loaded yet.

    Raises:
        CheckpointError: There is no exported model at that path, or the engine does not read it.
        ImportError: No engine that reads it is installed.
        ValueError: An unknown engine or precision.
    """
    _check_choice("engine", engine, (AUTO, *ENGINES))
    _check_choice("precision", precision, PRECISIONS)
    if isinstance(model, Engine):
        return model
    if not isinstance(model, (str, PathLike)):
        import keras

        return Engine(keras.backend.backend(), lambda: sessions.keras_session(model), getattr(model, "config", None))
    path, name = _choose(Path(model).expanduser(), engine)
    if precision != "float32" and name != "openvino":
        raise ValueError(
            f"precision={precision!r} is for OpenVINO; {name} computes in what {path.name} was exported in"
        )
    described = path.with_name(CONFIG_NAME)
    config = SegformerConfig.from_pretrained(described) if described.is_file() else None
    channels = 3 if config is None else config.num_channels
    return Engine(name, lambda: _start(name, path, channels, precision), config, path)


def _start(name: str, path: Path, channels: int, precision: str) -> sessions.Session:
    """Loads an exported file; what a framework has against it is one line."""
    try:
        return _KINDS[name].start(path, channels, precision)
    except (SegformerError, ImportError, MemoryError, Warning):
        raise
    except Exception as error:  # each framework has classes of its own
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: {name} cannot load it ({reason}); remove it and export again") from error


def exported_files(path: str | PathLike) -> list[Path]:
    """The exported models of a folder, or the file itself where it is one.

    Args:
        path: A folder that `export` wrote, the one of a version in it, or an exported file.

    Returns:
        Their paths; empty where there is none.

    Example:
        >>> exported_files("no-such-folder")
        []
    """
    path = Path(path)
    if path.is_file():
        return [path] if path.suffix in _READERS_BY_SUFFIX and path.suffix != ".pb" else []
    versions = [each for each in path.glob("*/saved_model.pb") if each.parent.name.isdecimal()]
    newest = max(versions, key=lambda each: int(each.parent.name), default=path / "saved_model.pb")
    files = [newest, *(path / name for name in _READERS)]
    return list(dict.fromkeys(each for each in files if each.is_file()))


def is_exported(path: str | PathLike) -> bool:
    """Whether a path holds an exported model, and no checkpoint, which would come first.

    Args:
        path: As for `exported_files`.

    Example:
        >>> is_exported("no-such-folder")
        False
    """
    path = Path(path)
    return bool(exported_files(path)) and not (path.is_dir() and find_file(path, WEIGHT_FILES))


def is_installed(engine: str) -> bool:
    """Whether an engine can be imported.

    Args:
        engine: One of `ENGINES`.

    Example:
        >>> is_installed("tensorflow")
        True
    """
    return find_spec(_KINDS[engine].module) is not None


def how_to_install(engine: str) -> str:
    """The command that installs an engine.

    Args:
        engine: One of `ENGINES`.

    Example:
        >>> how_to_install("openvino")
        "pip install 'tf_segformer[openvino]'"
    """
    extra = _KINDS[engine].extra
    return f"pip install 'tf_segformer[{extra}]'" if extra else f"pip install {_KINDS[engine].module}"


def fastest_engine() -> str:
    """The engine that "auto" takes for a checkpoint: TensorFlow where it sees a GPU, else the first that is installed.

    Returns:
        One of `ENGINES`.

    Example:
        >>> fastest_engine() in ENGINES
        True
    """
    if _sees_gpu():
        return "tensorflow"
    return next(name for name in ENGINES if is_installed(name))


def _sees_gpu() -> bool:
    """Whether TensorFlow sees a GPU; it is not imported where the system has none."""
    if sys.platform == "linux" and not any(os.path.exists(device) for device in _GPU_DEVICES):
        return False
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def _choose(path: Path, engine: str) -> tuple[Path, str]:
    """The exported file and the engine that runs it."""
    files = exported_files(path)
    if not files:
        what = "no exported model in it" if path.is_dir() else "no such exported model"
        raise CheckpointError(f"{path}: {what} ({', '.join(_READERS)}); a checkpoint is loaded with load_model")
    readers = [(file, name) for file in files for name in _READERS_BY_SUFFIX[file.suffix]]
    fitting = [each for each in readers if engine in (AUTO, each[1])]
    if not fitting:
        names = ", ".join(file.name for file in files)
        raise CheckpointError(
            f"{path}: {engine} does not read {names}, {' or '.join(name for _, name in readers)} does"
        )
    order = ("tensorflow", *ENGINES) if len(fitting) > 1 and _sees_gpu() else ENGINES
    installed = sorted((each for each in fitting if is_installed(each[1])), key=lambda each: order.index(each[1]))
    if not installed:
        file, name = fitting[0]
        raise ImportError(f"{file}: {name} is not installed: {how_to_install(name)}")
    return installed[0]


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value!r} is unknown: choose one of {', '.join(choices)}")
