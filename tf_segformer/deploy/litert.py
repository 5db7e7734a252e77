"""Exports a model to LiteRT and ONNX: pixel values in, logits out, with the class names beside it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tf_segformer.deploy.network import InferenceNetwork, check_task
from tf_segformer.imaging.processor import SegformerImageProcessor
from tf_segformer.io import atomic_write
from tf_segformer.ops.portability import export_mode

LABELS_NAME = "labels.txt"
PRECISIONS = ("float32", "float16", "dynamic-int8", "int8")
ONNX_OPSETS = (17, 18)
DATA_FORMATS = ("channels_last", "channels_first")


def export_litert(
    model: Any,
    folder: str | os.PathLike,
    processor: SegformerImageProcessor | None = None,
    *,
    precision: str = "float32",
    size: tuple[int, int] | None = (512, 512),
    calibration: Iterable[np.ndarray] | None = None,
) -> Path:
    """Writes `model.tflite` and `labels.txt`; the class of line i (from 0) is that of logit i.

    Args:
        model: A `SegformerForSemanticSegmentation` or `SegformerForImageClassification`.
        folder: Where to write; made where it is missing, files of the same names are replaced.
        processor: Where given, its preprocessor_config.json is written too: it says how images become pixel values.
        precision: "float32"; "float16" stores the weights in half precision; "dynamic-int8" stores the weights of
            matrix products and convolutions in 8 bits and quantizes activations as it runs; "int8" computes in 8 bits
            throughout, with ranges measured on `calibration`. Input and output are float32 in all of them.
        size: (height, width) of the input, whose batch is then 1; None for any size and batch, which "int8" excludes.
        calibration: Pixel values (1, height, width, C) of typical images, about a hundred; for "int8" only.

    Returns:
        Path of the model.

    Raises:
        ValueError: A model that cannot be exported, an unknown precision, or "int8" without size or calibration.

    Example:
        >>> import tempfile
        >>> from tf_segformer import SegformerConfig, SegformerForSemanticSegmentation
        >>> model = SegformerForSemanticSegmentation(SegformerConfig(num_labels=3))
        >>> with tempfile.TemporaryDirectory() as place:
        ...     export_litert(model, place, size=(64, 64)).name
        'model.tflite'
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r}: choose one of {', '.join(PRECISIONS)}")
    if precision == "int8" and (size is None or calibration is None):
        raise ValueError('precision="int8" needs a fixed size and calibration images')
    images = () if calibration is None else calibration
    module = InferenceNetwork(model)
    shape = [None, None, None] if size is None else [1, *size]
    with export_mode():
        function = _named_function(module, [*shape, model.config.num_channels]).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if precision == "int8":
        converter.representative_dataset = lambda: ([np.asarray(each, np.float32)] for each in images)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    content = converter.convert()
    return _write(Path(folder), "model.tflite", content, model, processor)


def export_onnx(
    model: Any,
    folder: str | os.PathLike,
    processor: SegformerImageProcessor | None = None,
    *,
    opset: int = ONNX_OPSETS[-1],
    data_format: str = "channels_last",
) -> Path:
    """Writes `model.onnx`, from `pixel_values` of any size to `logits`, and `labels.txt`.

    Needs the extra "onnx". Runs on every backend of Keras. Both layouts take the same time.

    Args:
        model: A `SegformerForSemanticSegmentation` or `SegformerForImageClassification`.
        folder: Where to write; made where it is missing, files of the same names are replaced.
        processor: Where given, its preprocessor_config.json is written too: it says how images become pixel values.
        opset: Version of the operators, 17 or 18.
        data_format: "channels_last": pixel values (B, H, W, C) and logits (B, h, w, K), as everywhere in this project;
            "channels_first": (B, C, H, W) and (B, K, h, w), as Hugging Face's export has them, for which such a file
            can stand in.

    Returns:
        Path of the model.

    Raises:
        ValueError: A model that cannot be exported, another version of the operators, or another layout.
        ImportError: onnx is not installed.

    Example:
        >>> import tempfile
        >>> from tf_segformer import SegformerConfig, SegformerForSemanticSegmentation
        >>> model = SegformerForSemanticSegmentation(SegformerConfig(num_labels=3))
        >>> with tempfile.TemporaryDirectory() as place:
        ...     export_onnx(model, place).name
        'model.onnx'
    """
    for name, value, choices in (("opset", opset, ONNX_OPSETS), ("data_format", data_format, DATA_FORMATS)):
        if value not in choices:
            raise ValueError(f"{name}={value!r}: choose one of {', '.join(map(str, choices))}")
    check_task(model)
    try:
        from tf_segformer.deploy.onnx.model import draw_onnx
    except ImportError as error:
        raise ImportError("export to ONNX needs onnx: pip install tf_segformer[onnx]") from error
    content = draw_onnx(model, opset, data_format).SerializeToString()
    return _write(Path(folder), "model.onnx", content, model, processor)


def _named_function(module: InferenceNetwork, shape: Any) -> Any:
    """The network with its input and output named, for one shape, not traced yet."""
    return tf.function(
        lambda pixel_values: {"logits": module.draw(pixel_values)},
        input_signature=[tf.TensorSpec(shape, tf.float32, name="pixel_values")],
    )


def _write(folder: Path, name: str, content: bytes, model: Any, processor: SegformerImageProcessor | None) -> Path:
    """Writes the model and what belongs to it."""
    labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
    for file_name, data in ((name, content), (LABELS_NAME, ("\n".join(labels) + "\n").encode())):
        with atomic_write(folder / file_name) as partial:
            partial.write_bytes(data)
    if processor is not None:
        processor.save_pretrained(folder)
    return folder / name
