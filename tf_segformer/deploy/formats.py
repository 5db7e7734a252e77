"""What each export format takes and writes: asked for by the command line before TensorFlow is loaded."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import tf_segformer
from tf_segformer.imaging.labels import colors_of, names_of_classes
from tf_segformer.inference.sessions import EXPORT_NAME
from tf_segformer.io import atomic_write, write_json

if TYPE_CHECKING:
    from pathlib import Path

    from tf_segformer.imaging.processor import SegformerImageProcessor

PRECISIONS = {
    "saved_model": ("float32", "float16", "bfloat16"),
    "litert": ("float32", "float16", "dynamic-int8", "int8"),
    "onnx": ("float32", "float16", "int8"),
    "openvino": ("float32", "float16", "bfloat16", "int8"),
    "web": ("float32",),
}
"""Formats of an exported model, each with the precisions that it can be written in."""

DATA_FORMATS = ("channels_last", "channels_first")
"""Layouts of pixel values and logits in an ONNX file."""

ONNX_OPSETS = tuple(range(13, 19))
"""Versions of ONNX' operators."""

MAX_SERVED_PIXELS = 50_000_000
"""Largest height times width that a SavedModel decodes by default."""

LABELS_NAME = "labels.txt"


def write_model_file(
    folder: Path, name: str, content: bytes, model: Any, processor: SegformerImageProcessor | None, **facts: Any
) -> Path:
    """Writes a model of one file, its class names and what `write_description` writes.

    Args:
        folder: Where to write; made where it is missing, files of the same names are replaced.
        name: Name of the file.
        content: Its bytes.
        model: The model that it was made of.
        processor: How images become its pixel values.
        **facts: As for `write_description`.

    Returns:
        Path of the file.
    """
    labels = names_of_classes(model.config.id2label).values()
    for file_name, data in ((name, content), (LABELS_NAME, ("\n".join(labels) + "\n").encode())):
        with atomic_write(folder / file_name) as partial:
            partial.write_bytes(data)
    write_description(folder, model, processor, bytes=len(content), **facts)
    return folder / name


def write_description(folder: Path, model: Any, processor: SegformerImageProcessor | None, **facts: Any) -> None:
    """Writes what a predictor needs to know of an exported model besides the model.

    Args:
        folder: Where the model is.
        model: The model that was exported: config.json has its architecture, class names and colors.
        processor: Where given, preprocessor_config.json says how images become pixel values; of a model of one size, to
            which size.
        **facts: What export.json says: the format, the precision, the size, what was measured.
    """
    config = model.config
    task = "SemanticSegmentation" if hasattr(model, "decode_head") else "ImageClassification"
    colors = colors_of(config, tuple(names_of_classes(config.id2label).values())).tolist()
    extra = {**config.extra, "architectures": [f"SegformerFor{task}"], "palette": colors}
    config.replace(extra=extra).save_pretrained(folder)
    if processor is not None:
        size = facts.get("size")
        (processor if size is None else replace(processor, size=size)).save_pretrained(folder)
    write_json(folder / EXPORT_NAME, {"tf_segformer": tf_segformer.__version__, **facts})
