"""Low-rank adapters: what is trained, that they merge into a checkpoint bit by bit, and that they are kept alone."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest

from tests.modeling.test_models import TWO_STAGES
from tf_segformer import SegformerForSemanticSegmentation
from tf_segformer.checkpoints.formats.safetensors import read_safetensors
from tf_segformer.errors import CheckpointError
from tf_segformer.modeling.quantization import dense_layers

CONFIG = TWO_STAGES.replace(initializer_range=0.2, drop_path_rate=0.0)
PIXELS = np.random.default_rng(0).standard_normal((2, 12, 16, 3)).astype("float32")
LABELS = np.random.default_rng(1).integers(0, 3, (2, 6, 8))  # of the size of the logits


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The folder of a pretrained model."""
    folder = tmp_path_factory.mktemp("base")
    keras.utils.set_random_seed(0)
    SegformerForSemanticSegmentation(CONFIG).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(base):
    """A model whose adapters were trained for two steps."""
    model = SegformerForSemanticSegmentation.from_pretrained(base)
    model.enable_lora(2, alpha=4)
    model.compile(keras.optimizers.Adam(0.05), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(PIXELS, LABELS, epochs=2, verbose=0)
    return model


def test_adapters_and_the_classifier_alone_are_trained(base, trained):
    layers = dense_layers(trained)
    names = {f"{place}/lora_kernel_{side}" for place in layers if "attention" in place for side in "ab"}
    found = {variable.path for variable in trained.trainable_variables}
    assert found == names | {"decode_head/classifier/kernel", "decode_head/classifier/bias"}
    before = SegformerForSemanticSegmentation.from_pretrained(base)
    frozen = {variable.path: variable.numpy() for variable in before.weights}  # statistics of the batch norm, too
    for variable in trained.non_trainable_variables:
        if variable.path in frozen:
            np.testing.assert_array_equal(variable, frozen[variable.path])
    assert np.abs(trained(PIXELS) - before(PIXELS)).max() > 0.01
    assert all(np.abs(layers[place].lora_kernel_b).max() > 0 for place in layers if "attention/value" in place)


def test_a_checkpoint_of_it_is_merged_bit_by_bit(trained, tmp_path):
    trained.save_pretrained(tmp_path)
    again = SegformerForSemanticSegmentation.from_pretrained(tmp_path)
    np.testing.assert_array_equal(again(PIXELS), trained(PIXELS))
    trained.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", compile=False)  # its optimizer has other variables
    np.testing.assert_array_equal(again(PIXELS), trained(PIXELS))


def test_the_adapter_alone_comes_back_on_its_base(base, trained, tmp_path):
    trained.save_lora(tmp_path, base_model="owner/base")
    tensors = read_safetensors(tmp_path / "adapter_model.safetensors").tensors
    name = "base_model.model.segformer.encoder.block.0.0.attention.self.query.lora_A.weight"
    assert tensors[name].shape == (2, 6)  # as PEFT has it: (rank, in)
    assert len(tensors) == 2 * 4 * 2 + 2
    fields = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (fields["r"], fields["lora_alpha"], fields["base_model_name_or_path"]) == (2, 4, "owner/base")
    assert fields["modules_to_save"] == ["decode_head.classifier"]
    again = SegformerForSemanticSegmentation.from_pretrained(base)
    for _ in range(2):  # onto a model without adapters, and onto one that has them
        again.load_lora(tmp_path)
        np.testing.assert_array_equal(again(PIXELS), trained(PIXELS))
    assert {each.path for each in again.trainable_variables} == {each.path for each in trained.trainable_variables}


def test_an_adapter_of_another_model_is_rejected_and_nothing_is_loaded(trained, tmp_path):
    trained.save_lora(tmp_path)
    model = SegformerForSemanticSegmentation(CONFIG.replace(num_labels=4))
    with pytest.raises(CheckpointError, match=r"(?s)nothing was loaded.*classifier/bias: \(3,\), the model has \(4,\)"):
        model.load_lora(tmp_path)
    assert not any(layer.lora_enabled for layer in dense_layers(model).values())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"use_dora": True}, "adapters with use_dora are not read"),
        ({"use_rslora": True}, "adapters with use_rslora are not read"),
        ({"fan_in_fan_out": True}, "adapters with fan_in_fan_out are not read"),
        ({"rank_pattern": {"query": 4}}, "adapters with rank_pattern are not read"),
        ({"alpha_pattern": {"query": 4}}, "adapters with alpha_pattern are not read"),
        ({"peft_type": "IA3"}, "adapters with IA3 are not read"),
        ({"r": 3}, r"lora_kernel_a is \(\d+, 2\), the model takes \(\d+, 3\)"),
    ],
)
def test_adapters_of_another_kind_are_rejected(base, trained, tmp_path, changed, said):
    trained.save_lora(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    with pytest.raises(CheckpointError, match=said):
        SegformerForSemanticSegmentation.from_pretrained(base).load_lora(tmp_path)


@pytest.mark.parametrize("content", ["[]", "{", '{"peft_type": ' + "[" * 100_000])
def test_a_damaged_adapter_config_is_rejected(trained, tmp_path, content):
    trained.save_lora(tmp_path)
    (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"no readable adapter_config\.json"):
        trained.load_lora(tmp_path)


def test_norms_that_were_trained_as_well_come_back(base, tmp_path):
    model = SegformerForSemanticSegmentation.from_pretrained(base)
    model.enable_lora(2, ["attention/query", "mlp/dense_1"], also_train=["classifier", "norm"])
    model.compile(keras.optimizers.Adam(0.05), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(PIXELS, LABELS, verbose=0)
    model.save_lora(tmp_path)
    again = SegformerForSemanticSegmentation.from_pretrained(base)
    again.load_lora(tmp_path)
    np.testing.assert_array_equal(again(PIXELS), model(PIXELS))


def test_layers_are_chosen_by_their_place():
    model = SegformerForSemanticSegmentation(CONFIG)
    with pytest.raises(ValueError, match=r"match no dense layer, such as"):
        model.enable_lora(2, layers=["nonsense"])
    model.enable_lora(2, layers=["block_1_0/mlp"], also_train=[])
    enabled = {place for place, layer in dense_layers(model).items() if layer.lora_enabled}
    assert enabled == {"block_1_0/mlp/dense_1", "block_1_0/mlp/dense_2"}
    assert len(model.trainable_variables) == 4
    with pytest.raises(CheckpointError, match="no adapters"):
        SegformerForSemanticSegmentation(CONFIG).save_lora("nowhere")
