"""What TensorFlow Serving needs next to a SavedModel: configuration, warm-up requests, the commands to start it."""

from __future__ import annotations

import io
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tf_segformer.deploy.tf_serving.client import DEFAULT_MODEL_NAME
from tf_segformer.errors import SegformerError
from tf_segformer.io import atomic_write

WARMUP_PATH = Path("assets.extra", "tf_serving_warmup_requests")
_WARMUP_SIDE = 512  # pixels: of the images that warm the server up

_MODELS = """\
model_config_list {{
  config {{
    name: "{name}"
    base_path: "{base_path}"
    model_platform: "tensorflow"
  }}
}}
"""
_BATCHING = """\
# Requests of encoded images are merged whatever the sizes of the images. Those of the signatures "tensor" and
# "class_map" are merged too: under batching, all of them must have images of one size.
max_batch_size {{ value: {max_batch_size} }}
batch_timeout_micros {{ value: {batch_timeout_micros} }}
num_batch_threads {{ value: {threads} }}
max_enqueued_batches {{ value: 100 }}
"""
_MONITORING = """\
prometheus_config {
  enable: true
  path: "/monitoring/prometheus/metrics"
}
"""


@dataclass(frozen=True)
class ServingCommands:
    """Shell commands, each on one line.

    Args:
        docker: Starts the server in the image tensorflow/serving.
        server: Starts an installed tensorflow_model_server.
        health: Asks the server whether the model is available.
    """

    docker: str
    server: str
    health: str


def write_serving_config(
    folder: str | os.PathLike,
    output: str | os.PathLike,
    *,
    name: str = DEFAULT_MODEL_NAME,
    max_batch_size: int = 8,
    batch_timeout_micros: int = 2000,
    threads: int = 2,
) -> ServingCommands:
    """Writes `models.config`, `batching.config` and `monitoring.config`, and warm-up requests into the newest version.

    Needs the extra "serving", for the warm-up requests.

    Args:
        folder: What `export_saved_model` wrote to: the folder with the versions.
        output: Where the configuration files go; made where it is missing.
        name: Name of the model on the server.
        max_batch_size: Images that the server runs at once, from several requests.
        batch_timeout_micros: How long an image waits for others, in microseconds.
        threads: Batches that run at the same time.

    Returns:
        The commands that start and check the server.

    Raises:
        SegformerError: There is no SavedModel in the folder.
        ValueError: A number below its range.
        ImportError: tensorflow-serving-api is not installed.
    """
    for option, value, least in (
        ("max_batch_size", max_batch_size, 1),
        ("batch_timeout_micros", batch_timeout_micros, 0),
        ("threads", threads, 1),
    ):
        if value < least:
            raise ValueError(f"{option} must be at least {least}, but is {value}")
    base, output = Path(folder).resolve(), Path(output).resolve()
    write_warmup_requests(newest_version(base), name)
    batching = _BATCHING.format(
        max_batch_size=max_batch_size, batch_timeout_micros=batch_timeout_micros, threads=threads
    )
    files = {
        "models.config": _MODELS.format(name=_quoted(name), base_path=_quoted(str(base))),
        "batching.config": batching,
        "monitoring.config": _MONITORING,
    }
    for file_name, text in files.items():
        with atomic_write(output / file_name) as partial:
            partial.write_text(text, encoding="utf-8")
    return _commands(base, output, name)


def newest_version(folder: str | os.PathLike) -> Path:
    """The version of a SavedModel that a server takes: the one of the largest number.

    Args:
        folder: The folder with the versions.

    Returns:
        Its folder.

    Raises:
        SegformerError: There is none.
    """
    found = [path.parent for path in Path(folder).glob("*/saved_model.pb") if path.parent.name.isdigit()]
    if not found:
        raise SegformerError(f"{folder}: no SavedModel in it: write one with `tf-segformer export MODEL {folder}`")
    return max(found, key=lambda path: int(path.name))


def write_warmup_requests(version: Path, name: str = DEFAULT_MODEL_NAME) -> Path:
    """Writes one request for each signature, which the server runs before it takes others.

    Args:
        version: The folder of one version of a SavedModel.
        name: Name of the model on the server.

    Returns:
        The file, as TensorFlow Serving looks for it: records of `PredictionLog`.

    Raises:
        ImportError: tensorflow-serving-api is not installed.
    """
    import tensorflow as tf

    try:
        from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog
    except ImportError as error:
        raise ImportError("warm-up requests need tensorflow-serving-api: pip install tf_segformer[serving]") from error
    path = version / WARMUP_PATH
    with atomic_write(path) as partial, tf.io.TFRecordWriter(str(partial)) as writer:
        for signature, (input_name, tensor) in _signature_inputs(version).items():
            log = PredictionLog()
            request = log.predict_log.request
            request.model_spec.name = name
            request.model_spec.signature_name = signature
            request.inputs[input_name].CopyFrom(_example(tensor))
            writer.write(log.SerializeToString())
    return path


def _signature_inputs(version: Path) -> dict[str, tuple[str, Any]]:
    """Name and description (TensorInfo) of the one input of each signature."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    saved_model = SavedModel()
    saved_model.ParseFromString((version / "saved_model.pb").read_bytes())
    signatures = saved_model.meta_graphs[0].signature_def
    return {
        name: next(iter(definition.inputs.items()))
        for name, definition in sorted(signatures.items())
        if not name.startswith("__")
    }


def _example(tensor: Any) -> Any:
    """A value that an input takes, as TensorProto: an image file, or zeros with 512 in place of unknown sides."""
    import tensorflow as tf

    dtype = tf.dtypes.as_dtype(tensor.dtype)
    if dtype == tf.string:
        encoded = io.BytesIO()
        ramp = np.linspace(0, 127, _WARMUP_SIDE, dtype=np.uint8)
        Image.fromarray(np.stack([np.add.outer(ramp, ramp)] * 3, axis=-1)).save(encoded, "JPEG")
        return tf.make_tensor_proto([encoded.getvalue()])
    sides = [axis.size if axis.size > 0 else _WARMUP_SIDE for axis in tensor.tensor_shape.dim]
    return tf.make_tensor_proto(0, dtype, [1, *sides[1:]])  # the one zero stands for all: a small file


def _quoted(text: str) -> str:
    """A string within the quotes of a text protobuf."""
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _commands(base: Path, output: Path, name: str) -> ServingCommands:
    """The commands; the container sees the folders under their own paths, so that both read the same files."""
    options = [
        f"--model_config_file={output / 'models.config'}",
        "--enable_batching",
        f"--batching_parameters_file={output / 'batching.config'}",
        f"--monitoring_config_file={output / 'monitoring.config'}",
    ]
    mounts = [part for path in (base, output) for part in ("-v", f"{path}:{path}:ro")]
    docker = ["docker", "run", "--rm", "-p", "8500:8500", "-p", "8501:8501", *mounts, "tensorflow/serving", *options]
    server = ["tensorflow_model_server", "--port=8500", "--rest_api_port=8501", *options]
    health = ["curl", "--fail", f"http://localhost:8501/v1/models/{name}"]
    return ServingCommands(*(shlex.join(command) for command in (docker, server, health)))
