"""The forms that a model can have: the checkpoint itself, and every format and precision that `export` writes."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import tf_segformer
from tf_segformer.deploy.formats import PRECISIONS
from tf_segformer.imaging.processor import SegformerImageProcessor
from tf_segformer.requirements import import_extra

CHECKPOINT = "checkpoint"

_Size = tuple[int, int]
# Format -> the engine that runs it, its module, and the extra that installs it.
_ENGINES = {
    CHECKPOINT: ("", "keras", ""),
    "saved_model": ("tensorflow", "tensorflow", ""),
    "onnx": ("onnxruntime", "onnxruntime", "onnx"),
    "openvino": ("openvino", "openvino", "openvino"),
    "litert": ("litert", "ai_edge_litert", "litert"),
}


@dataclass(frozen=True)
class Form:
    """A way to store and run a model.

    Args:
        format: "checkpoint", or a format of `export`.
        precision: What it is written in.

    Example:
        >>> Form("onnx", "float32").key, Form("onnx", "float32").engine
        ('onnx:float32', 'onnxruntime')
    """

    format: str
    precision: str

    @property
    def key(self) -> str:
        """Its name on the command line."""
        return f"{self.format}:{self.precision}"

    @property
    def engine(self) -> str:
        """The engine that runs it; empty for Keras itself."""
        return _ENGINES[self.format][0]


FORMS = (
    Form(CHECKPOINT, "float32"),
    *(Form(name, precision) for name, precisions in PRECISIONS.items() if name in _ENGINES for precision in precisions),
)
"""All forms; the first is what the others are compared with."""


def forms_named(names: Iterable[str]) -> list[Form]:
    """The forms of some formats, or single forms by their keys; the checkpoint is always the first.

    Args:
        names: Such as "onnx" or "litert:int8".

    Returns:
        The forms, in the order of `FORMS`.

    Raises:
        ValueError: A name that no form has.

    Example:
        >>> [form.key for form in forms_named(["onnx:float32"])]
        ['checkpoint:float32', 'onnx:float32']
    """
    names = set(names)
    if unknown := names - {form.format for form in FORMS} - {form.key for form in FORMS}:
        known = ", ".join(dict.fromkeys(form.format for form in FORMS))
        raise ValueError(f"unknown forms: {', '.join(sorted(unknown))}; choose from {known}, or FORMAT:PRECISION")
    return [form for form in FORMS if form == FORMS[0] or names & {form.format, form.key}]


def write_form(
    form: Form,
    model: Any,
    folder: Path,
    processor: SegformerImageProcessor,
    size: _Size,
    calibration: Iterable[np.ndarray],
) -> int:
    """Writes a model in a form.

    Args:
        form: The form.
        model: A `SegformerForSemanticSegmentation`.
        folder: Where to write.
        processor: How images become pixel values, at `size`.
        size: (height, width) for formats whose input has one.
        calibration: Pixel values (1, H, W, C) from which int8 takes its ranges.

    Returns:
        Bytes on disk.

    Raises:
        ImportError: What writes or runs it is not installed; the message says how it is.
        ValueError: The model has no such form.
    """
    processor = replace(processor, size=size)
    if form.format == CHECKPOINT:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        return bytes_of(folder)
    engine, module, extra = _ENGINES[form.format]
    import_extra(module, extra, f"{engine}")
    write = getattr(tf_segformer, f"export_{form.format}")
    taken = inspect.signature(write).parameters
    options: dict[str, Any] = {"weights_dtype" if "weights_dtype" in taken else "precision": form.precision}
    if form.format == "litert":
        options["size"] = size
    if form.precision == "int8":
        options["calibration"] = calibration
    write(model, folder, processor, **{name: value for name, value in options.items() if name in taken})
    return bytes_of(folder)


def bytes_of(folder: Path) -> int:
    """The size of all files in a folder."""
    return sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())
