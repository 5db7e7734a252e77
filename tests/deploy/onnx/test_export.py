"""ONNX files give the logits of Keras, of every architecture, at every size, exported on every backend."""

import os
import subprocess
import sys

import numpy as np
import pytest

from tests.deploy.conftest import LABELS
from tf_segformer import SegformerForSemanticSegmentation, SegformerImageProcessor, SegformerModel
from tf_segformer.deploy.onnx.export import export_onnx


def random_pixel_values(*shape):
    return np.random.default_rng(0).standard_normal((*shape, 3)).astype("float32")


@pytest.fixture
def onnxruntime():
    """The engine that runs ONNX files here."""
    return pytest.importorskip("onnxruntime", reason='needs the extra "onnx"')


def run_onnx(onnxruntime, path, pixel_values):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"pixel_values": pixel_values})[0]


def assert_same_logits(logits, expected):
    # Engines add in another order: some roundings of the largest logit (2.9e-6 of it where tokens are merged)
    expected = np.asarray(expected)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=4e-6 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("task", "opset"), [("segmentation", 13), ("segmentation", 17), ("segmentation", 18), ("classification", 18)]
)
def test_onnx_equals_keras_at_any_size(segformers, onnxruntime, task, opset, tmp_path):
    model, processor = segformers(task)
    path = export_onnx(model, tmp_path, processor, opset=opset)
    # of an image of 9x20 the first map is smaller than its sequence reduction
    for shape in ((1, 64, 96), (2, 65, 97), (3, 32, 31), (1, 100, 47), (2, 9, 20)):
        pixel_values = random_pixel_values(*shape)
        logits = run_onnx(onnxruntime, path, pixel_values)
        assert_same_logits(logits, model(pixel_values))
    assert (tmp_path / "labels.txt").read_text(encoding="utf-8").splitlines() == list(LABELS.values())
    assert SegformerImageProcessor.from_pretrained(tmp_path) == processor


def test_onnx_channels_first_is_the_same_transposed(segformers, onnxruntime, tmp_path):
    model = segformers().model
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


@pytest.mark.parametrize("opset", [13, 18])
def test_onnx_merges_the_tokens_that_keras_merges(small_config, onnxruntime, tmp_path, opset):
    fractions = (0.75, 0.5, 0.0, 0.65)
    model = SegformerForSemanticSegmentation(small_config.replace(initializer_range=0.3, token_merging=fractions))
    path = export_onnx(model, tmp_path / "open", opset=opset)
    for shape in ((2, 65, 97), (1, 100, 47), (2, 9, 20)):
        pixel_values = random_pixel_values(*shape)
        assert_same_logits(run_onnx(onnxruntime, path, pixel_values), model(pixel_values))
    path = export_onnx(model, tmp_path / "fixed", opset=opset, size=(65, 97))
    pixel_values = random_pixel_values(1, 65, 97)
    assert_same_logits(run_onnx(onnxruntime, path, pixel_values), model(pixel_values))


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_onnx_of_a_fixed_size_has_no_shape_to_compute(segformers, onnxruntime, task, tmp_path):
    onnx = pytest.importorskip("onnx")
    model, processor = segformers(task)
    for size in ((65, 97), (9, 20)):
        path = export_onnx(model, tmp_path, processor, size=size)
        assert SegformerImageProcessor.from_pretrained(tmp_path).target_size == size != processor.target_size
        pixel_values = random_pixel_values(1, *size)
        assert_same_logits(run_onnx(onnxruntime, path, pixel_values), model(pixel_values))
        graph = onnx.load(path).graph
        assert not {"Shape", "Concat"} & {node.op_type for node in graph.node}
        assert [each.dim_value for each in graph.input[0].type.tensor_type.shape.dim] == [1, *size, 3]


@pytest.mark.parametrize("opset", [16, 18])
def test_onnx_in_float16_stores_half_and_takes_float32(segformers, onnxruntime, opset, tmp_path):
    model = segformers().model
    full = export_onnx(model, tmp_path, opset=opset).stat().st_size
    path = export_onnx(model, tmp_path, precision="float16", opset=opset)
    assert path.stat().st_size < 0.75 * full  # of a tiny network, whose nodes take a part
    pixel_values = random_pixel_values(2, 65, 97)
    logits = np.asarray(model(pixel_values))
    found = run_onnx(onnxruntime, path, pixel_values)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, logits, rtol=0, atol=0.01 * np.abs(logits).max())


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_onnx_is_exported_on_every_backend(segformers, onnxruntime, tmp_path, backend):
    pytest.importorskip(backend)
    model = segformers().model
    model.save_pretrained(tmp_path / "weights")
    program = (
        "import sys; from tf_segformer import SegformerForSemanticSegmentation as Model\n"
        "from tf_segformer.deploy.onnx.export import export_onnx\n"
        "export_onnx(Model.from_pretrained(sys.argv[1]), sys.argv[2])"
    )
    subprocess.run(
        [sys.executable, "-c", program, tmp_path / "weights", tmp_path / "file"],
        env={**os.environ, "KERAS_BACKEND": backend},
        check=True,
    )
    pixel_values = random_pixel_values(1, 64, 96)
    logits = run_onnx(onnxruntime, tmp_path / "file" / "model.onnx", pixel_values)
    assert_same_logits(logits, model(pixel_values))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"opset": 9}, "opset=9: choose one of 13, 14"),
        ({"data_format": "NCHW"}, "choose one of channels_last"),
        ({"precision": "bfloat16"}, "choose one of float32, float16, int8"),
        ({"precision": "int8"}, "go together"),
        ({"precision": "int8", "calibration": [], "data": []}, "needs the processor"),
    ],
)
def test_onnx_options_that_make_no_sense_are_rejected(segformers, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        export_onnx(segformers().model, tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_onnx_of_an_encoder_is_rejected(small_config, tmp_path):
    with pytest.raises(ValueError, match="SegformerModel cannot be exported"):
        export_onnx(SegformerModel(small_config), tmp_path)
