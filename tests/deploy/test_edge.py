import numpy as np
import pytest

from tests.deploy.conftest import LABELS
from tf_segformer import SegformerForSemanticSegmentation, SegformerImageProcessor
from tf_segformer.deploy.edge import export_litert, export_onnx
from tf_segformer.modeling.portability import plain_operations_wanted

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
    assert not plain_operations_wanted()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int4"}, "choose one of float32, float16"),
        ({"precision": "int8", "size": None, "calibration": []}, "fixed size and calibration"),
        ({"precision": "int8"}, "fixed size and calibration"),
    ],
)
def test_litert_options_that_make_no_sense_are_refused(small_config, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        export_litert(SegformerForSemanticSegmentation(small_config), tmp_path, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("task", "opset"), [("segmentation", 17), ("segmentation", 18), ("classification", 18)])
def test_onnx_equals_keras_at_any_size(exported, task, opset, tmp_path):
    pytest.importorskip("tf2onnx", reason='needs the extra "onnx"')
    onnxruntime = pytest.importorskip("onnxruntime", reason='needs the extra "onnx"')
    model, processor, _ = exported(task)
    path = export_onnx(model, tmp_path, processor, opset=opset)
    session = onnxruntime.InferenceSession(path)
    for shape in ((1, 64, 96), (2, 65, 97), (3, 32, 31)):
        pixel_values = random_pixel_values(*shape)
        (logits,) = session.run(["logits"], {"pixel_values": pixel_values})
        np.testing.assert_allclose(logits, model(pixel_values), rtol=0, atol=2e-5)
    assert (tmp_path / "labels.txt").read_text(encoding="utf-8").splitlines() == list(LABELS.values())


def test_onnx_of_other_operators_is_refused(exported, tmp_path):
    with pytest.raises(ValueError, match="choose one of 17, 18"):
        export_onnx(exported().model, tmp_path, opset=9)
