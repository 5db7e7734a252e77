"""Exports a model as a page: a folder of static files that segments images in the browser, and nowhere else."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tf_segformer.deploy.formats import write_description
from tf_segformer.deploy.onnx.export import export_onnx
from tf_segformer.deploy.web.runtime import PACKAGE, VERSION, load_runtime
from tf_segformer.imaging.fields import BAND_FIELDS
from tf_segformer.imaging.labels import colors_of, names_of_classes
from tf_segformer.imaging.processor import SegformerImageProcessor
from tf_segformer.io import atomic_write, write_json
from tf_segformer.modeling.models import SegformerForSemanticSegmentation

_PAGE = Path(__file__).parent / "page"
_CHANNELS = 3  # of the images that a browser opens


def export_web(
    model: Any,
    folder: str | os.PathLike,
    processor: SegformerImageProcessor,
    *,
    runtime: str | os.PathLike | None = None,
) -> Path:
    """Writes a page that segments images from a file or the camera, with the model and everything else that it needs.

    Any web server can serve the folder, `python -m http.server` among them. The page loads nothing from elsewhere, and
    images do not leave the browser. It computes what `SegmentationPredictor(model, processor)` does, with the processor
    of the folder: that one turns images as their EXIF tag says, since phones store photos lying on their side.

    The folder is also one of transformers.js, whose pipeline "image-segmentation" runs it (with `dtype: "fp32"`).

    Needs the extra "onnx".

    Args:
        model: A `SegformerForSemanticSegmentation` of three channels.
        folder: Where to write; made where it is missing, files of the same names are replaced.
        processor: How images become pixel values.
        runtime: A local copy of the engine, onnxruntime-web, as for `load_runtime`; None downloads it once.

    Returns:
        Path of index.html.

    Raises:
        ValueError: Another kind of model, or a processor of other images than 8-bit RGB.
        SegformerError: The engine cannot be loaded, or is not the version that the page is made for.
        ImportError: onnx is not installed.

    Example:
        >>> from tf_segformer import SegformerConfig, SegformerForSemanticSegmentation
        >>> model = SegformerForSemanticSegmentation(SegformerConfig(num_labels=3))
        >>> export_web(model, "page", SegformerImageProcessor(), runtime="onnxruntime-web-1.30.0.tgz")
        Traceback (most recent call last):
        tf_segformer.errors.SegformerError: onnxruntime-web-1.30.0.tgz: there is no such file or folder
    """
    if not isinstance(model, SegformerForSemanticSegmentation):
        raise ValueError(f"{type(model).__name__}: a page needs a SegformerForSemanticSegmentation")
    if model.config.num_channels != _CHANNELS:
        raise ValueError(f"the model takes {model.config.num_channels} channels: images in a browser have {_CHANNELS}")
    if processor.keeps_values:
        raise ValueError(f"a page takes 8-bit RGB images: {', '.join(BAND_FIELDS)} of the processor must be None")
    processor.rescale_and_normalize(np.zeros((1, 1, _CHANNELS), np.uint8))  # rejects means of other channels
    engine = load_runtime(runtime)
    folder = Path(folder)
    processor = replace(processor, apply_exif_orientation=True)
    export_onnx(model, folder / "onnx", processor, data_format="channels_first")  # transformers.js looks for it there
    write_description(folder, model, processor, format="web", engine=f"{PACKAGE} {VERSION}")
    write_json(folder / "classes.json", describe_classes(model.config), indent=None)
    page = {path.relative_to(_PAGE): path.read_bytes() for path in _PAGE.rglob("*") if path.is_file()}
    # Servers know the type of .js; that of .mjs not all of them do.
    scripts = {Path("runtime", name.replace(".mjs", ".js")): content for name, content in engine.items()}
    for name, content in {**page, **scripts}.items():
        with atomic_write(folder / name) as partial:
            partial.write_bytes(content)
    return folder / "index.html"


def describe_classes(config: Any) -> list[dict[str, Any]]:
    """What the page shows of the classes.

    Args:
        config: Configuration of the model.

    Returns:
        Name and color (red, green, blue) of each class, in the order of class maps.

    Example:
        >>> from tf_segformer import SegformerConfig
        >>> describe_classes(SegformerConfig(id2label={0: "Sky", 1: "Road"}))[1]["name"]
        'Road'
    """
    names = list(names_of_classes(config.id2label).values())
    colors = colors_of(config, names).tolist()
    return [{"name": name, "color": color} for name, color in zip(names, colors, strict=True)]
