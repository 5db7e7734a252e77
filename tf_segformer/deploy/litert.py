"""Exports a model to LiteRT: pixel values in, logits out, with the class names next to it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tf_segformer.deploy.formats import PRECISIONS, write_model_file
from tf_segformer.deploy.network import InferenceNetwork
from tf_segformer.imaging.processor import SegformerImageProcessor
from tf_segformer.ops.tracing import export_mode

# Of layer norm, attention, GELU and the decode head's sum; those between them too, or each would be two conversions.
_FLOAT_OPERATORS = (
    "SQUARED_DIFFERENCE", "RSQRT", "MEAN", "SUB", "MUL", "BATCH_MATMUL", "SOFTMAX", "GELU", "ADD", "ADD_N", "RELU",
    "RESIZE_BILINEAR",
)  # fmt: skip


def export_litert(
    model: Any,
    folder: str | os.PathLike,
    processor: SegformerImageProcessor | None = None,
    *,
    precision: str = "float32",
    size: tuple[int, int] | None = (512, 512),
    calibration: Iterable[np.ndarray] | None = None,
    integer_io: bool = False,
) -> Path:
    """Writes `model.tflite` and `labels.txt`; the class of line i (from 0) is that of logit i.

    A single logit is that of line 1, where it is above 0, against the background of line 0.

    Args:
        model: A `SegformerForSemanticSegmentation` or `SegformerForImageClassification`.
        folder: Where to write; made where it is missing, files of the same names are replaced.
        processor: Where given, its preprocessor_config.json is written too: it says how images become pixel values.
        precision: "float32"; "float16" stores the weights in half precision; "dynamic-int8" stores the weights of
            matrix products and convolutions in 8 bits and quantizes activations as it runs; "int8" computes
            convolutions and dense layers in 8 bits, with ranges measured on `calibration`, and the rest in float32:
            XNNPACK, which runs LiteRT's networks on CPUs, has no 8-bit kernels for it.
        size: (height, width) of the input, whose batch is then 1; None for any size and batch, which "int8" excludes.
        calibration: Pixel values (1, height, width, C) of typical images, about a hundred; for "int8" only.
        integer_io: "int8": everything is computed in 8 bits, and input and output are int8, too, as Edge TPU and NPUs
            want it; on a CPU that is slower than float32. Scale and zero point are in the file.

    Returns:
        Path of the model.

    Raises:
        ValueError: A model that cannot be exported, an unknown precision, "int8" without size or calibration, or
            `integer_io` without "int8".

    Example:
        >>> import tempfile
        >>> from tf_segformer import SegformerConfig, SegformerForSemanticSegmentation
        >>> model = SegformerForSemanticSegmentation(SegformerConfig(num_labels=3))
        >>> with tempfile.TemporaryDirectory() as place:
        ...     export_litert(model, place, size=(64, 64)).name
        'model.tflite'
    """
    if precision not in PRECISIONS["litert"]:
        raise ValueError(f"precision={precision!r}: choose one of {', '.join(PRECISIONS['litert'])}")
    if precision == "int8" and (size is None or calibration is None):
        raise ValueError('precision="int8" needs a fixed size and calibration images')
    if integer_io and precision != "int8":
        raise ValueError(f'integer_io=True is for precision="int8", not {precision!r}')
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
    if integer_io:
        converter.inference_input_type = converter.inference_output_type = tf.int8
    content = _convert_mixed(converter) if precision == "int8" and not integer_io else converter.convert()
    facts = {"format": "litert", "precision": precision, "size": size, "integer_io": integer_io}
    return write_model_file(Path(folder), "model.tflite", content, model, processor, **facts)


def _convert_mixed(converter: Any) -> bytes:
    """Quantizes all but the operators for which XNNPACK has no 8-bit kernels: each would end one of its partitions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the debugger starts TensorFlow's own interpreter, which has a successor
        debugger = tf.lite.experimental.QuantizationDebugger(
            converter=converter,
            debug_dataset=lambda: iter(()),
            debug_options=tf.lite.experimental.QuantizationDebugOptions(denylisted_ops=list(_FLOAT_OPERATORS)),
        )
        return debugger.get_nondebug_quantized_model()


def _named_function(module: InferenceNetwork, shape: Any) -> Any:
    """The network with its input and output named, for one shape; not traced yet."""
    return tf.function(
        lambda pixel_values: {"logits": module.trace(pixel_values)},
        input_signature=[tf.TensorSpec(shape, tf.float32, name="pixel_values")],
    )
