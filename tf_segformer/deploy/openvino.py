"""Exports a model to OpenVINO: pixel values of any size in, logits out, with what a predictor needs to know of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tf_segformer.deploy.formats import ONNX_OPSETS, PRECISIONS, write_description
from tf_segformer.deploy.network import check_task
from tf_segformer.deploy.onnx.export import check_calibration
from tf_segformer.imaging.processor import SegformerImageProcessor
from tf_segformer.io import atomic_update
from tf_segformer.requirements import import_extra


def export_openvino(
    model: Any,
    folder: str | os.PathLike,
    processor: SegformerImageProcessor | None = None,
    *,
    precision: str = "float32",
    size: tuple[int, int] | None = None,
    calibration: Iterable[np.ndarray] | None = None,
    data: Any = None,
) -> Path:
    """Writes `model.xml` and `model.bin`, from `pixel_values` (B, H, W, C) to `logits` (B, h, w, K).

    Needs the extra "openvino". It is made from the network that `export_onnx` writes, whose layout OpenVINO runs fast.

    Args:
        model: A `SegformerForSemanticSegmentation` or `SegformerForImageClassification`.
        folder: Where to write; made where it is missing, files of the same names are replaced.
        processor: Where given, its preprocessor_config.json is written too: it says how images become pixel values.
        precision: "float32"; "float16" and "bfloat16" store the weights in float16, half the size, and `open_engine`
            has them computed in that type where the CPU can, else in float32; "int8" has 8-bit weights and
            activations, the rest in float32, or in bfloat16 where `open_engine` is asked for it.
        size: (height, width) of the input, whose batch is then 1, for devices that need it; None for any.
        calibration: Pixel values (1, H, W, C) of typical images, about a hundred; for "int8" only.
        data: For "int8": a labelled dataset (`tf_segformer.data.find_dataset`). Layers stay in float32 until the
            network loses at most 0.1 points of mIoU on it; needs `processor`.

    Returns:
        Path of model.xml.

    Raises:
        ValueError: A model that cannot be exported, or options that are unknown or do not go together.
        ImportError: OpenVINO is not installed, or NNCF for int8.

    Example:
        >>> import tempfile
        >>> from tf_segformer import SegformerConfig, SegformerForSemanticSegmentation
        >>> model = SegformerForSemanticSegmentation(SegformerConfig(num_labels=3))
        >>> with tempfile.TemporaryDirectory() as place:
        ...     export_openvino(model, place).name
        'model.xml'
    """
    if precision not in PRECISIONS["openvino"]:
        raise ValueError(f"precision={precision!r}: choose one of {', '.join(PRECISIONS['openvino'])}")
    check_calibration(precision, calibration, data, processor)
    check_task(model)
    openvino = import_extra("openvino", "openvino", "export to OpenVINO")
    import_extra("onnx", "openvino", "export to OpenVINO")
    from tf_segformer.deploy.onnx.network import build_onnx

    network = openvino.Core().read_model(build_onnx(model, ONNX_OPSETS[-1], size=size).SerializeToString())
    if calibration is not None:
        from tf_segformer.deploy.quantization import labelled_examples, quantize_network

        def prepare(given: Any) -> Callable[[np.ndarray], np.ndarray]:
            compiled = openvino.compile_model(given, "CPU") if isinstance(given, openvino.Model) else given
            return lambda x: compiled(x)[0]

        network = quantize_network(network, calibration, prepare, labelled_examples(data, processor, size))
    with atomic_update(folder) as partial:
        openvino.save_model(network, partial / "model.xml", compress_to_fp16=precision in ("float16", "bfloat16"))
        stored = sum(each.stat().st_size for each in partial.iterdir())
        facts = {"format": "openvino", "precision": precision, "size": size, "bytes": stored}
        write_description(partial, model, processor, **facts)
    return Path(folder) / "model.xml"
