"""The tables of names, tested without a model."""

import numpy as np
import pytest

from tf_segformer import SegformerConfig
from tf_segformer.checkpoints.architecture import TASK_CLASSES, variable_shapes
from tf_segformer.checkpoints.families import FAMILIES
from tf_segformer.checkpoints.layouts import to_keras, to_torch
from tf_segformer.checkpoints.names import (
    detect_family,
    is_left_out,
    keras_names,
    network_prefix,
    number_blocks_by_stage,
    source_names,
)
from tf_segformer.errors import CheckpointError

ONE_NAME_OF_EACH = {
    ("huggingface", "segformer.encoder.block.2.1.attention.self.key.weight"): ("block_2_1/attention/key/kernel",),
    ("huggingface", "encoder.layer_norm.3.bias"): ("stage_norm_3/beta",),
    ("huggingface", "decode_head.linear_fuse.weight"): ("decode_head/linear_fuse/kernel",),
    ("huggingface", "decode_head.batch_norm.running_var"): ("decode_head/batch_norm/moving_variance",),
    ("huggingface-v5", "segformer.stages.1.blocks.0.attention.sequence_reduction.layer_norm.weight"): (
        "block_1_0/attention/layer_norm/gamma",
    ),
    ("huggingface-v5", "decode_head.linear_projections.2.proj.bias"): ("decode_head/linear_c_2/bias",),
    ("huggingface-tf", "segformer.tf_model.segformer.encoder.block.0.1.mlp.dwconv.dwconv.kernel"): (
        "block_0_1/mlp/depthwise_convolution/kernel",
    ),
    ("huggingface-tf", "decode_head.decode_head.classifier.bias"): ("decode_head/classifier/bias",),
    ("huggingface-tf", "classifier.tf_model.classifier.kernel"): ("classifier/kernel",),
    ("nvlabs", "patch_embed1.proj.weight"): ("patch_embedding_0/projection/kernel",),
    ("nvlabs", "backbone.block4.2.attn.sr.bias"): ("block_3_2/attention/sequence_reduction/bias",),
    ("nvlabs", "decode_head.linear_c4.proj.weight"): ("decode_head/linear_c_3/kernel",),
    ("nvlabs", "decode_head.conv_seg.weight"): (),
    ("nvlabs", "head.bias"): ("classifier/bias",),
    ("mmseg", "backbone.layers.1.1.0.ffn.layers.4.weight"): ("block_1_0/mlp/dense_2/kernel",),
    ("mmseg", "layers.2.2.weight"): ("stage_norm_2/gamma",),
    ("mmseg", "decode_head.fusion_conv.bn.running_mean"): ("decode_head/fusion_norm/moving_mean",),
    ("mmseg", "decode_head.conv_seg.weight"): ("decode_head/classifier/kernel",),
    ("smp", "encoder.norm2.weight"): ("stage_norm_1/gamma",),
    ("smp", "segmentation_head.0.bias"): ("decode_head/classifier/bias",),
    ("keras", "segformer_model.overlap_patch_embedding.layer_norm.1"): ("patch_embedding_0/layer_norm/beta",),
    ("keras", "block_2_1.attention.key.0"): ("block_2_1/attention/key/kernel",),
    ("keras", "segformer_decode_head.linear_c.linear_weights_3.1"): ("decode_head/linear_c_3/bias",),
    ("keras", "mmseg_decode_head.batch_norms.batch_normalization.3"): ("decode_head/batch_norm_0/moving_variance",),
    ("keras", "dense.0"): ("classifier/kernel",),
    ("keras-hub", "seg_former_backbone.functional.layer_normalization.0"): ("stage_norm_0/gamma",),
    ("keras-hub", "seg_former_backbone.sequential.conv2d.0"): ("decode_head/linear_fuse/kernel",),
    ("keras-hub", "conv2d.1"): ("decode_head/classifier/bias",),
}


@pytest.mark.parametrize(("family", "name"), ONE_NAME_OF_EACH)
def test_a_name_of_every_family_becomes_a_variable(family, name):
    assert keras_names(family, name) == ONE_NAME_OF_EACH[family, name]


def test_keys_stand_before_values_in_the_fused_tensor_of_nvlabs():
    assert keras_names("nvlabs", "block2.1.attn.kv.weight") == (
        "block_1_1/attention/key/kernel",
        "block_1_1/attention/value/kernel",
    )


def test_query_key_value_is_the_order_in_the_fused_tensor_of_mmsegmentation():
    assert keras_names("mmseg", "backbone.layers.0.1.1.attn.attn.in_proj_weight") == (
        "block_0_1/attention/query/kernel",
        "block_0_1/attention/key/kernel",
        "block_0_1/attention/value/kernel",
    )


@pytest.mark.parametrize(
    ("family", "template"), [("smp", "decoder.mlp_stage.{}.linear.bias"), ("keras-hub", "dense_{}.1")]
)
def test_projections_of_the_head_are_numbered_from_the_last_stage(family, template):
    for index in range(4):
        assert keras_names(family, template.format(index)) == (f"decode_head/linear_c_{3 - index}/bias",)


def test_numbered_batches_are_known_and_unused():
    assert keras_names("huggingface", "decode_head.batch_norm.num_batches_tracked") == ()


@pytest.mark.parametrize(
    "name", ["", "weight", "encoder.block.0.0.attention.self.query.scale", "block1.0.attn.q.weight.x"]
)
def test_a_name_of_no_family_is_unknown(name):
    assert all(keras_names(family, name) is None for family in FAMILIES)


@pytest.mark.parametrize("family", ["huggingface", "nvlabs"])
@pytest.mark.parametrize("task", TASK_CLASSES)
def test_written_names_are_read_back_as_the_same_variables(family, task):
    variables = list(variable_shapes(SegformerConfig(num_labels=3), task))
    names = source_names(family, variables)
    read = [variable for name in names for variable in keras_names(family, name)]
    assert sorted(read) == sorted(variables)
    assert detect_family(names) == family


def test_hugging_face_has_208_tensors_for_b0_and_1172_for_b5():
    for variant, count in (("b0", 208), ("b1", 208), ("b2", 380), ("b3", 644), ("b4", 930), ("b5", 1172)):
        names = source_names("huggingface", variable_shapes(SegformerConfig.from_variant(variant), "segmentation"))
        assert len(names) + 1 == count  # and num_batches_tracked


def test_only_a_segmentation_checkpoint_of_nvlabs_has_a_backbone():
    for task, name in (("encoder", "norm1"), ("classification", "norm1"), ("segmentation", "backbone.norm1")):
        assert f"{name}.weight" in source_names("nvlabs", variable_shapes(SegformerConfig(), task))


def test_nvlabs_has_no_name_for_the_head_of_mmsegmentation():
    shapes = variable_shapes(SegformerConfig(decode_head_type="mmseg"), "segmentation")
    with pytest.raises(CheckpointError, match=r"decode_head/\w+.*cannot be written"):
        source_names("nvlabs", shapes)


def test_an_unknown_family_is_rejected_with_its_first_names_and_the_families():
    with pytest.raises(CheckpointError, match=r"conv1\.weight.*Hugging Face.*NVlabs.*mmsegmentation.*keras-hub"):
        detect_family(["conv1.weight", "layer1.0.bn1.bias"])
    with pytest.raises(CheckpointError, match="no tensor at all"):
        detect_family([])


def test_a_pvt_of_timm_is_rejected_by_name():
    names = ["patch_embed.proj.weight", "stages.0.blocks.0.attn.q.weight", "stages.0.blocks.0.attn.kv.weight"]
    with pytest.raises(CheckpointError, match="PVTv2 of timm"):
        detect_family(names)


@pytest.mark.parametrize(
    ("variable", "shape"),
    [
        ("patch_embedding_0/projection/kernel", (7, 7, 3, 5)),
        ("block_0_0/attention/sequence_reduction/kernel", (2, 2, 5, 6)),
        ("block_0_0/mlp/depthwise_convolution/kernel", (3, 3, 8, 1)),
        ("block_0_0/mlp/dense_1/kernel", (4, 6)),
        ("decode_head/linear_fuse/kernel", (12, 3)),
        ("decode_head/classifier/kernel", (3, 2)),
        ("classifier/kernel", (3, 2)),
        ("stage_norm_0/gamma", (4,)),
    ],
)
def test_layouts_of_pytorch_and_keras_are_inverse(variable, shape):
    values = np.random.default_rng(0).standard_normal(shape)
    np.testing.assert_array_equal(to_keras(to_torch([values], [variable]), variable, "torch"), values)


def test_stacked_rows_are_parted_in_order():
    variables = ["block_0_0/attention/key/kernel", "block_0_0/attention/value/kernel"]
    key, value = np.random.default_rng(0).standard_normal((2, 3, 3))
    stacked = to_torch([key, value], variables)
    assert stacked.shape == (6, 3)
    np.testing.assert_array_equal(stacked[:3], key.T)
    np.testing.assert_array_equal(to_keras(stacked, variables[1], "torch", part=1, parts=2), value)


@pytest.mark.parametrize("shape", [(), (3,), (3, 4, 5), (2, 2, 3, 4, 5)])
def test_a_tensor_of_other_dimensions_comes_back_as_it_is(shape):
    values = np.zeros(shape)
    for variable in ("classifier/kernel", "stage_norm_0/gamma", "patch_embedding_0/projection/kernel"):
        for layout in ("torch", "keras"):
            assert to_keras(values, variable, layout).shape == shape


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        (["segformer.encoder.patch_embeddings.0.proj.weight"], ""),
        (["model.net.segformer.encoder.patch_embeddings.0.proj.weight", "model.other.weight"], "model.net."),
        (["net.encoder.patch_embed1.proj.weight"], "net."),
        (["my_mit.patch_embed1.proj.weight", "my_head.weight"], "my_mit."),
        (["ema_model.layers.0.0.projection.weight", "model.layers.0.0.projection.weight"], "model."),
        (["teacher.stages.0.patch_embeddings.proj.weight"], "teacher."),
        (["decode_head.classifier.weight"], ""),
    ],
)
def test_the_network_is_found_in_a_larger_object(names, prefix):
    assert network_prefix(names) == prefix


def test_two_networks_in_one_file_are_rejected():
    with pytest.raises(CheckpointError, match=r"several SegFormers.*first\., second\."):
        network_prefix([f"{name}.patch_embed1.proj.weight" for name in ("first", "second")])


def test_what_training_keeps_next_to_a_network_is_left_out():
    names = ["criterion.weight", "loss_fn.pos_weight", "train_metrics.MeanMetric.value", "auxiliary_head.conv_seg.bias"]
    assert all(map(is_left_out, names))
    assert not any(is_left_out(name) for family, name in ONE_NAME_OF_EACH if family != "keras-hub")


def test_stages_of_one_width_are_told_apart_by_their_reductions():
    shapes = {f"overlap_patch_embedding_{stage}.layer_norm.0".replace("_0.", "."): (8,) for stage in range(2)}
    shapes |= {f"transformer_block_{block}.layer_norm_1.0".replace("_0.", "."): (8,) for block in range(3)}
    with pytest.raises(CheckpointError, match=r"two stages of one form.*config="):
        number_blocks_by_stage(shapes)
    shapes["transformer_block.attention.sequence_reduction.0"] = (2, 2, 8, 8)
    numbered = number_blocks_by_stage(shapes)
    assert numbered["transformer_block_1.layer_norm_1.0"] == "block_1_0.layer_norm_1.0"
    assert numbered["transformer_block_2.layer_norm_1.0"] == "block_1_1.layer_norm_1.0"
    numbered = number_blocks_by_stage(shapes, depths=(2, 1))
    assert numbered["transformer_block_1.layer_norm_1.0"] == "block_0_1.layer_norm_1.0"
