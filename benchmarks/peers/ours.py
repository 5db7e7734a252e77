"""This project as an engine, and the files that all engines load: random weights, exports, generated images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.harness.case import Case, Engine, File

_INITIALIZER_RANGE = 0.1  # of Hugging Face's 0.02 the logits come out nearly constant, and any two engines agree
_MATMUL_SIDE = 3072  # large enough for the peak, small enough for a tenth of a second
_RATE, _WEIGHT_DECAY = 6e-5, 0.01  # the paper's
IMAGES, _IMAGE_SIZES = 16, ((1024, 768), (683, 512), (768, 1024))  # (width, height)
IMPORTS = (
    "tensorflow",
    "tf_segformer",
    "keras",
    "tf_segformer.modeling.models",
    "tf_segformer.checkpoints.saving",
    "tf_segformer.inference.forward",
)


def make_weights(case: Case) -> None:
    """Random weights as a Hugging Face folder; biases and norms are random too, so that a lost one is noticed."""
    from tf_segformer import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig.from_variant(case.variant, num_labels=case.classes, initializer_range=_INITIALIZER_RANGE)
    model = SegformerForSemanticSegmentation(config)
    rng = np.random.default_rng(2)
    for variable in model.weights:
        if len(variable.shape) == 1:
            center = 1.0 if variable.path.endswith(("gamma", "moving_variance")) else 0.0
            variable.assign(center + 0.2 * rng.uniform(-1, 1, variable.shape))
        else:
            variable.assign(_INITIALIZER_RANGE * rng.standard_normal(variable.shape))
    model.save_pretrained(case.weights)


def make_onnx(case: Case) -> None:
    """This project's ONNX export."""
    from tf_segformer import export_onnx

    export_onnx(load_model(case), case.export("onnx-folder")).rename(case.export("ours.onnx"))


def make_int8(case: Case) -> None:
    """This project's OpenVINO export in int8, calibrated on smooth random colors: for times, not for accuracy."""
    import io

    from PIL import Image

    from tf_segformer import export_openvino

    processor = processor_of(replace(case, height=min(case.height, 512), width=min(case.width, 512)))  # of any size
    images = [Image.open(io.BytesIO(jpeg_bytes(640, 480, seed=seed))) for seed in range(8)]
    pixel_values = [processor(image, return_tensors="np")["pixel_values"] for image in images]
    export_openvino(load_model(case), case.export("int8"), processor, precision="int8", calibration=pixel_values)


def make_saved_model(case: Case) -> None:
    """This project's SavedModel, which takes image files and pixel values."""
    from tf_segformer import export_saved_model

    export_saved_model(load_model(case), case.export("saved-model"), processor_of(case))


def make_images(case: Case) -> None:
    """A folder of JPEG files of smooth random colors, as large as a small photograph."""
    folder = case.export("images")
    folder.mkdir()
    for index in range(IMAGES):
        (folder / f"{index:03}.jpg").write_bytes(jpeg_bytes(*_IMAGE_SIZES[index % len(_IMAGE_SIZES)], seed=index))


def jpeg_bytes(width: int, height: int, seed: int = 0) -> bytes:
    """A JPEG of smooth random colors."""
    import io

    from PIL import Image

    colors = np.random.default_rng(seed).integers(0, 256, (height // 32, width // 32, 3), dtype=np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(colors).resize((width, height), Image.Resampling.BICUBIC).save(encoded, "JPEG", quality=90)
    return encoded.getvalue()


WEIGHTS = File(lambda case: case.weights, make_weights)
ONNX = File(lambda case: case.export("ours.onnx"), make_onnx, (WEIGHTS,))
INT8 = File(lambda case: case.export("int8"), make_int8, (WEIGHTS,))
SAVED_MODEL = File(lambda case: case.export("saved-model"), make_saved_model, (WEIGHTS,))
JPEG_FOLDER = File(lambda case: case.export("images"), make_images)


def load_model(case: Case, dtype: str | None = None, **fields: Any) -> Any:
    """The segmentation model of the case's weights, with some fields of its configuration changed."""
    from tf_segformer import SegformerForSemanticSegmentation

    set_tensorflow_threads(case.threads)
    return SegformerForSemanticSegmentation.from_pretrained(case.weights, dtype=dtype, **fields)


def processor_of(case: Case) -> Any:
    """A processor that resizes to the case's size."""
    from tf_segformer import SegformerImageProcessor

    return SegformerImageProcessor(size={"height": case.height, "width": case.width})


def set_tensorflow_threads(threads: int) -> None:
    """Both thread pools of TensorFlow; it takes them only before its first operation."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)


def channels_last(case: Case, run: Callable[[np.ndarray], Any]) -> Engine:
    """The engine of a function from pixel values (B, H, W, 3) to logits (B, h, w, K)."""
    pixel_values = case.pixel_values()
    return Engine(run=lambda: run(pixel_values), output=lambda: np.asarray(run(pixel_values), np.float32))


def channels_first(case: Case, run: Callable[[np.ndarray], Any]) -> Engine:
    """The engine of a function from pixel values (B, 3, H, W) to logits (B, K, h, w)."""
    pixel_values = case.channels_first()
    return Engine(run=lambda: run(pixel_values), output=lambda: run(pixel_values).transpose(0, 2, 3, 1))


def predictor_graph(dtype: str | None = None, **fields: Any) -> Callable[[Case], Engine]:
    """What SegmentationPredictor runs: one graph for images of any size; `fields` of the configuration are changed."""

    def load(case: Case) -> Engine:
        from tf_segformer.inference.forward import forward_function

        return channels_last(case, forward_function(load_model(case, dtype, **fields)))

    return load


def fixed_size(case: Case) -> Engine:
    """The same, traced for the size of the case."""
    import tensorflow as tf

    model = load_model(case)
    signature = [tf.TensorSpec((case.batch, case.height, case.width, 3), tf.float32)]
    run = tf.function(lambda pixel_values: model(pixel_values, training=False), input_signature=signature)
    return channels_last(case, lambda pixel_values: run(pixel_values).numpy())


def eager(case: Case) -> Engine:
    """What a notebook does first: the model called as it is."""
    model = load_model(case)
    return channels_last(case, lambda pixel_values: model(pixel_values, training=False).numpy())


def saved_model(case: Case) -> Engine:
    """The exported SavedModel, which needs nothing of this project."""
    import tensorflow as tf

    set_tensorflow_threads(case.threads)
    loaded = tf.saved_model.load(str(case.export("saved-model") / "1"))
    run = loaded.signatures["tensor"]
    return channels_last(case, lambda pixel_values: run(pixel_values=tf.constant(pixel_values))["logits"].numpy())


def matmul(case: Case) -> Engine:
    """The matrix product whose speed is the machine's limit."""
    import tensorflow as tf

    set_tensorflow_threads(case.threads)
    square = tf.random.stateless_normal((_MATMUL_SIDE, _MATMUL_SIDE), (0, 0))
    run = tf.function(lambda one: tf.linalg.matmul(one, one)[:1])
    return Engine(run=lambda: run(square).numpy(), output=lambda: np.empty(0))


def matmul_flop() -> float:
    """Floating-point operations of the matrix product."""
    return 2.0 * _MATMUL_SIDE**3


def training(case: Case) -> Engine:
    """Keras' own training step with this project's loss."""
    from tf_segformer.training.losses import SegmentationLoss

    return keras_training(case, load_model(case), SegmentationLoss())


def keras_training(case: Case, model: Any, loss: Any, to_logits: Any = None) -> Engine:
    """A Keras model's training step with the paper's AdamW."""
    import keras

    model.compile(keras.optimizers.AdamW(_RATE, weight_decay=_WEIGHT_DECAY), loss=loss, jit_compile=False)
    pixel_values, labels = case.pixel_values(), case.labels()

    def step() -> float:
        return float(model.train_on_batch(pixel_values, labels))

    return Engine(run=step, output=lambda: np.asarray((to_logits or model)(pixel_values, training=False)))
