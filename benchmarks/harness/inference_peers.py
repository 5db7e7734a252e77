"""This project and its peers on one image: pixel values to logits, every engine in its own natural layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.harness.case import Case, Engine, Peer
from benchmarks.harness.keras_hub_model import keras_hub_segmenter

_MATMUL_SIDE = 3072  # large enough for the peak, small enough for a tenth of a second


def _ours(case: Case) -> Engine:
    """What SegmentationPredictor runs: one graph for images of any size."""
    from tf_segformer import SegformerForSemanticSegmentation
    from tf_segformer.inference.forward import forward_function

    set_tensorflow_threads(case.threads)
    forward = forward_function(SegformerForSemanticSegmentation.from_pretrained(case.weights))
    return _channels_last(case, forward)


def _ours_fixed(case: Case) -> Engine:
    """The same, traced for the size of the case."""
    import tensorflow as tf

    from tf_segformer import SegformerForSemanticSegmentation

    set_tensorflow_threads(case.threads)
    model = SegformerForSemanticSegmentation.from_pretrained(case.weights)
    signature = [tf.TensorSpec((case.batch, case.height, case.width, 3), tf.float32)]
    run = tf.function(lambda pixel_values: model(pixel_values, training=False), input_signature=signature)
    return _channels_last(case, lambda pixel_values: run(pixel_values).numpy())


def _ours_eager(case: Case) -> Engine:
    """What a notebook does first: the model called as it is."""
    from tf_segformer import SegformerForSemanticSegmentation

    set_tensorflow_threads(case.threads)
    model = SegformerForSemanticSegmentation.from_pretrained(case.weights)
    return _channels_last(case, lambda pixel_values: model(pixel_values, training=False).numpy())


def _ours_saved_model(case: Case) -> Engine:
    """The exported SavedModel, which needs nothing of this project."""
    import tensorflow as tf

    set_tensorflow_threads(case.threads)
    loaded = tf.saved_model.load(str(case.export("saved-model") / "1"))
    signature = loaded.signatures["tensor"]
    return _channels_last(
        case, lambda pixel_values: signature(pixel_values=tf.constant(pixel_values))["logits"].numpy()
    )


def _hugging_face(compile_model: bool) -> Callable[[Case], Engine]:
    """PyTorch, eager or through torch.compile with its default options."""

    def load(case: Case) -> Engine:
        import torch
        from transformers import SegformerForSemanticSegmentation

        torch.set_num_threads(case.threads)
        model = SegformerForSemanticSegmentation.from_pretrained(case.weights).eval()
        forward = torch.compile(model) if compile_model else model

        def run(pixel_values: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return forward(pixel_values=torch.from_numpy(pixel_values)).logits.numpy()

        return _channels_first(case, run)

    return load


def _onnxruntime(artifact: str, make: Callable[..., Engine]) -> Callable[[Case], Engine]:
    def load(case: Case) -> Engine:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = case.threads
        options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(case.export(artifact), options, providers=["CPUExecutionProvider"])
        return make(case, lambda pixel_values: session.run(["logits"], {"pixel_values": pixel_values})[0])

    return load


def _openvino(artifact: str, make: Callable[..., Engine]) -> Callable[[Case], Engine]:
    def load(case: Case) -> Engine:
        import openvino

        core = openvino.Core()
        model = core.read_model(case.export(artifact))
        shape = (3, case.height, case.width) if make is _channels_first else (case.height, case.width, 3)
        model.reshape((case.batch, *shape))
        settings = {
            "INFERENCE_NUM_THREADS": case.threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",  # or it may choose bfloat16 by itself
        }
        compiled = core.compile_model(model, "CPU", settings)
        return make(case, lambda pixel_values: compiled(pixel_values)[0])

    return load


def _keras_hub(whole: bool) -> Callable[[Case], Engine]:
    """keras-hub's segmenter as it is, which resizes the logits to the image, or up to the logits."""

    def load(case: Case) -> Engine:
        import keras
        import tensorflow as tf

        set_tensorflow_threads(case.threads)
        model = keras_hub_segmenter(case)
        to_logits = keras.Model(model.input, model.output_segmentation_head.output)
        measured = model if whole else to_logits
        run = tf.function(lambda pixel_values: measured(pixel_values, training=False))
        pixel_values = case.pixel_values()
        return Engine(
            run=lambda: run(pixel_values).numpy(), output=lambda: to_logits(pixel_values, training=False).numpy()
        )

    return load


def _tf_port(case: Case) -> Engine:
    """The TensorFlow port that transformers had until version 5, as a graph."""
    import tensorflow as tf
    from transformers.models.segformer.modeling_tf_segformer import TFSegformerForSemanticSegmentation

    set_tensorflow_threads(case.threads)
    model = TFSegformerForSemanticSegmentation.from_pretrained(case.weights)
    run = tf.function(lambda pixel_values: model(pixel_values, training=False).logits)
    return _channels_first(case, lambda pixel_values: run(tf.constant(pixel_values)).numpy())


def _matmul(case: Case) -> Engine:
    """The matrix product whose speed is the machine's limit."""
    import tensorflow as tf

    set_tensorflow_threads(case.threads)
    square = tf.random.stateless_normal((_MATMUL_SIDE, _MATMUL_SIDE), (0, 0))
    run = tf.function(lambda one: tf.linalg.matmul(one, one)[:1])
    return Engine(run=lambda: run(square).numpy(), output=lambda: np.empty(0))


def matmul_flop() -> float:
    """Floating-point operations of the matrix product."""
    return 2.0 * _MATMUL_SIDE**3


def set_tensorflow_threads(threads: int) -> None:
    """Both thread pools of TensorFlow; it takes them only before its first operation."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)


def _channels_last(case: Case, run: Callable[[np.ndarray], Any]) -> Engine:
    pixel_values = case.pixel_values()
    return Engine(run=lambda: run(pixel_values), output=lambda: run(pixel_values))


def _channels_first(case: Case, run: Callable[[np.ndarray], Any]) -> Engine:
    pixel_values = np.ascontiguousarray(case.pixel_values().transpose(0, 3, 1, 2))
    return Engine(run=lambda: run(pixel_values), output=lambda: run(pixel_values).transpose(0, 2, 3, 1))


OURS_IMPORTS = (
    "tensorflow",
    "tf_segformer",
    "keras",
    "tf_segformer.modeling.models",
    "tf_segformer.checkpoints.saving",
    "tf_segformer.inference.forward",
)
_KERAS_HUB_IMPORTS = ("tensorflow", "keras_hub")
HUGGING_FACE_IMPORTS = ("torch", "transformers", "transformers.models.segformer.modeling_segformer")

PEERS: dict[str, Peer] = {
    "ours": Peer("this project", OURS_IMPORTS, _ours),
    "ours-fixed": Peer("this project, fixed size", OURS_IMPORTS, _ours_fixed),
    "ours-eager": Peer("this project, not compiled", OURS_IMPORTS, _ours_eager),
    "ours-saved-model": Peer(
        "this project's SavedModel", ("tensorflow",), _ours_saved_model, artifacts=("saved-model",)
    ),
    "openvino": Peer(
        "OpenVINO, HF ONNX",
        ("openvino",),
        _openvino("hugging-face.onnx", _channels_first),
        artifacts=("hugging-face.onnx",),
    ),
    "openvino-ours": Peer(
        "OpenVINO, this project's ONNX",
        ("openvino",),
        _openvino("ours.onnx", _channels_last),
        artifacts=("ours.onnx",),
    ),
    "onnxruntime": Peer(
        "onnxruntime, HF ONNX",
        ("onnxruntime",),
        _onnxruntime("hugging-face.onnx", _channels_first),
        artifacts=("hugging-face.onnx",),
    ),
    "onnxruntime-ours": Peer(
        "onnxruntime, this project's ONNX",
        ("onnxruntime",),
        _onnxruntime("ours.onnx", _channels_last),
        artifacts=("ours.onnx",),
    ),
    "torch-compile": Peer("HF PyTorch, torch.compile", HUGGING_FACE_IMPORTS, _hugging_face(compile_model=True)),
    "torch": Peer("HF PyTorch, eager", HUGGING_FACE_IMPORTS, _hugging_face(compile_model=False)),
    "keras-hub": Peer("keras-hub (with its resize)", ("tensorflow", "keras_hub"), _keras_hub(True), square_only=True),
    "keras-hub-logits": Peer(
        "keras-hub, to the logits", ("tensorflow", "keras_hub"), _keras_hub(False), square_only=True
    ),
    "tf-port": Peer(
        "HF TensorFlow port",
        ("tensorflow", "transformers.models.segformer.modeling_tf_segformer"),
        _tf_port,
        needs_tf_port=True,
    ),
    "matmul": Peer("matrix product", ("tensorflow",), _matmul, artifacts=()),
}
INFERENCE = [key for key in PEERS if key not in ("ours-eager", "matmul")]  # what tables compare, unless told otherwise
