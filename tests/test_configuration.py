"""SegformerConfig: the Hub's fields in and out, and every inconsistency named."""

from __future__ import annotations

import json

import pytest

from tf_segformer import SegformerConfig
from tf_segformer.errors import CheckpointError

HUB_FILE = {
    "architectures": ["SegformerForSemanticSegmentation"],
    "attention_probs_dropout_prob": 0.0,
    "classifier_dropout_prob": 0.1,
    "decoder_hidden_size": 256,
    "depths": [2, 2, 2, 2],
    "downsampling_rates": [1, 4, 8, 16],
    "drop_path_rate": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "hidden_sizes": [32, 64, 160, 256],
    "id2label": {"0": "wall", "1": "building", "2": "sky"},
    "image_size": 224,
    "initializer_range": 0.02,
    "label2id": {"wall": 0, "building": 1, "sky": 2},
    "layer_norm_eps": 1e-06,
    "mlp_ratios": [4, 4, 4, 4],
    "model_type": "segformer",
    "num_attention_heads": [1, 2, 5, 8],
    "num_channels": 3,
    "num_encoder_blocks": 4,
    "patch_sizes": [7, 3, 3, 3],
    "reshape_last_stage": True,
    "semantic_loss_ignore_index": 255,
    "sr_ratios": [8, 4, 2, 1],
    "strides": [4, 2, 2, 2],
    "torch_dtype": "float32",
    "transformers_version": "4.12.0.dev0",
}


def test_a_hub_file_is_read_and_written_back_field_for_field():
    config = SegformerConfig.from_dict(HUB_FILE)
    assert config.num_labels == 3 and config.id2label[1] == "building"
    assert config.to_dict() == HUB_FILE


def test_defaults_are_those_of_transformers():
    config = SegformerConfig()
    theirs = {**HUB_FILE, "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}
    unknown = {"architectures", "downsampling_rates", "image_size", "reshape_last_stage"}
    unknown |= {"torch_dtype", "transformers_version"}
    assert config.to_dict() == {name: value for name, value in theirs.items() if name not in unknown}


def test_a_folder_gives_back_what_was_saved(tmp_path):
    config = SegformerConfig.from_variant("b3", num_labels=19, block_norm_eps=1e-6, decode_head_type="mmseg")
    config.save_pretrained(tmp_path)
    assert SegformerConfig.from_pretrained(tmp_path) == config
    assert json.loads((tmp_path / "config.json").read_text())["block_norm_eps"] == 1e-6
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_token_merging_is_one_fraction_or_one_per_stage_and_written_where_it_is_on():
    config = SegformerConfig.from_dict({"token_merging": [0.5, 0.5, 0.6, 0]})
    assert config.stage_token_merging == config.token_merging == (0.5, 0.5, 0.6, 0)
    assert SegformerConfig(token_merging=0.65).stage_token_merging == (0.65,) * 4
    assert SegformerConfig.from_dict(config.to_dict()) == config
    assert json.loads(json.dumps(config.to_dict()))["token_merging"] == [0.5, 0.5, 0.6, 0]
    assert "token_merging" not in config.replace(token_merging=0.0).to_dict()


def test_variants_are_found_by_any_usual_spelling():
    assert SegformerConfig.from_variant("MiT_B5").depths == (3, 6, 40, 3)
    with pytest.raises(ValueError, match="'b6' is unknown: choose one of b0, b1, b2, b3, b4, b5"):
        SegformerConfig.from_variant("b6")
    with pytest.raises(ValueError, match="no field num_lables"):
        SegformerConfig.from_variant("b0", num_lables=3)


def test_new_labels_replace_the_old_names_and_the_same_count_keeps_them():
    config = SegformerConfig.from_dict(HUB_FILE)
    assert config.replace(num_labels=3).id2label == config.id2label
    assert config.replace(num_labels=2).id2label == {0: "LABEL_0", 1: "LABEL_1"}
    assert config.replace(id2label={0: "road"}).num_labels == 1
    assert config.replace(drop_path_rate=0.2).label2id == config.label2id


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depths": (2, 2, 2)}, r"depths=\(2, 2, 2\): must have num_encoder_blocks=4 entries"),
        ({"hidden_sizes": (32, 64, 161, 256)}, "hidden_sizes=.*has 161, not divisible by its 5 heads"),
        ({"num_attention_heads": (1, 2, 0, 8)}, "num_attention_heads=.*whole numbers from 1 to"),
        ({"sr_ratios": 8}, "sr_ratios=8: must be a list"),
        ({"strides": "4222"}, "strides='4222': must be a list"),
        ({"mlp_ratios": (4, 4, -1, 4)}, "mlp_ratios=.*above 0"),
        ({"drop_path_rate": -0.1}, "drop_path_rate=-0.1: must be at least 0 and below 1"),
        ({"classifier_dropout_prob": 1.0}, "classifier_dropout_prob=1.0"),
        ({"hidden_dropout_prob": "0.1"}, "hidden_dropout_prob='0.1'"),
        ({"hidden_act": "mish"}, "hidden_act='mish': must be one of gelu"),
        ({"decode_head_type": "other"}, "decode_head_type='other'"),
        ({"initializer_range": 0}, "initializer_range=0: must be above 0"),
        ({"decoder_hidden_size": 2.5}, "decoder_hidden_size=2.5"),
        ({"num_channels": True}, "num_channels=True"),
        ({"num_labels": 0}, "num_labels=0"),
        ({"num_labels": 2, "id2label": {0: "a", 1: "b", 2: "c"}}, "num_labels=2: disagrees with the 3 names"),
        ({"id2label": {0: "a", 2: "b"}}, "id2label=.*without a gap"),
        ({"id2label": ["a", "b"]}, "id2label=.*must map indices to names"),
        ({"semantic_loss_ignore_index": "none"}, "semantic_loss_ignore_index='none'"),
        ({"token_merging": 0.8}, "token_merging=0.8: must be from 0 to 0.75, or num_encoder_blocks=4 such numbers"),
        ({"token_merging": "0.5"}, "token_merging='0.5': must be from 0 to 0.75"),
        ({"token_merging": None}, "token_merging=None: must be from 0 to 0.75"),
        ({"token_merging": float("nan")}, "token_merging=nan: must be from 0 to 0.75"),
        (
            {"token_merging": (0.5, 0.5)},
            r"token_merging=\(0.5, 0.5\): .*=4 such numbers, one per stage",
        ),
        ({"token_merging": [0, 0, 0, -0.1]}, r"token_merging=\(0, 0, 0, -0.1\): must be"),
    ],
)
def test_an_inconsistent_field_is_named_with_its_value(fields, message):
    with pytest.raises(ValueError, match=message):
        SegformerConfig(**fields)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a usable SegFormer configuration"),
        ("[1, 2]", "holds no JSON object"),
        ('{"model_type": "bert"}', "model_type='bert': is not a SegFormer"),
        ('{"depths": [1]}', r"depths=\(1,\)"),
        ('{"depths": null}', "depths=None"),
    ],
)
def test_a_wrong_file_is_rejected_by_name(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=message) as caught:
        SegformerConfig.from_pretrained(tmp_path)
    assert "config.json" in str(caught.value)
