"""LiteRT files give the logits of Keras, in every precision as far as it reaches."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from tests.deploy.conftest import LABELS
from tests.modeling.test_models import TWO_STAGES
from tf_segformer import SegformerForSemanticSegmentation, SegformerImageProcessor
from tf_segformer.deploy.litert import export_litert
from tf_segformer.inference.engines import open_engine
from tf_segformer.ops.tracing import exporting

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


@pytest.mark.slow
@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_litert_float32_equals_keras(segformers, task, tmp_path):
    model, processor = segformers(task)
    path = export_litert(model, tmp_path, processor, size=SIZE)
    assert not exporting()  # what is traced later is made for TensorFlow again
    pixel_values = random_pixel_values(1, *SIZE)
    np.testing.assert_allclose(run_litert(path, pixel_values), model(pixel_values), rtol=0, atol=2e-5)
    assert (tmp_path / "labels.txt").read_text(encoding="utf-8").splitlines() == list(LABELS.values())
    assert SegformerImageProcessor.from_pretrained(tmp_path) == replace(processor, size=SIZE)  # the only one it takes


@pytest.mark.slow
def test_litert_of_open_size_takes_any(segformers, tmp_path):
    model = segformers().model
    path = export_litert(model, tmp_path, size=None)
    for shape in ((1, 64, 96), (2, 33, 70)):
        pixel_values = random_pixel_values(*shape)
        np.testing.assert_allclose(run_litert(path, pixel_values), model(pixel_values), rtol=0, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "agreement"), [("float16", 0.995), ("dynamic-int8", 0.9), ("int8", 0.8)]
)  # of a random network, whose classes lie close together; a trained one keeps more (benchmarks.edge)
def test_litert_of_lower_precision_is_smaller_and_agrees(segformers, tmp_path, precision, agreement):
    model = segformers().model
    calibration = [random_pixel_values(1, *SIZE) + shift for shift in (-0.5, 0, 0.5)] if precision == "int8" else None
    full = export_litert(model, tmp_path / "full", size=SIZE).stat().st_size
    path = export_litert(model, tmp_path, precision=precision, size=SIZE, calibration=calibration)
    assert path.stat().st_size < 0.8 * full
    pixel_values = random_pixel_values(1, *SIZE)
    ours, expected = run_litert(path, pixel_values), np.asarray(model(pixel_values))
    assert (ours.argmax(-1) == expected.argmax(-1)).mean() >= agreement


@pytest.mark.slow
def test_litert_int8_is_run_by_xnnpack_and_wholly_in_integers_on_request(segformers, tmp_path):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason='needs the extra "litert"')
    model, processor = segformers()
    pixel_values = random_pixel_values(1, 64, 64)
    partitions, logits = {}, {}
    for name in ("mixed", "integer"):
        path = export_litert(
            model, tmp_path / name, processor, size=(64, 64), precision="int8", integer_io=name == "integer",
            calibration=iter([pixel_values, 0.5 * pixel_values]),
        )  # fmt: skip
        network = interpreter.Interpreter(str(path))
        network.allocate_tensors()
        kinds = {np.dtype(each["dtype"]).name for each in (network.get_input_details() + network.get_output_details())}
        assert kinds == {"int8" if name == "integer" else "float32"}
        partitions[name] = sum(each["op_name"] == "DELEGATE" for each in network._get_ops_details())
        logits[name] = open_engine(path)(pixel_values)
    assert partitions["mixed"] < 5 < partitions["integer"]
    expected = np.asarray(model(pixel_values))
    errors = {name: np.abs(each - expected).mean() for name, each in logits.items()}
    assert errors["mixed"] < errors["integer"] < 0.3 * np.abs(expected).mean()
    with pytest.raises(ValueError, match="takes images of 64x64 pixels only"):
        open_engine(path)(random_pixel_values(1, 32, 64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"integer_io": True}, "integer_io=True is for precision"),
        ({"precision": "int4"}, "choose one of float32, float16"),
        ({"precision": "int8", "size": None, "calibration": []}, "fixed size and calibration"),
        ({"precision": "int8"}, "fixed size and calibration"),
    ],
)
def test_litert_options_that_make_no_sense_are_rejected(small_config, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        export_litert(SegformerForSemanticSegmentation(small_config), tmp_path, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_tensorflow_s_own_converter_takes_a_model_that_was_never_called(capfd):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason='needs the extra "litert"')
    model = SegformerForSemanticSegmentation(TWO_STAGES.replace(initializer_range=0.2))
    content = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    converted = interpreter.Interpreter(model_content=content)
    (given,), (wanted,) = converted.get_input_details(), converted.get_output_details()
    pixel_values = random_pixel_values(1, 33, 40)
    converted.resize_tensor_input(given["index"], pixel_values.shape)
    converted.allocate_tensors()
    converted.set_tensor(given["index"], pixel_values)
    converted.invoke()
    np.testing.assert_allclose(converted.get_tensor(wanted["index"]), model(pixel_values), rtol=0, atol=2e-5)
