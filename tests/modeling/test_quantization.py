"""Keras' quantization of the dense layers: the outputs stay close, and the quantized model comes back as it was."""

from __future__ import annotations

import gc
from pathlib import Path

import keras
import numpy as np
import pytest

from tests.modeling.test_models import TWO_STAGES
from tf_segformer import (
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    SegmentationPredictor,
)
from tf_segformer.deploy.network import check_task
from tf_segformer.errors import CheckpointError
from tf_segformer.inference.forward import forward_function
from tf_segformer.modeling.quantization import dense_layers
from tf_segformer.transformers import TFSegformerForImageClassification, TFSegformerForSemanticSegmentation

TOLERANCE = {"int8": 0.06, "int4": 0.25, "float8": 0.2}  # of the largest logit, for random weights


CONFIG = TWO_STAGES.replace(depths=(1, 2), initializer_range=0.2)


@pytest.fixture(autouse=True)
def quick_collection():
    """Keras collects garbage for each layer that it quantizes: 0.2 s where what came before is looked at again."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def model():
    return SegformerForSemanticSegmentation(CONFIG)


def quantized(model):
    return {place for place, layer in dense_layers(model).items() if layer.quantization_mode}


@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
def test_a_quantized_model_is_saved_and_comes_back(model, pixel_values, mode, tmp_path):
    expected = model(pixel_values).numpy()
    model.quantize(mode)
    logits = model(pixel_values).numpy()
    assert 0 < np.abs(logits - expected).max() < TOLERANCE[mode] * np.abs(expected).max()
    assert len(quantized(model)) == 6 * sum(model.config.depths)  # four in attention, two in the feed-forward network
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert quantized(again) == quantized(model)
    np.testing.assert_array_equal(again(pixel_values), logits)


def test_eight_bits_take_a_quarter_of_the_bytes_of_the_dense_layers(model, tmp_path):
    def kernels():
        return sum(layer._kernel.value.numpy().nbytes for layer in dense_layers(model).values())

    before, classifier = kernels(), model.decode_head.classifier.kernel.numpy().nbytes
    model.quantize("int8")
    assert kernels() == (before - classifier) // 4 + classifier


def test_the_predictor_s_graph_tells_quantized_blocks_from_others(model, pixel_values):
    second_block_of_stage_1 = dense_layers(model)["block_1_1/mlp/dense_1"]
    model.quantize("int8", filters=lambda layer: layer is second_block_of_stage_1)
    assert quantized(model) == {"block_1_1/mlp/dense_1"}
    np.testing.assert_allclose(forward_function(model)(pixel_values), model(pixel_values), atol=1e-4)


def test_the_classifier_is_quantized_where_it_is_asked_for(model):
    model.quantize("int8", filters=["classifier", "^key$"])
    keys = {f"block_{place}/attention/key" for place in ("0_0", "1_0", "1_1")}
    assert quantized(model) == {"decode_head/classifier"} | keys


def test_filters_that_leave_nothing_are_an_error_with_the_names(model):
    with pytest.raises(ValueError, match=r"leave no dense layer .* classifier, dense_1"):
        model.quantize("int8", filters="attention")


def test_mmsegmentation_s_head_and_a_classifier_are_quantized(pixel_values, tmp_path):
    models = (
        SegformerForSemanticSegmentation(CONFIG.replace(decode_head_type="mmseg")),
        SegformerForImageClassification(CONFIG),
    )
    for model in models:
        expected = model(pixel_values).numpy()
        model.quantize("int8")
        logits = model(pixel_values).numpy()
        assert 0 < np.abs(logits - expected).max() < TOLERANCE["int8"] * np.abs(expected).max()
        model.save(tmp_path / "model.keras")
        np.testing.assert_array_equal(keras.models.load_model(tmp_path / "model.keras")(pixel_values), logits)


@pytest.mark.parametrize("kind", [TFSegformerForSemanticSegmentation, TFSegformerForImageClassification])
def test_the_models_of_transformers_programs_are_quantized_and_come_back(kind, pixel_values, tmp_path):
    model, images = kind(CONFIG), pixel_values.transpose(0, 3, 1, 2)
    expected = model(images).logits.numpy()
    model.quantize("int8")
    logits = model(images).logits.numpy()
    assert 0 < np.abs(logits - expected).max() < TOLERANCE["int8"] * np.abs(expected).max()
    assert len(quantized(model)) == 6 * sum(CONFIG.depths)
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "model.keras")(images).logits, logits)


def test_what_holds_float_weights_alone_rejects_a_quantized_model(model, tmp_path):
    model.quantize("int8")
    with pytest.raises(CheckpointError, match=r"model\.save"):
        model.save_pretrained(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
    model.save(tmp_path / "model.keras")
    with pytest.raises(CheckpointError, match=r"quantized model, which keras\.models\.load_model reads"):
        SegformerForSemanticSegmentation.from_pretrained(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="before quantize"):
        check_task(model)


@pytest.mark.slow
def test_camvid_b0_in_eight_bits_keeps_the_class_of_nearly_every_pixel():
    """On all frames of CamVid, which are not in this repository, 99.87 %; with the classifier among them 98.8 %."""
    model = SegformerForSemanticSegmentation.from_pretrained("camvid-b0")
    predictor = SegmentationPredictor(model, SegformerImageProcessor.from_pretrained("camvid-b0"))
    photo = Path(__file__).parents[2] / "examples" / "china.jpg"
    expected = next(predictor(photo)).class_map
    model.quantize("int8")
    class_map = next(SegmentationPredictor(model, predictor.processor)(photo)).class_map
    assert len(quantized(model)) == 48
    assert (class_map == expected).mean() > 0.99
