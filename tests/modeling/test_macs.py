"""Multiply-accumulates against the published figures and against the stages that the model really has."""

from __future__ import annotations

import numpy as np
import pytest

from tf_segformer.configuration import SegformerConfig
from tf_segformer.modeling.macs import classification_macs, encoder_macs, segmentation_macs, stage_sizes

GMACS = {  # 512x512, 150 classes: as the reference runs the head, as this project does
    "b0": (8.4, 4.1),
    "b1": (15.9, 11.6),
    "b2": (62.3, 23.7),
    "b3": (79.0, 40.3),
    "b4": (95.6, 56.9),
    "b5": (111.5, 72.9),
}


@pytest.mark.parametrize("variant", GMACS)
def test_cost_of_the_published_variants(variant):
    config = SegformerConfig.from_variant(variant, num_labels=150)
    counted = [segmentation_macs(config, composed_head=composed) / 1e9 for composed in (False, True)]
    assert tuple(np.round(counted, 1)) == GMACS[variant]


def test_mmseg_head_saves_only_the_resolution():
    config = SegformerConfig.from_variant("b0", decode_head_type="mmseg")
    segformer = SegformerConfig.from_variant("b0")
    assert segmentation_macs(segformer) < segmentation_macs(config) < segmentation_macs(config, composed_head=False)


def test_classification_adds_one_linear_map():
    config = SegformerConfig.from_variant("b0", num_labels=1000)
    assert classification_macs(config) == encoder_macs(config, (224, 224)) + 256 * 1000


def test_merged_tokens_save_their_query_and_output_projections_and_products():
    config = SegformerConfig.from_variant("b0", depths=(1, 1, 1, 1))
    merging = config.replace(token_merging=(0.5, 0, 0, 0))
    tokens, keys, channels = 128 * 128, 16 * 16, 32  # stage 1 of 512x512
    saved = tokens // 2 * (2 * channels**2 + 2 * keys * channels)
    assert encoder_macs(merging) == encoder_macs(config) - saved


@pytest.mark.parametrize("size", [(64, 96), (97, 131), (3, 5)])
def test_stage_sizes_are_those_of_the_model(size):
    from tf_segformer.modeling.models import SegformerModel

    config = SegformerConfig(depths=(1, 1, 1, 1), hidden_sizes=(4, 8, 20, 32))
    states = SegformerModel(config, output_hidden_states=True)(np.zeros((1, *size, 3), "float32"))["hidden_states"]
    assert stage_sizes(config, size) == [tuple(each.shape[1:3]) for each in states]
