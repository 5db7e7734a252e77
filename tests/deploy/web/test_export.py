"""The folder of a page has all that it loads, says what Python knows of the model, and names no other host."""

from __future__ import annotations

import configparser
import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.deploy.conftest import LABELS
from tf_segformer import (
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    SegmentationPredictor,
)
from tf_segformer.deploy.web import export
from tf_segformer.imaging.labels import palette_for

ENGINE = {"ort.wasm.bundle.min.mjs": b"export {};", "ort-wasm-simd-threaded.wasm": b"\0asm"}


@pytest.fixture(scope="module")
def page(segformers, tmp_path_factory):
    """The folder of a small model, with a stand-in for the engine."""
    pytest.importorskip("onnx", reason='needs the extra "onnx"')
    folder = tmp_path_factory.mktemp("page")
    model, processor = segformers()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "load_runtime", lambda source: ENGINE)
        assert export.export_web(model, folder, processor) == folder / "index.html"
    return folder


def test_the_folder_says_what_python_knows_of_the_model(page, segformers):
    import onnx

    (pixel_values,) = onnx.load(page / "onnx" / "model.onnx").graph.input
    assert [each.dim_value for each in pixel_values.type.tensor_type.shape.dim] == [0, 3, 0, 0]
    classes = json.loads((page / "classes.json").read_text(encoding="utf-8"))
    colors = palette_for(list(LABELS.values())).tolist()
    assert classes == [{"name": LABELS[index], "color": colors[index]} for index in range(5)]
    processor = SegformerImageProcessor.from_pretrained(page)
    assert processor.apply_exif_orientation and processor.size == segformers().processor.size
    config = json.loads((page / "config.json").read_text(encoding="utf-8"))  # transformers.js reads these two
    assert config["model_type"] == "segformer" and config["architectures"] == ["SegformerForSemanticSegmentation"]
    assert SegformerConfig.from_pretrained(page).id2label == LABELS
    assert json.loads((page / "export.json").read_text(encoding="utf-8"))["engine"] == "onnxruntime-web 1.30.0"


def test_the_class_of_one_logit_has_a_background():
    assert export.describe_classes(SegformerConfig(id2label={0: "crack"}))[0]["name"] == "background"


def test_every_file_that_the_page_names_is_in_its_folder(page):
    for path in [*page.glob("*.js"), page / "index.html"]:
        text = path.read_text(encoding="utf-8")
        names = re.findall(r'(?:from |import\(|fetchFile\(|URL\(|src=|href=)"([^"]+)"', text)
        names += re.findall(r'^const MODEL = "(.+)";$', text, re.MULTILINE)
        assert [name for name in names if not (page / name).is_file()] == [], path.name
    assert (page / "runtime" / "LICENSE.txt").is_file()
    assert (page / "runtime" / "ort.wasm.bundle.min.js").read_bytes() == ENGINE["ort.wasm.bundle.min.mjs"]


def test_every_file_of_the_page_is_in_the_wheel():
    root = Path(__file__).parents[3]
    setup = configparser.ConfigParser()
    setup.read(root / "setup.cfg")
    package = root / "tf_segformer"
    packed = {path for line in setup["options.package_data"]["tf_segformer"].split() for path in package.glob(line)}
    assert {path for path in (package / "deploy" / "web" / "page").rglob("*") if path.is_file()} <= packed


def test_the_page_allows_itself_its_own_folder_alone(page):
    policy = re.search(r'Content-Security-Policy" content="(.+)"', (page / "index.html").read_text("utf-8"))[1]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["script-src"] == "'self' 'wasm-unsafe-eval'"
    sources = {source for rule in rules.values() for source in rule.split()}
    assert sources == {"'none'", "'self'", "'wasm-unsafe-eval'"}
    for path in (each for pattern in ("*.js", "*.css", "*.html") for each in page.glob(pattern)):
        hosts = set(re.findall(r"https?://([\w.:]+)", path.read_text(encoding="utf-8")))
        assert hosts <= {"localhost:8000"}, path.name


def test_models_and_processors_that_no_browser_can_feed_are_rejected(segformers, small_config, tmp_path):
    model, processor = segformers()
    cases = [
        (segformers("classification").model, processor, "needs a SegformerForSemanticSegmentation"),
        (SegformerForSemanticSegmentation(small_config.replace(num_channels=5)), processor, "takes 5 channels"),
        (model, SegformerImageProcessor(image_mean=np.zeros(4)), "image_mean has 4 values"),
        (model, SegformerImageProcessor(value_range=(0, 4095)), "takes 8-bit RGB images"),
    ]
    for unfit, its_processor, message in cases:
        with pytest.raises(ValueError, match=message):
            export.export_web(unfit, tmp_path, its_processor)
    assert not list(tmp_path.iterdir())


def test_the_model_in_the_folder_predicts_in_python_too(page, segformers):
    pytest.importorskip("onnxruntime", reason='needs the extra "onnx"')
    model, processor = segformers()
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    (ours,) = SegmentationPredictor(page / "onnx")(image)
    (expected,) = SegmentationPredictor(model, processor)(image)
    assert np.mean(ours.class_map == expected.class_map) > 0.999 and ours.labels == LABELS
