"""The folder of a page runs in transformers.js' image-segmentation pipeline as it is.

Needs Node.js and `npm install --ignore-scripts --prefix FOLDER @huggingface/transformers@4.3.2`, with FOLDER in the
environment variable TRANSFORMERS_JS.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tf_segformer import SegformerImageProcessor, SegmentationPredictor, load_model
from tf_segformer.deploy.web import export

pytest.importorskip("onnx", reason='needs the extra "onnx"')
PACKAGES = os.environ.get("TRANSFORMERS_JS")
PHOTO = Path(__file__).parents[3] / "examples" / "china.jpg"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PACKAGES or not shutil.which("node"), reason="needs Node.js and TRANSFORMERS_JS"),
]


def test_masks_of_the_pipeline_are_those_of_python(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "load_runtime", lambda source: {})  # transformers.js brings its own
    model, processor = load_model("camvid-b0"), SegformerImageProcessor.from_pretrained("camvid-b0")
    export.export_web(model, tmp_path / "page", processor)
    # transformers.js resizes with sharp's bilinear transform: two pixels on each axis, however far the image shrinks,
    # where Pillow averages all that an output covers. An image that needs no resizing has no such difference.
    shutil.copy(PHOTO, tmp_path / "photo.jpg")
    Image.open(PHOTO).resize(processor.target_size[::-1]).save(tmp_path / "resized.png")
    agreement = {tmp_path / "photo.jpg": 0.99, tmp_path / "resized.png": 0.999}
    script = Path(__file__).with_name("transformers_js.mjs")
    command = ["node", str(script), PACKAGES, str(tmp_path / "page"), str(tmp_path), *map(str, agreement)]
    subprocess.run(command, check=True, timeout=600)
    results = SegmentationPredictor(model, processor)(list(agreement))
    for (image, least), result in zip(agreement.items(), results, strict=True):
        class_map = np.fromfile(f"{image}.bin", np.uint8).reshape(result.class_map.shape)
        assert np.mean(class_map == result.class_map) >= least, image.name
