"""Checkpoints in h5: Hugging Face's TensorFlow, keras-hub's, and this project's own."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tests.checkpoints import keras_hub_reference
from tests.checkpoints.make_fixtures import FOLDER
from tf_segformer import (
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerModel,
)
from tf_segformer.checkpoints.mapping import map_names
from tf_segformer.checkpoints.readers import read_checkpoint
from tf_segformer.checkpoints.saving import model_tensors
from tf_segformer.errors import CheckpointError


def randomize(model: keras.Model) -> None:
    """Fills every variable with values that matter."""
    random = np.random.default_rng(0)
    for variable in model.weights:
        if "seed_generator" in variable.path:
            continue
        values = random.standard_normal(variable.shape)
        if variable.path.endswith(("gamma", "moving_variance")):
            variable.assign(1 + 0.3 * np.abs(values))
        else:
            fan_in = max(np.prod(variable.shape[:-1]), 4) if len(variable.shape) > 1 else 12
            variable.assign(values * (1 / fan_in) ** 0.5)


def test_tf_model_h5_of_transformers_gives_its_outputs():
    expected = np.load(FOLDER / "tf" / "expected.npz")
    model = SegformerForSemanticSegmentation.from_pretrained(FOLDER / "tf")
    logits = np.asarray(model(expected["pixel_values"].transpose(0, 2, 3, 1))).transpose(0, 3, 1, 2)
    assert np.abs(logits - expected["logits"]).max() < 2e-5 * np.abs(expected["logits"]).max()
    encoder = SegformerModel.from_pretrained(FOLDER / "tf")
    np.testing.assert_array_equal(encoder.get_weights()[0], model.segformer.get_weights()[0])


@pytest.mark.filterwarnings("ignore:.*are named LABEL_0")
def test_weights_of_keras_hub_give_its_outputs(tmp_path):
    network = keras_hub_reference.segmenter((1, 3, 1, 2), (64, 96), head_width=24, num_labels=5)
    randomize(network)
    network.save_weights(tmp_path / "task.weights.h5")
    image = np.random.default_rng(1).standard_normal((1, 64, 96, 3)).astype("float32")
    expected = np.asarray(network(image, training=False))
    model = SegformerForSemanticSegmentation.from_pretrained(tmp_path / "task.weights.h5")
    assert np.abs(np.asarray(model(image)) - expected).max() < 2e-5 * np.abs(expected).max()
    assert (model.config.depths, model.config.hidden_act) == ((1, 3, 1, 2), "gelu_pytorch_tanh")
    encoder = model.segformer
    assert (
        encoder.get_layer("stage_norm_2").epsilon == encoder.get_layer("patch_embedding_2").layer_norm.epsilon == 1e-5
    )
    assert encoder.get_layer("block_2_0").layer_norm_1.epsilon == 1e-6


@pytest.mark.filterwarnings("ignore:.*are named LABEL_0")
def test_a_swapped_order_of_the_fuse_kernel_of_keras_hub_would_be_seen(tmp_path):
    network = keras_hub_reference.segmenter((1, 1, 1, 1), (64, 64), head_width=8, num_labels=5)
    randomize(network)
    kernel = next(variable for variable in network.weights if tuple(variable.shape) == (1, 1, 32, 8))
    image = np.random.default_rng(1).standard_normal((1, 64, 64, 3)).astype("float32")
    expected = np.asarray(network(image, training=False))
    kernel.assign(np.concatenate(np.split(np.asarray(kernel), 4, axis=2)[::-1], axis=2))
    network.save_weights(tmp_path / "task.weights.h5")
    model = SegformerForSemanticSegmentation.from_pretrained(tmp_path / "task.weights.h5")
    assert np.abs(np.asarray(model(image)) - expected).max() > 1e-3 * np.abs(expected).max()


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5", ".h5"])
@pytest.mark.parametrize(
    ("model_class", "head"),
    [
        (SegformerModel, "segformer"),
        (SegformerForImageClassification, "segformer"),
        (SegformerForSemanticSegmentation, "segformer"),
        (SegformerForSemanticSegmentation, "mmseg"),
    ],
)
def test_files_of_keras_are_read_bit_for_bit(tmp_path, small_config, suffix, model_class, head):
    config = small_config.replace(decode_head_type=head, block_norm_eps=1e-6)
    model = model_class(config)
    randomize(model)
    path = tmp_path / f"model{suffix}"
    (model.save_weights if suffix == ".weights.h5" else model.save)(path)
    checkpoint = read_checkpoint(path)
    read = map_names(checkpoint).tensors
    for name, tensor in model_tensors(model).items():
        np.testing.assert_array_equal(read[name].read(), tensor.read())
    if suffix == ".keras":
        loaded = model_class.from_pretrained(path)
        assert loaded.config.to_dict() == config.to_dict()
        np.testing.assert_array_equal(loaded.get_weights()[-1], model.get_weights()[-1])


def test_the_state_of_optimizer_and_dropout_in_a_file_of_keras_is_left_out(tmp_path, small_config):
    model = SegformerForSemanticSegmentation(small_config.replace(hidden_dropout_prob=0.1))
    model.compile("adamw")
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "model.keras")
    loaded = SegformerForSemanticSegmentation.from_pretrained(tmp_path / "model.keras")
    for first, second in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_a_weights_file_of_unpublished_widths_asks_for_its_configuration(tmp_path, small_config):
    SegformerModel(small_config).save_weights(tmp_path / "tiny.weights.h5")
    with pytest.raises(CheckpointError, match=r"\(8, 16, 24, 32\).*config\.json"):
        SegformerModel.from_pretrained(tmp_path / "tiny.weights.h5")
    SegformerConfig.save_pretrained(small_config, tmp_path)
    assert SegformerModel.from_pretrained(tmp_path / "tiny.weights.h5").config.depths == small_config.depths
