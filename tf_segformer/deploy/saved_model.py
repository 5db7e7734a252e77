"""Exports a model as a SavedModel that takes encoded images and needs nothing of this package to run."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tf_segformer.deploy.formats import MAX_SERVED_PIXELS, write_description
from tf_segformer.deploy.network import InferenceNetwork
from tf_segformer.deploy.signatures import (
    Pipeline,
    array_signature,
    classification_signatures,
    segmentation_signatures,
    tensor_signature,
)
from tf_segformer.imaging.fields import defaults_note
from tf_segformer.imaging.labels import colors_of, names_of_classes
from tf_segformer.imaging.processor import SegformerImageProcessor
from tf_segformer.io import atomic_write
from tf_segformer.modeling.models import SegformerForSemanticSegmentation
from tf_segformer.ops import tracing


def export_saved_model(
    model: Any,
    folder: str | os.PathLike,
    processor: SegformerImageProcessor | None = None,
    version: int = 1,
    *,
    weights_dtype: str = "float32",
    max_pixels: int = MAX_SERVED_PIXELS,
    top_k: int = 5,
    device: str | None = None,
) -> Path:
    """Writes a model as a TensorFlow SavedModel, in a folder as TensorFlow Serving wants it.

    Signatures of a segmentation model (B images, K classes):

    - `serving_default`: `image_bytes` (B,), JPEG or PNG files of any sizes, to `class_map_bytes` (B,), PNG files of the
      images' own sizes whose values are the classes; `class_fractions` (B, K), how much of the image each class covers;
      `status` (B,); `labels` (B, K), the class names; `colors` (B, K, 3) uint8.
    - `serving_strict`: the same, but one bad image fails the whole call with INVALID_ARGUMENT.
    - `logits`: `image_bytes` (B,) to `logits` (B, h/4, w/4, K), `sizes` (B, 2) and `status` (B,).
    - `class_map`: `images` (B, H, W, 3) uint8 to `class_map` (B, H, W) int32.
    - `tensor`: `pixel_values` (B, H, W, C) float32 to `logits` (B, ceil(H/4), ceil(W/4), K).

    Those of a classification model:

    - `serving_default`, also named `classify`: `image_bytes` (B,) to the most probable classes: `labels`, `indices`,
      `probabilities` (B, top_k) and `status` (B,); `serving_strict` likewise.
    - `logits` and `tensor`: as above, with `logits` (B, K).

    Image files carry 8-bit RGB alone. A segmentation model of other channels, or whose processor has `value_range` or
    another of the fields for bands, has `tensor` and `class_map` only, the latter as `serving_default` too: `images`
    (B, H, W, C) of the processor's `value_type` (without one, float32) are prepared as the processor does. Where the
    processor is not for the model's channels (the default one, for example), `tensor` is all, and `serving_default`.

    `status` is "OK", or "INVALID_ARGUMENT: " and the reason: an image that cannot be decoded does not affect the
    others of its batch. Resizing, normalization and class maps are computed as the processor computes them. The decode
    head is folded. Class names and colors are in `assets/labels.json`, and `assets/export.json` says for which device
    the graph was written: it runs on others, too, but attention in chunks, for example, is faster on a CPU alone.

    Args:
        model: A `SegformerForSemanticSegmentation` or `SegformerForImageClassification`.
        folder: Where to write; the model goes to `folder/VERSION`, which must not exist.
        processor: How images are prepared; None is the default processor, with a warning. Must resize, since images of
            a batch differ in size; that of bands beyond 8-bit RGB need not, see above.
        version: Number of the version, at least 1; a server takes the largest.
        weights_dtype: "float32", or "float16" or "bfloat16" for half the size; computations keep the model's type.
        max_pixels: Images of more pixels are invalid by their header, before they are decoded.
        top_k: How many classes a classification model gives.
        device: Kind of device that the graph is written for, "CPU" or "GPU"; None is a GPU where TensorFlow sees one,
            and else the CPU.

    Returns:
        The folder of the version.

    Raises:
        ValueError: A model or a processor that cannot be exported, an unknown device, or a number out of range.
        FileExistsError: The version exists.

    Example:
        >>> from tf_segformer import SegformerConfig
        >>> model = SegformerForSemanticSegmentation(SegformerConfig(num_labels=3))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     version = export_saved_model(model, folder, SegformerImageProcessor(size=256))
        ...     sorted(tf.saved_model.load(version).signatures)
        ['class_map', 'logits', 'serving_default', 'serving_strict', 'tensor']
    """
    for name, value in (("version", version), ("max_pixels", max_pixels), ("top_k", top_k)):
        if int(value) != value or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, but is {value!r}")
    target = Path(folder) / str(int(version))
    if target.exists():
        raise FileExistsError(f"{target} exists: choose another version, or remove it first")
    with tracing.trace_for(device or tracing.target_device()):
        return _write(model, target, processor, weights_dtype, int(max_pixels), int(top_k))


def _write(
    model: Any, target: Path, processor: SegformerImageProcessor | None, weights_dtype: str, max_pixels: int, top_k: int
) -> Path:
    """Traces the signatures for the device of the context and saves them."""
    network = InferenceNetwork(model, weights_dtype)
    processor = _default_processor(model) if processor is None else processor
    labels = tuple(names_of_classes(model.config.id2label).values())
    palette = colors_of(model.config, labels)
    signatures = {"tensor": tensor_signature(network, model.config.num_channels)}
    if model.config.num_channels != 3 or processor.keeps_values:
        signatures |= _signatures_of_bands(network, model, processor, signatures["tensor"])
    else:
        pipeline = Pipeline(network, _checked(processor), labels, max_pixels)
        if isinstance(model, SegformerForSemanticSegmentation):
            signatures |= segmentation_signatures(pipeline, palette)
        else:
            signatures |= classification_signatures(pipeline, top_k)
    with tempfile.TemporaryDirectory() as assets, atomic_write(target) as partial:
        network.labels = tf.saved_model.Asset(_write_labels(Path(assets), labels, palette))
        about = Path(assets, "export.json")
        about.write_text(json.dumps({"device": tracing.target_device()}) + "\n", encoding="utf-8")
        network.about = tf.saved_model.Asset(str(about))
        tf.saved_model.save(network, str(partial), signatures=signatures)
        write_description(partial, model, processor, format="saved_model", precision=weights_dtype)
    return target


def _default_processor(model: Any) -> SegformerImageProcessor:
    """ImageNet's, which is a guess wherever the graph prepares images."""
    processor = SegformerImageProcessor()
    if model.config.num_channels == 3:  # of other channels, `tensor` alone is written
        note = defaults_note(processor.target_size, "pass `processor`")
        warnings.warn(f"no processor is given: {note}", stacklevel=4)
    return processor


def _signatures_of_bands(network: Any, model: Any, processor: SegformerImageProcessor, tensor: Any) -> dict[str, Any]:
    """Those of images that no JPEG or PNG file carries: arrays of their bands, where the processor is for these."""
    channels = model.config.num_channels
    is_segmentation = isinstance(model, SegformerForSemanticSegmentation)
    if not is_segmentation or (processor.num_bands not in (None, channels) and not processor.keeps_values):
        return {"serving_default": tensor}  # only the caller knows how pixel values are made
    if processor.num_bands not in (None, channels):
        raise ValueError(
            f"the model takes images of {channels} channels, its processor is for {processor.num_bands}: "
            "`tf-segformer check DATA --statistics` computes the fields of one that fits"
        )
    class_map = array_signature(network, _checked(processor, resizes=False), channels)
    return {"class_map": class_map, "serving_default": class_map}


def _checked(processor: SegformerImageProcessor, resizes: bool = True) -> SegformerImageProcessor:
    """Rejects a processor that cannot run in the graph."""
    if resizes and not processor.do_resize:
        raise ValueError("do_resize=False: images of any sizes make one batch only with do_resize=True")
    if processor.apply_exif_orientation:
        raise ValueError("apply_exif_orientation=True cannot run in the graph: turn the images beforehand")
    return processor


def _write_labels(folder: Path, labels: tuple[str, ...], palette: np.ndarray) -> str:
    """Writes class names and colors as they go into the assets."""
    path = folder / "labels.json"
    entries = [{"name": name, "color": color} for name, color in zip(labels, palette.tolist(), strict=True)]
    path.write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return str(path)
