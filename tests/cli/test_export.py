"""`tf-segformer export` and `serving-config`, and `predict --server`."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tf_segformer.imaging.files import open_image
from tf_segformer.imaging.processor import SegformerImageProcessor
from tf_segformer.modeling.models import SegformerForSemanticSegmentation


def expected_class_map(folder, photo):
    model = SegformerForSemanticSegmentation.from_pretrained(folder)
    processor = SegformerImageProcessor.from_pretrained(folder)
    logits = model(processor(open_image(photo))["pixel_values"])
    return processor.post_process_semantic_segmentation(logits, [open_image(photo).size[::-1]])[0]


def test_a_model_is_exported_served_and_asked(run, checkpoint, image, tmp_path):
    pytest.importorskip("tensorflow_serving", reason='needs the extra "serving"')
    from tests.deploy import model_server

    outcome = run("export", checkpoint(), tmp_path / "served")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith(f"wrote {tmp_path / 'served' / '1'} (")
    outcome = run("serving-config", tmp_path / "served", "-o", tmp_path / "config", "--name", "land")
    assert (outcome.code, outcome.err) == (0, "")
    assert "docker run --rm" in outcome.out and "tensorflow_model_server --port=8500" in outcome.out
    assert (tmp_path / "served" / "1" / "assets.extra" / "tf_serving_warmup_requests").stat().st_size > 1000

    _, grpc_port, rest_port = model_server.start(str(tmp_path / "served" / "1"), "land")
    photo = image(tmp_path / "photo.png")
    broken = tmp_path / "broken.jpg"
    broken.write_text("no image")
    for url in (f"http://127.0.0.1:{rest_port}", f"grpc://127.0.0.1:{grpc_port}"):
        arguments = ("--server", url, "--server-model", "land", "-o", tmp_path / "out")
        outcome = run("predict", photo, broken, tmp_path / "missing.png", *arguments)
        assert outcome.code == 1
        assert "broken.jpg: INVALID_ARGUMENT: the bytes are neither" in outcome.err
        assert "missing.png: No such file" in outcome.err
        mask = np.asarray(Image.open(tmp_path / "out" / "photo_mask.png"))
        np.testing.assert_array_equal(mask, expected_class_map(checkpoint(), photo))
        (tmp_path / "out" / "photo_mask.png").unlink()
    outcome = run("predict", photo, "--server", url, "-o", tmp_path / "out")
    assert outcome.code == 2 and "NOT_FOUND" in outcome.err and outcome.err.count("\n") == 1
    outcome = run("predict", photo, "--server", url, "--mode", "slide")
    assert outcome.code == 2 and "--mode has no effect with --server" in outcome.err


@pytest.mark.slow
def test_litert_with_calibration_images(run, checkpoint, image, tmp_path):
    for seed in range(3):
        image(tmp_path / "photos" / f"{seed}.png", seed)
    arguments = ("--format", "litert", "--precision", "int8", "--size", "64,96", "--calibration", tmp_path / "photos")
    outcome = run("export", checkpoint(), tmp_path / "edge", *arguments)
    assert (outcome.code, outcome.err) == (0, "")
    names = sorted(path.name for path in (tmp_path / "edge").iterdir())
    assert names == ["config.json", "export.json", "labels.txt", "model.tflite", "preprocessor_config.json"]
    assert SegformerImageProcessor.from_pretrained(tmp_path / "edge").size == {"height": 64, "width": 96}


@pytest.mark.parametrize(("options", "channels_axis"), [((), 3), (("--data-format", "channels_first"), 1)])
def test_onnx(run, checkpoint, tmp_path, options, channels_axis):
    onnx = pytest.importorskip("onnx", reason='needs the extra "onnx"')
    outcome = run("export", checkpoint(), tmp_path / "edge", "--format", "onnx", *options)
    assert outcome.code == 0, outcome.err
    (pixel_values,) = onnx.load(tmp_path / "edge" / "model.onnx").graph.input
    assert pixel_values.type.tensor_type.shape.dim[channels_axis].dim_value == 3


def test_token_merging_is_of_the_checkpoint_and_travels_with_what_is_exported(run, checkpoint, image, tmp_path):
    onnx = pytest.importorskip("onnx", reason='needs the extra "onnx"')
    exported = tmp_path / "exported"
    assert run("export", checkpoint(), exported, "--format", "onnx", "--token-merging", "0.5").code == 0
    assert json.loads((exported / "config.json").read_text())["token_merging"] == 0.5
    assert "TopK" in {node.op_type for node in onnx.load(exported / "model.onnx").graph.node}
    photo = image(tmp_path / "photo.png")
    outcome = run("predict", photo, "-m", exported, "--token-merging", "0.5")
    assert outcome.code == 2 and "--token-merging is for checkpoints; export again with it" in outcome.err
    outcome = run("predict", photo, "-m", checkpoint(), "--token-merging", "0.8")
    assert outcome.code == 2 and "0.8 is not in the range 0<=x<=0.75" in outcome.err
    fractions = []
    for fraction in ("0", "0.75"):
        arguments = ("--save", "json", "-o", tmp_path / fraction, "--json", "--token-merging", fraction)
        fractions.append(json.loads(run("predict", photo, "-m", checkpoint(), *arguments).out)["class_fractions"])
    assert fractions[0] != fractions[1]


@pytest.mark.parametrize(("task", "format_name"), [("segmentation", "openvino"), ("classification", "onnx")])
def test_what_was_exported_predicts_alone(run, checkpoint, image, tmp_path, task, format_name):
    pytest.importorskip("onnx" if format_name == "onnx" else "openvino")
    pytest.importorskip("onnxruntime" if format_name == "onnx" else "openvino")
    outcome = run("export", checkpoint(task), tmp_path / "exported", "--format", format_name)
    stored = sum(path.stat().st_size for path in (tmp_path / "exported").glob("model.*"))
    assert outcome.code == 0 and f"({stored / 1e6:.1f} MB)" in outcome.out
    photo = image(tmp_path / "photo.png")
    outputs = []
    for model in (tmp_path / "exported", checkpoint(task)):
        outcome = run("predict", photo, "-m", model, "-o", tmp_path / "out", "--json")
        assert (outcome.code, outcome.err) == (0, "")
        outputs.append(json.loads(outcome.out))
    kind = "class_fractions" if task == "segmentation" else "probabilities"
    assert outputs[0][kind] == pytest.approx(outputs[1][kind], abs=1e-3)
    outcome = run("evaluate", tmp_path / "exported", tmp_path)
    assert outcome.code == 2
    assert ("a model for classification" in outcome.err) == (task == "classification")


def test_a_page_without_its_engine_is_one_line_that_names_the_remedy(run, checkpoint, tmp_path):
    (tmp_path / "runtime").mkdir()
    arguments = ("--format", "web", "--runtime", tmp_path / "runtime")
    outcome = run("export", checkpoint(), tmp_path / "page", *arguments)
    assert outcome.code == 2 and outcome.err.count("\n") == 1
    assert "ort.wasm.bundle.min.mjs: cannot be read" in outcome.err
    assert "`npm pack onnxruntime-web@1.30.0` writes a .tgz" in outcome.err
    assert not (tmp_path / "page").exists()


def test_what_is_measured_is_printed_and_kept(run, checkpoint, image, tmp_path):
    pytest.importorskip("onnxruntime")
    for seed in range(3):
        image(tmp_path / "val" / "images" / f"{seed}.png", seed)
        (tmp_path / "val" / "labels").mkdir(exist_ok=True)
        Image.new("L", (70, 50), seed).save(tmp_path / "val" / "labels" / f"{seed}.png")
    arguments = (
        "--precision",
        "float16",
        "--opset",
        "16",
        "--size",
        "64",
        "--calibration",
        tmp_path / "val" / "images",
    )
    outcome = run("export", checkpoint(), tmp_path / "onnx", "--format", "onnx", *arguments, "--data", tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    facts = json.loads((tmp_path / "onnx" / "export.json").read_text())
    assert facts["measured"]["images"] == 3 and facts["measured"]["agreement"] > 0.98
    assert f"mIoU {100 * facts['measured']['mIoU']:.2f} %" in outcome.out
    assert (facts["precision"], facts["opset"], facts["size"]) == ("float16", 16, [64, 64])


@pytest.mark.slow
def test_int8_from_images_and_labels(run, checkpoint, image, tmp_path):
    pytest.importorskip("nncf")
    for seed in range(3):
        image(tmp_path / "photos" / f"{seed}.png", seed)
    arguments = ("--format", "openvino", "--precision", "int8", "--calibration", tmp_path / "photos")
    outcome = run("export", checkpoint(), tmp_path / "int8", *arguments)
    assert outcome.code == 0, outcome.err
    assert "the same class in" in outcome.out and "on 3 images" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format", "onnx", "--device", "gpu"), "--device is for --format saved_model"),
        (("--precision", "int8"), "--precision of saved_model is one of float32, float16, bfloat16"),
        (("--size", "64"), "--size is for --format litert or onnx or openvino"),
        (("--format", "web", "--data", "x"), "--data is for --format saved_model or litert"),
        (("--format", "openvino", "--opset", "17"), "--opset is for --format onnx"),
        (("--format", "litert", "--integer-io"), "--integer-io is for --precision int8"),
        (("--format", "openvino", "--calibration", "no-such-folder/*.png"), "no file matches this pattern"),
        (("--format", "onnx", "--runtime", "."), "--runtime is for --format web"),
        (("--data-format", "channels_first"), "--data-format is for --format onnx"),
        (("--format", "litert", "--precision", "int8"), "needs --calibration IMAGES"),
        (("--format", "litert", "--precision", "int8", "--calibration", "x", "--size", "any"), "needs a fixed --size"),
    ],
)
def test_options_that_do_not_fit_the_format_are_rejected(run, checkpoint, tmp_path, arguments, message):
    outcome = run("export", checkpoint(), tmp_path / "out", *arguments)
    assert outcome.code == 2 and message in outcome.err
    assert not (tmp_path / "out").exists()


def test_an_encoder_or_an_existing_version_is_one_line(run, checkpoint, tmp_path):
    (tmp_path / "served" / "1").mkdir(parents=True)
    outcome = run("export", checkpoint(), tmp_path / "served")
    assert outcome.code == 2 and "choose another version" in outcome.err and outcome.err.count("\n") == 1
    outcome = run("export", checkpoint("encoder"), tmp_path / "other")
    assert outcome.code == 2 and "cannot be exported" in outcome.err and "Traceback" not in outcome.err
    outcome = run("serving-config", tmp_path / "served", "-o", tmp_path / "config")
    assert outcome.code == 2 and "no SavedModel in it" in outcome.err
