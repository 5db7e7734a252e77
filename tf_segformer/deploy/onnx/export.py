"""Exports a model to ONNX: pixel values of any size in, logits out, with the class names next to it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tf_segformer.deploy.formats import DATA_FORMATS, ONNX_OPSETS, write_model_file
from tf_segformer.deploy.network import check_task
from tf_segformer.imaging.processor import SegformerImageProcessor


def export_onnx(
    model: Any,
    folder: str | os.PathLike,
    processor: SegformerImageProcessor | None = None,
    *,
    opset: int = ONNX_OPSETS[-1],
    data_format: str = "channels_last",
) -> Path:
    """Writes `model.onnx`, from `pixel_values` of any size to `logits`, and what a predictor needs to know of it.

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
        from tf_segformer.deploy.onnx.network import build_onnx
    except ImportError as error:
        raise ImportError("export to ONNX needs onnx: pip install tf_segformer[onnx]") from error
    content = build_onnx(model, opset, data_format).SerializeToString()
    facts = {"format": "onnx", "precision": "float32", "data_format": data_format, "opset": opset}
    return write_model_file(Path(folder), "model.onnx", content, model, processor, **facts)
