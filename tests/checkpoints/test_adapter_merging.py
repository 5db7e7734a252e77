"""Adapters of PEFT: what cannot be merged exactly is rejected with the way out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tf_segformer.checkpoints.adapter_merging import merge_adapter, read_adapter_config
from tf_segformer.checkpoints.descriptions import foreign_fields
from tf_segformer.checkpoints.mapping import map_names
from tf_segformer.checkpoints.tensors import Checkpoint, LazyTensor
from tf_segformer.errors import CheckpointError

CONFIG = {"peft_type": "LORA", "base_model_name_or_path": "nvidia/mit-b0", "r": 2, "lora_alpha": 6}
QUERY = "segformer.encoder.block.0.0.attention.self.query"
RANDOM = np.random.default_rng(0)


def tensors(**shapes):
    return {name: LazyTensor.of(RANDOM.standard_normal(shape).astype("float32")) for name, shape in shapes.items()}


def merged(factors, **fields):
    """The query's kernel of a base, before and after an adapter of given tensors."""
    base = map_names(Checkpoint(Path("base"), tensors(**{f"{QUERY}.weight": (4, 4), f"{QUERY}.bias": (4,)})))
    adapter = Checkpoint(Path("adapter"), {f"base_model.model.{name}": tensor for name, tensor in factors.items()})
    after = merge_adapter(base, adapter, {**CONFIG, **fields})
    return base.tensors["block_0_0/attention/query/kernel"].read(), after.tensors["block_0_0/attention/query/kernel"]


@pytest.mark.parametrize(
    ("fields", "scale"),
    [
        ({}, 3.0),
        ({"use_rslora": True}, 6 / 2**0.5),
        ({"alpha_pattern": {"query": 10}}, 5.0),
        ({"alpha_pattern": {"key": 10}}, 3.0),
        ({"alpha_pattern": None}, 3.0),
        ({"lora_alpha": 7.5}, 3.75),
        ({"lora_alpha": None}, None),
        ({"lora_alpha": "6"}, None),
    ],
)
def test_the_product_is_scaled_as_peft_scales_it(fields, scale):
    factors = tensors(**{f"{QUERY}.lora_A.weight": (2, 4), f"{QUERY}.lora_B.weight": (4, 2)})
    if scale is None:
        with pytest.raises(CheckpointError, match="and rank 2 give no scale"):
            merged(factors, **fields)
        return
    before, after = merged(factors, **fields)
    first, second = (factors[f"{QUERY}.lora_{name}.weight"].read() for name in "AB")
    np.testing.assert_allclose(after.read(), before + scale * (second @ first).T, rtol=1e-6)


def test_peft_s_own_alpha_is_8():
    factors = tensors(**{f"{QUERY}.lora_A.weight": (2, 4), f"{QUERY}.lora_B.weight": (4, 2)})
    base = map_names(Checkpoint(Path("base"), tensors(**{f"{QUERY}.weight": (4, 4)})))
    after = merge_adapter(base, Checkpoint(Path("adapter"), factors), {"r": 2}).tensors
    change = after["block_0_0/attention/query/kernel"].read() - base.tensors["block_0_0/attention/query/kernel"].read()
    first, second = (factors[f"{QUERY}.lora_{name}.weight"].read() for name in "AB")
    np.testing.assert_allclose(change, 4 * (second @ first).T, rtol=1e-5, atol=1e-6)


def test_an_adapter_of_a_convolution_is_its_kernel_and_a_convolution_of_one_pixel():
    reduction = QUERY.replace("query", "sr")
    base = map_names(Checkpoint(Path("base"), tensors(**{f"{reduction}.weight": (4, 3, 2, 2)})))
    factors = tensors(**{f"{reduction}.lora_A.weight": (2, 3, 2, 2), f"{reduction}.lora_B.weight": (4, 2, 1, 1)})
    after = merge_adapter(base, Checkpoint(Path("adapter"), factors), CONFIG).tensors
    (variable,) = base.tensors
    first, second = (factors[f"{reduction}.lora_{name}.weight"].read() for name in "AB")
    change = np.einsum("or,rihw->hwio", second[:, :, 0, 0], first)  # (h, w, in, out), as Keras has it
    np.testing.assert_allclose(after[variable].read(), base.tensors[variable].read() + 3 * change, rtol=1e-5)
    factors[f"{reduction}.lora_B.weight"] = LazyTensor.of(np.ones((4, 2, 1, 2), "float32"))
    with pytest.raises(CheckpointError, match="have no product"):
        merge_adapter(base, Checkpoint(Path("adapter"), factors), CONFIG)


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({f"{QUERY}.lora_A.weight": (2, 4)}, "no pair of factors"),
        ({f"{QUERY}.lora_A.weight": (2, 4), f"{QUERY}.lora_B.weight": (4, 3)}, "have no product"),
        ({f"{QUERY}.lora_A.weight": (2, 5), f"{QUERY}.lora_B.weight": (4, 2)}, r"changes \(4, 5\), the base has"),
        ({f"{QUERY}.bias": (4,), f"{QUERY}.weight": (4, 4), "x.y": (1,)}, "x.y.*merge_and_unload"),
    ],
)
def test_an_adapter_that_does_not_fit_is_rejected(shapes, said):
    with pytest.raises(CheckpointError, match=rf"adapter: .*{said}"):
        merged(tensors(**shapes))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"use_dora": True}, "of the kind DoRA.*merge_and_unload"),
        ({"peft_type": "LOHA"}, "of the kind LOHA"),
        ({"alora_invocation_tokens": [1]}, "of the kind aLoRA"),
        ({"base_model_name_or_path": "/etc/weights"}, "'/etc/weights' is no Hub id"),
        ({"base_model_name_or_path": "../../weights"}, "is no Hub id"),
        ({"base_model_name_or_path": None}, "is no Hub id"),
    ],
)
def test_what_is_no_plain_lora_of_a_named_base_is_rejected(tmp_path, fields, said):
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**CONFIG, **fields}))
    with pytest.raises(CheckpointError, match=said):
        read_adapter_config(path)
    path.write_text(json.dumps(CONFIG))
    assert read_adapter_config(path) == CONFIG


def test_an_embedded_model_may_be_the_base_of_an_adapter(tmp_path):
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**CONFIG, "base_model_name_or_path": "camvid-b0"}))
    assert read_adapter_config(path)["base_model_name_or_path"] == "camvid-b0"


@pytest.mark.parametrize("name", ["SegFormerImageSegmenter", "SegFormerBackbone", "MiTImageClassifier", "MiTBackbone"])
def test_every_model_of_keras_hub_with_this_encoder_is_recognized(name):
    described = {"class_name": name, "config": {"layerwise_num_heads": [1, 2], "layerwise_depths": [3, 4], "depths": 2}}
    assert foreign_fields(described) == {"depths": (3, 4), "num_attention_heads": (1, 2)}
    assert foreign_fields({**described, "class_name": "ViTBackbone", "depths": 2}) is None


def test_the_config_of_another_package_is_not_taken_for_a_segformer_s():
    assert foreign_fields({"encoder_name": "mit_b2", "classes": 3}) == {}
    assert foreign_fields({"mean": [0.5], "std": [0.5]}) == {}
    assert foreign_fields({"model_type": "segformer"}) is None
    with pytest.raises(ValueError, match="its encoder is 'resnet34'"):
        foreign_fields({"encoder_name": "resnet34"})
    encoder = {"layerwise_depths": [1, 2], "layerwise_num_heads": [1, 2], "layerwise_strides": [4, "x"]}
    described = {"class_name": "SegFormerBackbone", "config": {"image_encoder": {"config": encoder}}}
    assert foreign_fields(described) == {"depths": (1, 2), "num_attention_heads": (1, 2)}
