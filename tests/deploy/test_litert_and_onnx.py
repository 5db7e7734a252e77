import os
import subprocess
import sys

import numpy as np
import pytest

from tests.deploy.conftest import LABELS
from tf_segformer import SegformerForSemanticSegmentation, SegformerImageProcessor, SegformerModel
from tf_segformer.deploy.litert import export_litert, export_onnx
from tf_segformer.ops.portability import exporting

SIZE = (64, 96)


def random_pixel_values(*shape):
    return np.random.default_rng(0).standard_normal((*shape, 3)).astype("float32")


def run_litert(path, pixel_values):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason='needs the extra "litert"')
    model = interpreter.Interpreter(str(path))
    (given,), (wanted,) = model.get_input_details(), model.get_output_details()
    model.resize_tensor_input(given["index"], pixel_values.shape)
    model.allocate_tensors()
    model.set_tensor(given["index"], pixel_values)
    model.invoke()
    assert model.get_signature_list()["serving_default"] == {"inputs": ["pixel_values"], "outputs": ["logits"]}
    return model.get_tensor(wanted["index"])


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_litert_float32_equals_keras(exported, task, tmp_path):
    model, processor, _ = exported(task)
    path = export_litert(model, tmp_path, processor, size=SIZE)
    pixel_values = random_pixel_values(1, *SIZE)
    np.testing.assert_allclose(run_litert(path, pixel_values), model(pixel_values), rtol=0, atol=2e-5)
    assert (tmp_path / "labels.txt").read_text(encoding="utf-8").splitlines() == list(LABELS.values())
    assert SegformerImageProcessor.from_pretrained(tmp_path) == processor


def test_litert_of_open_size_takes_any(exported, tmp_path):
    model = exported().model
    path = export_litert(model, tmp_path, size=None)
    for shape in ((1, 64, 96), (2, 33, 70)):
        pixel_values = random_pixel_values(*shape)
        np.testing.assert_allclose(run_litert(path, pixel_values), model(pixel_values), rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("precision", "agreement"), [("float16", 0.995), ("dynamic-int8", 0.9), ("int8", 0.8)]
)  # of a random network, whose classes lie close together; a trained one keeps more (benchmarks/edge.py)
def test_litert_of_lower_precision_is_smaller_and_agrees(exported, tmp_path, precision, agreement):
    model = exported().model
    calibration = [random_pixel_values(1, *SIZE) + shift for shift in (-0.5, 0, 0.5)] if precision == "int8" else None
    full = export_litert(model, tmp_path / "full", size=SIZE).stat().st_size
    path = export_litert(model, tmp_path, precision=precision, size=SIZE, calibration=calibration)
    assert path.stat().st_size < 0.8 * full
    pixel_values = random_pixel_values(1, *SIZE)
    ours, expected = run_litert(path, pixel_values), np.asarray(model(pixel_values))
    assert (ours.argmax(-1) == expected.argmax(-1)).mean() >= agreement


def test_graphs_drawn_after_an_export_are_made_for_tensorflow_again(exported, tmp_path):
    export_litert(exported().model, tmp_path, size=SIZE)
    assert not exporting()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int4"}, "choose one of float32, float16"),
        ({"precision": "int8", "size": None, "calibration": []}, "fixed size and calibration"),
        ({"precision": "int8"}, "fixed size and calibration"),
    ],
)
def test_litert_options_that_make_no_sense_are_rejected(small_config, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        export_litert(SegformerForSemanticSegmentation(small_config), tmp_path, **options)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def onnxruntime():
    """The engine that runs ONNX files here."""
    return pytest.importorskip("onnxruntime", reason='needs the extra "onnx"')


def run_onnx(onnxruntime, path, pixel_values):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"pixel_values": pixel_values})[0]


def assert_same_logits(logits, expected):
    expected = np.asarray(expected)  # engines add in another order: some roundings of the largest logit
    np.testing.assert_allclose(logits, expected, rtol=0, atol=min(2e-5, 4e-6 * np.abs(expected).max()))


@pytest.mark.parametrize(("task", "opset"), [("segmentation", 17), ("segmentation", 18), ("classification", 18)])
def test_onnx_equals_keras_at_any_size(exported, onnxruntime, task, opset, tmp_path):
    model, processor, _ = exported(task)
    path = export_onnx(model, tmp_path, processor, opset=opset)
    # of an image of 9x20 the first map is smaller than its sequence reduction
    for shape in ((1, 64, 96), (2, 65, 97), (3, 32, 31), (1, 100, 47), (2, 9, 20)):
        pixel_values = random_pixel_values(*shape)
        logits = run_onnx(onnxruntime, path, pixel_values)
        assert_same_logits(logits, model(pixel_values))
    assert (tmp_path / "labels.txt").read_text(encoding="utf-8").splitlines() == list(LABELS.values())
    assert SegformerImageProcessor.from_pretrained(tmp_path) == processor


def test_onnx_channels_first_is_the_same_transposed(exported, onnxruntime, tmp_path):
    model = exported().model
    path = export_onnx(model, tmp_path, data_format="channels_first")
    pixel_values = random_pixel_values(2, 40, 64)
    logits = run_onnx(onnxruntime, path, pixel_values.transpose(0, 3, 1, 2))
    assert_same_logits(logits.transpose(0, 2, 3, 1), model(pixel_values))


@pytest.mark.parametrize(
    "changes",
    [
        {"decode_head_type": "mmseg"},
        {"hidden_act": "gelu_new"},
        {"hidden_act": "silu"},
        {"hidden_act": "relu", "num_channels": 5, "embedding_norm_eps": 1e-2, "block_norm_eps": 1e-1},
        {"mlp_ratios": (2, 1.5, 4, 1), "num_attention_heads": (2, 1, 4, 8), "patch_sizes": (4, 3, 5, 2)},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_onnx_of_any_architecture_equals_keras(small_config, onnxruntime, tmp_path, changes):
    model = SegformerForSemanticSegmentation(small_config.replace(initializer_range=0.3, **changes))
    rng = np.random.default_rng(1)
    for variable in model.weights:
        if len(variable.shape) == 1:  # biases and norms start as zeros and ones, of which none would be missed
            variable.assign(1 + 0.3 * rng.uniform(-1, 1, variable.shape))
    path = export_onnx(model, tmp_path)
    pixel_values = rng.standard_normal((1, 64, 40, model.config.num_channels), dtype=np.float32)
    assert_same_logits(run_onnx(onnxruntime, path, pixel_values), model(pixel_values))


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_onnx_is_exported_on_every_backend(exported, onnxruntime, tmp_path, backend):
    pytest.importorskip(backend)
    model = exported().model
    model.save_pretrained(tmp_path / "weights")
    program = (
        "import sys; from tf_segformer import SegformerForSemanticSegmentation as Model\n"
        "from tf_segformer.deploy.litert import export_onnx\n"
        "export_onnx(Model.from_pretrained(sys.argv[1]), sys.argv[2])"
    )
    subprocess.run(
        [sys.executable, "-c", program, tmp_path / "weights", tmp_path / "file"],
        env={**os.environ, "KERAS_BACKEND": backend},
        check=True,
    )
    pixel_values = random_pixel_values(1, *SIZE)
    logits = run_onnx(onnxruntime, tmp_path / "file" / "model.onnx", pixel_values)
    assert_same_logits(logits, model(pixel_values))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"opset": 9}, "opset=9: choose one of 17, 18"), ({"data_format": "NCHW"}, "choose one of channels_last")],
)
def test_onnx_options_that_make_no_sense_are_rejected(exported, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        export_onnx(exported().model, tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_onnx_of_an_encoder_is_rejected(small_config, tmp_path):
    with pytest.raises(ValueError, match="SegformerModel cannot be exported"):
        export_onnx(SegformerModel(small_config), tmp_path)
