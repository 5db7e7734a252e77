"""The composed decode head against the head as the paper states it."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from tf_segformer import SegformerDecodeHead
from tf_segformer.loops import fold_in_turn
from tf_segformer.modeling import decode_head
from tf_segformer.modeling.decode_head import MmsegDecodeHead
from tf_segformer.resize import resize_bilinear


def random_head(head, feature_maps):
    """Builds the head and draws every weight, batch norm statistics included."""
    head(feature_maps)
    generator = np.random.default_rng(1)
    for variable in head.weights:
        if "seed" in variable.path:
            continue
        positive = variable.path.endswith(("gamma", "moving_variance"))
        draw = generator.uniform(0.5, 1.5, variable.shape) if positive else generator.normal(0, 0.2, variable.shape)
        variable.assign(draw)
    return head


@pytest.fixture
def feature_maps():
    generator = np.random.default_rng(0)
    sizes = [(25, 33, 8), (13, 17, 16), (7, 9, 24), (4, 5, 32)]
    return [ops.convert_to_tensor(generator.standard_normal((2, *size)).astype("float32")) for size in sizes]


def uncomposed(head: SegformerDecodeHead, feature_maps, training: bool):
    """Project, upsample, concatenate the last stage first, fuse, normalize, activate, classify: equation 4."""
    height, width = feature_maps[0].shape[1:3]
    projected = [
        resize_bilinear(ops.matmul(each, layer.kernel) + layer.bias, height, width)
        for each, layer in zip(feature_maps, head.linear_c, strict=True)
    ]
    fused = ops.matmul(ops.concatenate(projected[::-1], axis=-1), head.linear_fuse.kernel)
    return head.classifier(ops.relu(head.batch_norm(fused, training=training)))


@pytest.mark.parametrize("training", [False, True])
def test_composition_changes_nothing(feature_maps, training):
    head = random_head(SegformerDecodeHead(num_labels=7, hidden_size=12, dropout=0.0), feature_maps)
    statistics = [head.batch_norm.moving_mean.numpy(), head.batch_norm.moving_variance.numpy()]
    expected = ops.convert_to_numpy(uncomposed(head, feature_maps, training))
    head.batch_norm.moving_mean.assign(statistics[0])
    head.batch_norm.moving_variance.assign(statistics[1])
    logits = ops.convert_to_numpy(head(feature_maps, training=training))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("sizes", ["known", "open"])
@pytest.mark.parametrize("hidden_size", [12, 15], ids=["12 channels in 4 blocks", "15 channels in one"])
def test_blocks_of_channels_change_nothing(feature_maps, hidden_size, sizes, jit_compile, monkeypatch):
    head = random_head(SegformerDecodeHead(num_labels=7, hidden_size=hidden_size), feature_maps)
    expected = head(feature_maps).numpy()
    monkeypatch.setattr(decode_head, "MAX_HIDDEN", 2 * 25 * 33 * 4)
    folded = []
    monkeypatch.setattr(decode_head, "fold_in_turn", lambda *inputs: folded.append(inputs[2]) or fold_in_turn(*inputs))
    shapes = [each.shape if sizes == "known" else (None, None, None, each.shape[-1]) for each in feature_maps]
    run = tf.function(
        lambda *maps: head(maps), input_signature=[tf.TensorSpec(each) for each in shapes], jit_compile=jit_compile
    )
    # channels are added in another order: some roundings of the largest logit
    np.testing.assert_allclose(run(*feature_maps), expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    if sizes == "known":
        assert folded == [4 if hidden_size == 12 else 1]


def test_training_moves_the_batch_norm_statistics_as_the_uncomposed_head_does(feature_maps):
    head = random_head(SegformerDecodeHead(num_labels=7, hidden_size=12, dropout=0.0), feature_maps)
    before = [each.numpy() for each in (head.batch_norm.moving_mean, head.batch_norm.moving_variance)]
    head(feature_maps, training=True)
    composed = [each.numpy() for each in (head.batch_norm.moving_mean, head.batch_norm.moving_variance)]
    head.batch_norm.moving_mean.assign(before[0])
    head.batch_norm.moving_variance.assign(before[1])
    uncomposed(head, feature_maps, training=True)
    for ours, old, variable in zip(
        composed, before, (head.batch_norm.moving_mean, head.batch_norm.moving_variance), strict=True
    ):
        assert np.abs(ours - old).max() > 1e-3
        np.testing.assert_allclose(ours, variable.numpy(), rtol=2e-6, atol=1e-6)


def test_the_fuse_kernel_meets_the_last_stage_first(feature_maps):
    head = random_head(SegformerDecodeHead(num_labels=7, hidden_size=12, dropout=0.0), feature_maps)
    blocks = np.split(head.linear_fuse.kernel.numpy(), 4)
    blocks[0] = np.zeros_like(blocks[0])
    head.linear_fuse.kernel.assign(np.concatenate(blocks))
    before = ops.convert_to_numpy(head(feature_maps))
    without_last = [*feature_maps[:3], ops.zeros_like(feature_maps[3])]
    np.testing.assert_array_equal(ops.convert_to_numpy(head(without_last)), before)
    without_first = [ops.zeros_like(feature_maps[0]), *feature_maps[1:]]
    assert np.abs(ops.convert_to_numpy(head(without_first)) - before).max() > 1e-2


def test_the_composition_stays_float32_under_mixed_precision(feature_maps):
    head = random_head(SegformerDecodeHead(num_labels=7, hidden_size=12, dtype="mixed_bfloat16"), feature_maps)
    full = SegformerDecodeHead.from_config({**head.get_config(), "dtype": "float32"})
    full(feature_maps)
    full.set_weights([each.numpy() for each in head.weights])
    half, expected = (ops.convert_to_numpy(each(feature_maps)) for each in (head, full))
    assert half.dtype == np.float32
    # bfloat16 keeps 8 bits: inputs, composed kernels and activations are each rounded once
    np.testing.assert_allclose(half, expected, rtol=0, atol=2e-2 * np.abs(expected).max())
    assert head.linear_fuse.kernel.dtype == "float32"


def test_mmseg_head_activates_every_projection(feature_maps):
    head = random_head(MmsegDecodeHead(num_labels=7, hidden_size=12, dropout=0.0), feature_maps)
    height, width = feature_maps[0].shape[1:3]
    projected = [
        resize_bilinear(ops.relu(norm(convolution(each), training=False)), height, width)
        for each, convolution, norm in zip(feature_maps, head.convolutions, head.batch_norms, strict=True)
    ]
    fused = ops.relu(head.fusion_norm(head.fusion(ops.concatenate(projected, axis=-1)), training=False))
    expected = ops.convert_to_numpy(head.classifier(fused))
    logits = ops.convert_to_numpy(head(feature_maps))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_a_head_is_rebuilt_from_its_description(feature_maps):
    for head in (SegformerDecodeHead(7, 12), MmsegDecodeHead(7, 12)):
        again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(head))
        assert again.get_config() == head.get_config()
        assert ops.shape(again(feature_maps)) == (2, 25, 33, 7)
