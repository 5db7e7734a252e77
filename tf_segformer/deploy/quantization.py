"""Quantizes an ONNX or OpenVINO network to 8 bits with NNCF, and measures what an exported model has lost."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tf_segformer.evaluation.confusion import confusion_matrix, metrics_from_confusion
from tf_segformer.evaluation.evaluate import LabelledExamples, evaluate
from tf_segformer.imaging.postprocess import class_map_from_logits, with_background
from tf_segformer.imaging.processor import SegformerImageProcessor
from tf_segformer.inference.engines import AUTO, Engine, open_engine
from tf_segformer.inference.predictor import SegmentationPredictor
from tf_segformer.inference.sessions import EXPORT_NAME
from tf_segformer.io import read_json, write_json
from tf_segformer.requirements import import_extra

MAX_DROP = 0.001
"""The mIoU that accuracy-aware quantization may cost; layers that cost more stay in float."""

_ENGINE_OF_SUFFIX = {".onnx": "onnxruntime"}  # where several read a file, the one that its layers were chosen in
_Example = tuple[np.ndarray, np.ndarray]  # pixel values (1, H, W, C) and labels (H, W)


def quantize_network(
    network: Any,
    calibration: Iterable[np.ndarray],
    prepare: Callable[[Any], Callable[[np.ndarray], np.ndarray]],
    examples: Iterable[_Example] = (),
    by_channel: bool = True,
) -> Any:
    """Puts 8-bit weights and activations into a network: per channel, with ranges from images, biases corrected.

    Args:
        network: `openvino.Model` or `onnx.ModelProto` with the one input "pixel_values".
        calibration: Pixel values (1, H, W, C) float32 of typical images, about a hundred.
        prepare: From the network, as it is here or as NNCF gives it for inference (in OpenVINO it is compiled then), to
            a function from pixel values to logits.
        examples: Pixel values and label maps. Where there are any, layers stay in float until the network loses at
            most `MAX_DROP` of mIoU on them.
        by_channel: Whether the input of a depthwise convolution may have a scale for each channel, as weights have.

    Returns:
        The quantized network.

    Raises:
        ValueError: There are no calibration images.
        ImportError: NNCF is not installed.
    """
    images, examples = [np.asarray(each, np.float32) for each in calibration], list(examples)
    if not images:
        raise ValueError("int8 needs calibration images, of which there are none")
    os.environ.setdefault("NNCF_CI", "1")  # or it reports each call to its makers
    nncf = import_extra("nncf", "openvino", "int8")
    nncf.set_log_level(logging.ERROR)
    from nncf.quantization.advanced_parameters import QuantizationParameters

    def as_input(pixel_values: np.ndarray) -> dict[str, np.ndarray]:
        return {"pixel_values": pixel_values}

    options = {"subset_size": len(images), "model_type": nncf.ModelType.TRANSFORMER}
    by_tensor = None if by_channel else QuantizationParameters(per_channel=False)
    advanced = nncf.AdvancedQuantizationParameters(activations_quantization_params=by_tensor)
    dataset = nncf.Dataset(images, as_input)
    with _progress_on_terminals():
        quantized = nncf.quantize(network, dataset, advanced_parameters=advanced, **options)
        if not examples:
            return quantized
        before, after = (_mean_iou(prepare(each), examples)[0] for each in (network, quantized))
        if before - after <= MAX_DROP:
            return quantized
        # NNCF (3.4) puts a layer's weights back as they were before they were smoothed, but leaves its input scaled
        advanced.smooth_quant_alphas = nncf.AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)
        return nncf.quantize_with_accuracy_control(
            network,
            dataset,
            nncf.Dataset(examples, lambda example: as_input(example[0])),
            lambda given, data: _mean_iou(prepare(given), data),
            max_drop=MAX_DROP,
            advanced_quantization_parameters=advanced,
            **options,
        )


def labelled_examples(
    data: LabelledExamples | None, processor: SegformerImageProcessor | None, size: tuple[int, int] | None
) -> Iterator[_Example]:
    """Pixel values and labels of a dataset, as `quantize_network` takes them.

    Args:
        data: From `tf_segformer.data.find_dataset`, or None.
        processor: Prepares the images.
        size: (height, width) to which images are resized; None is the processor's.

    Yields:
        Pixel values (1, H, W, C) and labels (H, W); nothing without a dataset.
    """
    if data is not None and processor is not None:
        overrides: dict[str, Any] = {} if size is None else {"size": size}
        for example in data:
            yield processor(example.read_image(), **overrides)["pixel_values"], example.read_labels()


def measure_export(
    exported: Path,
    model: Any,
    calibration: Iterable[np.ndarray] = (),
    data: LabelledExamples | None = None,
    processor: SegformerImageProcessor | None = None,
) -> dict[str, Any]:
    """Compares an exported model with the one it was made of, and adds what was found to its export.json.

    ONNX files are run in onnxruntime, also where OpenVINO is installed, which reads them, too.

    Args:
        exported: What an export function returned.
        model: The Keras model.
        calibration: Pixel values (1, H, W, C) of some images.
        data: A labelled dataset, for the mIoU of both.
        processor: Prepares the dataset's images; by default that of the exported folder.

    Returns:
        "images" and "agreement", the fraction of logits with the same largest class, where there are images; "mIoU" and
        "mIoU_before" where there is a dataset; "engine".
    """
    engine = open_engine(exported, _ENGINE_OF_SUFFIX.get(exported.suffix, AUTO))
    before = open_engine(model)
    measured: dict[str, Any] = {"engine": engine.name}
    equal = [float(np.mean(_classes(engine, x) == _classes(before, x))) for x in calibration]
    if equal:
        measured |= {"images": len(equal), "agreement": round(float(np.mean(equal)), 6)}
    if data is not None:
        predictors = {
            name: SegmentationPredictor(each, processor or SegmentationPredictor(engine).processor)
            for name, each in (("mIoU", engine), ("mIoU_before", before))
        }
        measured |= {name: round(float(evaluate(each, data)["mIoU"]), 6) for name, each in predictors.items()}
    assert engine.path is not None
    described = engine.path.with_name(EXPORT_NAME)
    write_json(described, {**read_json(described), "measured": measured})
    return measured


def _classes(engine: Engine, pixel_values: np.ndarray) -> np.ndarray:
    return with_background(engine(pixel_values)).argmax(axis=-1)


def _mean_iou(run: Callable[[np.ndarray], np.ndarray], examples: Iterable[_Example]) -> tuple[float, list[float]]:
    """mIoU over all examples, and the accuracy of each, by which NNCF ranks layers."""
    total: Any = 0
    accuracies = []
    for pixel_values, labels in examples:
        logits = run(pixel_values)[0]
        classes = max(logits.shape[-1], 2)
        class_map = class_map_from_logits(logits, (labels.shape[0], labels.shape[1]))
        confusion = confusion_matrix(labels, class_map, classes)
        total = total + confusion
        accuracies.append(float(np.trace(confusion) / max(confusion.sum(), 1)))
    return float(metrics_from_confusion(total)["mIoU"]), accuracies


@contextlib.contextmanager
def _progress_on_terminals() -> Iterator[None]:
    """NNCF's progress bars go to stderr where somebody sees them, and nowhere else."""
    with contextlib.ExitStack() as stack:
        output = sys.stderr if sys.stderr.isatty() else stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        stack.enter_context(contextlib.redirect_stdout(output))
        yield
