"""The files of those programs: what they wrote loads, and what is written here loads where they expect it."""

from __future__ import annotations

import copy
import json
import shutil

import numpy as np
import pytest

from tests.transformers import cases

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")

from tf_segformer import SegformerForSemanticSegmentation  # noqa: E402
from tf_segformer.errors import CheckpointError  # noqa: E402
from tf_segformer.transformers import (  # noqa: E402
    SegformerConfig,
    SegformerImageProcessor,
    TFSegformerForImageClassification,
    TFSegformerForSemanticSegmentation,
    TFSegformerModel,
)


@pytest.fixture(scope="module")
def images():
    return cases.inputs("segmentation")["pixel_values"]


@pytest.fixture(scope="module")
def model(model_of):
    return model_of("segmentation")


@pytest.fixture(scope="module")
def logits(golden):
    return golden["segmentation"]["logits"]


@pytest.mark.parametrize("name", ["x.weights.h5", "x.h5"])
def test_weights_are_saved_and_loaded(name, model, images, logits, tmp_path):
    model.save_weights(tmp_path / name)
    fresh = TFSegformerForSemanticSegmentation(model.config)
    fresh.load_weights(tmp_path / name)
    np.testing.assert_allclose(fresh(images).logits, logits, atol=2e-5)


def test_an_h5_file_has_the_weights_in_the_order_of_keras_2(model, golden, tmp_path):
    h5py = pytest.importorskip("h5py")
    model.save_weights(tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5") as file:
        names = [name for layer in file.attrs["layer_names"] for name in file[layer].attrs["weight_names"]]
        assert all(name in file[name.split("/")[1]] for name in names)
    names = [name.partition("/")[2] for name in names]  # without the name of the model, which Keras numbers
    expected = [line.split()[0].partition("/")[2] for line in str(golden["segmentation"]["names"]).splitlines()]
    assert [name for name in expected if "moving_" not in name] == [name for name in names if "moving_" not in name]
    assert sorted(expected) == sorted(names)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        model.save_weights(tmp_path / "x.h5", overwrite=False)


def test_weights_that_do_not_fit_leave_the_model_as_it_was(keras_2_file, images):
    model = TFSegformerForSemanticSegmentation(SegformerConfig(**{**cases.fields("segmentation"), "num_labels": 7}))
    before = model(images).logits
    with pytest.raises(CheckpointError, match="misshapen"):
        model.load_weights(keras_2_file("segmentation"))
    np.testing.assert_array_equal(model(images).logits, before)
    with pytest.warns(UserWarning, match="other shapes"):
        model.load_weights(keras_2_file("segmentation"), by_name=True, skip_mismatch=True)
    assert np.abs(model(images).logits - before).max() > 0


def test_a_folder_is_saved_for_pytorch_or_as_transformers_did(model, images, logits, tmp_path):
    model.save_pretrained(tmp_path / "torch")
    model.save_pretrained(tmp_path / "tf", safe_serialization=False)
    assert sorted(path.name for path in tmp_path.glob("*/*")) == [
        "config.json",
        "config.json",
        "model.safetensors",
        "tf_model.h5",
    ]
    for folder in ("torch", "tf"):
        again = TFSegformerForSemanticSegmentation.from_pretrained(tmp_path / folder)
        np.testing.assert_allclose(again(images).logits, logits, atol=2e-5)
    native = SegformerForSemanticSegmentation.from_pretrained(tmp_path / "tf")
    np.testing.assert_allclose(np.moveaxis(native(np.moveaxis(images, 1, -1)).numpy(), -1, 1), logits, atol=2e-5)
    assert json.loads((tmp_path / "tf" / "config.json").read_text())["num_channels"] == 3


def test_from_pretrained_takes_the_arguments_of_transformers(model, images, tmp_path):
    model.save_pretrained(tmp_path)
    names = {0: "outer", 1: "inner", 2: "border"}
    with pytest.warns(UserWarning, match="newly initialized"):
        tuned = TFSegformerForSemanticSegmentation.from_pretrained(
            tmp_path,
            from_pt=True,
            force_download=False,
            num_labels=3,
            id2label=names,
            label2id={name: index for index, name in names.items()},
            ignore_mismatched_sizes=True,
            output_hidden_states=True,
        )
    assert (tuned.config.num_labels, tuned.config.id2label) == (3, names)
    outputs = tuned(images)
    assert tuple(outputs.logits.shape) == (2, 3, 16, 24)
    expected = model(images, output_hidden_states=True).hidden_states
    np.testing.assert_array_equal(outputs.hidden_states[-1], expected[-1])
    encoder = TFSegformerModel.from_pretrained(tmp_path)
    np.testing.assert_array_equal(encoder(images).last_hidden_state, expected[-1])
    with pytest.warns(UserWarning, match="has no classifier"):
        TFSegformerForImageClassification.from_pretrained(tmp_path, num_labels=4)


def test_loading_info_names_what_is_not_as_in_the_checkpoint(model, tmp_path):
    model.save_pretrained(tmp_path)
    _, info = TFSegformerForSemanticSegmentation.from_pretrained(tmp_path, output_loading_info=True)
    assert info == {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": [], "error_msgs": []}
    with pytest.warns(UserWarning, match="newly initialized"):
        _, info = TFSegformerForSemanticSegmentation.from_pretrained(
            tmp_path, num_labels=3, ignore_mismatched_sizes=True, output_loading_info=True
        )
    assert [(name, found[-1], shape[-1]) for name, found, shape in info["mismatched_keys"]] == [
        ("decode_head.classifier.weight", 5, 3),
        ("decode_head.classifier.bias", 5, 3),
    ]
    assert not info["missing_keys"] + info["unexpected_keys"]
    with pytest.warns(UserWarning, match="has no classifier"):
        _, info = TFSegformerForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] == ["classifier.weight", "classifier.bias"]
    assert {name.split(".")[0] for name in info["unexpected_keys"]} == {"decode_head"}


def test_keras_2_weights_load_by_their_folder(keras_2_file, model, images, logits, tmp_path):
    shutil.copy(keras_2_file("segmentation"), tmp_path / "best.h5")
    model.config.save_pretrained(tmp_path)
    again = TFSegformerForSemanticSegmentation.from_pretrained(tmp_path)
    np.testing.assert_allclose(again(images).logits, logits, atol=2e-5)
    native = SegformerForSemanticSegmentation.from_pretrained(tmp_path)
    np.testing.assert_allclose(np.moveaxis(native(np.moveaxis(images, 1, -1)).numpy(), -1, 1), logits, atol=2e-5)


def test_the_processor_is_saved_and_loaded(tmp_path):
    SegformerImageProcessor(size=96, do_reduce_labels=True, note="mine").save_pretrained(tmp_path)
    again = SegformerImageProcessor.from_pretrained(tmp_path)
    assert (again.size, again.do_reduce_labels, again.extra["note"]) == ({"height": 96, "width": 96}, True, "mine")


def test_a_copy_is_a_model_of_its_own(model, images, logits):
    again = copy.deepcopy(model)
    again.set_weights([np.zeros_like(each) for each in again.get_weights()])
    np.testing.assert_allclose(model(images).logits, logits, atol=2e-5)


@pytest.mark.parametrize("way", ["save_pretrained", "save", "tf.saved_model.save", "export"])
@pytest.mark.slow
def test_saved_models_of_a_model_that_was_never_called_give_its_logits(way, model_of, images, logits, tmp_path):
    model, folder = model_of("segmentation"), tmp_path / "saved"
    if way == "save_pretrained":
        model.save_pretrained(folder, saved_model=True, version=3)
        folder = folder / "saved_model" / "3"
    elif way == "tf.saved_model.save":
        tf.saved_model.save(model, str(folder))
    elif way == "export":
        model.export(str(folder), verbose=False)
    else:
        model.save(str(folder))
    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    np.testing.assert_allclose(serve(pixel_values=tf.constant(images))["logits"], logits, atol=2e-5)
    if way == "export":
        with pytest.raises(CheckpointError, match="export keeps no names of its weights"):
            TFSegformerForSemanticSegmentation.from_pretrained(folder)
    else:
        with pytest.warns(UserWarning, match="named LABEL_0"):
            again = TFSegformerForSemanticSegmentation.from_pretrained(folder, num_attention_heads=(1, 2, 3, 4))
        np.testing.assert_allclose(again(images).logits, logits, atol=2e-5)


@pytest.mark.slow
def test_tflite_converts_a_model_that_was_never_called(model_of, images, logits):
    interpreters = pytest.importorskip("ai_edge_litert.interpreter")
    content = tf.lite.TFLiteConverter.from_keras_model(model_of("segmentation")).convert()
    interpreter = interpreters.Interpreter(model_content=content)
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(taken["index"], (1, *images.shape[1:]))
    interpreter.allocate_tensors()
    interpreter.set_tensor(taken["index"], images[:1])
    interpreter.invoke()
    np.testing.assert_allclose(interpreter.get_tensor(given["index"]), logits[:1], atol=2e-5)


@pytest.mark.parametrize("name", ["x.keras", "x.weights.h5"])
def test_from_pretrained_reads_what_keras_3_writes_of_these_models(name, model, images, logits, tmp_path):
    if name == "x.keras":
        model.save(tmp_path / name)
    else:
        model.save_weights(tmp_path / name)
        model.config.save_pretrained(tmp_path)
    again = TFSegformerForSemanticSegmentation.from_pretrained(tmp_path / name)
    np.testing.assert_allclose(again(images).logits, logits, atol=2e-5)
    native = SegformerForSemanticSegmentation.from_pretrained(tmp_path / name)
    np.testing.assert_allclose(np.moveaxis(native(np.moveaxis(images, 1, -1)).numpy(), -1, 1), logits, atol=2e-5)
