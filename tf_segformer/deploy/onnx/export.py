"""Exports a model to ONNX: pixel values in, logits out, with what a predictor needs to know of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tf_segformer.deploy.formats import DATA_FORMATS, ONNX_OPSETS, PRECISIONS, write_model_file
from tf_segformer.deploy.network import check_task
from tf_segformer.imaging.processor import SegformerImageProcessor
from tf_segformer.requirements import import_extra

_TO_CHANNELS_FIRST, _TO_CHANNELS_LAST = (0, 3, 1, 2), (0, 2, 3, 1)


def export_onnx(
    model: Any,
    folder: str | os.PathLike,
    processor: SegformerImageProcessor | None = None,
    *,
    opset: int = ONNX_OPSETS[-1],
    data_format: str = "channels_last",
    precision: str = "float32",
    size: tuple[int, int] | None = None,
    calibration: Iterable[np.ndarray] | None = None,
    data: Any = None,
) -> Path:
    """Writes `model.onnx`, from `pixel_values` to `logits`, and what a predictor needs to know of it.

    Needs the extra "onnx", and for int8 "openvino", which NNCF belongs to. Runs on every backend of Keras. Both layouts
    take the same time.

    Args:
        model: A `SegformerForSemanticSegmentation` or `SegformerForImageClassification`.
        folder: Where to write; made where it is missing, files of the same names are replaced.
        processor: Where given, its preprocessor_config.json is written too: it says how images become pixel values.
        opset: Version of the operators, 13 to 18. Below 17 layer norms are spelled out, for TensorRT before 8.6.
        data_format: "channels_last": pixel values (B, H, W, C) and logits (B, h, w, K), as everywhere in this project;
            "channels_first": (B, C, H, W) and (B, K, h, w), as Hugging Face's export has them, for which such a file
            can stand in.
        precision: "float32"; "float16" stores and computes in half precision but for the sums of layer norms; "int8"
            has 8-bit weights and activations between pairs of QuantizeLinear and DequantizeLinear. Input and output are
            float32 in all of them.
        size: (height, width) of the one image that the file takes, with which every shape in it is a constant (NPUs);
            None leaves batch, height and width open.
        calibration: Pixel values (1, H, W, C) of typical images, about a hundred; for "int8" only.
        data: For "int8": a labelled dataset (`tf_segformer.data.find_dataset`). Layers stay in float32 until the
            network loses at most 0.1 points of mIoU on it; needs `processor`.

    Returns:
        Path of the model.

    Raises:
        ValueError: A model that cannot be exported, or options that are unknown or do not go together.
        ImportError: onnx is not installed, or NNCF for int8.

    Example:
        >>> import tempfile
        >>> from tf_segformer import SegformerConfig, SegformerForSemanticSegmentation
        >>> model = SegformerForSemanticSegmentation(SegformerConfig(num_labels=3))
        >>> with tempfile.TemporaryDirectory() as place:
        ...     export_onnx(model, place).name
        'model.onnx'
    """
    choices = (
        ("opset", opset, ONNX_OPSETS),
        ("data_format", data_format, DATA_FORMATS),
        ("precision", precision, PRECISIONS["onnx"]),
    )
    for name, value, allowed in choices:
        if value not in allowed:
            raise ValueError(f"{name}={value!r}: choose one of {', '.join(map(str, allowed))}")
    check_calibration(precision, calibration, data, processor)
    check_task(model)
    import_extra("onnx", "onnx", "export to ONNX")
    from tf_segformer.deploy.onnx.network import build_onnx

    network = build_onnx(model, opset, data_format, precision, size)
    if calibration is not None:
        network = _quantized(network, calibration, data, processor, size, data_format == "channels_first")
    facts = {"format": "onnx", "precision": precision, "size": size, "data_format": data_format, "opset": opset}
    return write_model_file(Path(folder), "model.onnx", network.SerializeToString(), model, processor, **facts)


def check_calibration(precision: str, calibration: Any, data: Any, processor: Any) -> None:
    """Rejects options that do not go together.

    Args:
        precision: The precision of an export.
        calibration: Its calibration images or None.
        data: Its labelled dataset or None.
        processor: The processor or None.

    Raises:
        ValueError: int8 without images, images or a dataset without int8, or a dataset without a processor.
    """
    if (precision == "int8") != (calibration is not None):
        raise ValueError('precision="int8" and calibration images go together')
    if data is not None and (precision != "int8" or processor is None):
        raise ValueError('data is for precision="int8", and needs the processor')


def _quantized(
    network: Any, calibration: Iterable[np.ndarray], data: Any, processor: Any, size: Any, channels_first: bool
) -> Any:
    """The network in 8 bits."""
    from tf_segformer.deploy.onnx.eight_bits import convolution_ranges, in_eight_bits
    from tf_segformer.deploy.quantization import labelled_examples, quantize_network

    def given(x: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(x.transpose(_TO_CHANNELS_FIRST)) if channels_first else x

    def prepare(prepared: Any) -> Callable[[np.ndarray], np.ndarray]:
        onnxruntime = import_extra("onnxruntime", "onnx", "int8")
        content = in_eight_bits(prepared, ranges).SerializeToString()
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

        def run(x: np.ndarray) -> np.ndarray:
            logits = session.run(["logits"], {"pixel_values": x})[0]
            return logits.transpose(_TO_CHANNELS_LAST) if channels_first else logits

        return run

    images = [given(np.asarray(each, np.float32)) for each in calibration]
    ranges = convolution_ranges(network, images)
    examples = ((given(x), labels) for x, labels in labelled_examples(data, processor, size))
    return in_eight_bits(quantize_network(network, images, prepare, examples, by_channel=False), ranges)
