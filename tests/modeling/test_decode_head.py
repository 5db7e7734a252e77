"""The composed decode head against the head as the paper states it."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from tf_segformer import SegformerDecodeHead
from tf_segformer.modeling.decode_head import MmsegDecodeHead
from tf_segformer.ops import chunked_head
from tf_segformer.ops.resize import resize_bilinear
from tf_segformer.ops.sequential import sequential_fold


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


def gradients(classify, head, feature_maps):
    """Of a sum of squares of the logits, by every weight and feature map."""
    with tf.GradientTape() as tape:
        tape.watch(feature_maps)
        loss = tf.reduce_sum(classify(feature_maps) ** 2)
    return tape.gradient(loss, [*head.trainable_variables, *feature_maps])


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["graph", "xla"])
@pytest.mark.parametrize("frozen", [False, True], ids=["batch norm trains", "batch norm is frozen"])
def test_training_by_blocks_of_channels_has_the_gradients_of_the_uncomposed_head(
    feature_maps, frozen, jit_compile, monkeypatch
):
    monkeypatch.setattr(chunked_head, "CHANNELS_AT_ONCE", 5)  # 12 channels are 5, 5 and 2
    head = random_head(SegformerDecodeHead(num_labels=7, hidden_size=12, dropout=0.0), feature_maps)
    head.batch_norm.trainable = not frozen
    expected = gradients(functools.partial(uncomposed, head, training=True), head, feature_maps)
    classify = functools.partial(head, training=True)
    train = tf.function(functools.partial(gradients, classify, head), jit_compile=jit_compile)
    names = [*(each.path for each in head.trainable_variables), *range(4)]
    for name, ours, theirs in zip(names, train(feature_maps), expected, strict=True):
        # before a batch norm that trains, a bias changes nothing: its gradient is what roundings leave
        largest = np.abs(theirs).max() if frozen or "linear_c" not in str(name) else np.abs(expected[0]).max()
        # sums over 1650 positions in another order: some tens of roundings of the largest
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * largest, err_msg=name)


def test_a_frozen_batch_norm_is_that_of_inference(feature_maps):
    head = random_head(SegformerDecodeHead(num_labels=7, hidden_size=12, dropout=0.0), feature_maps)
    head.batch_norm.trainable = False
    before = head.batch_norm.moving_mean.numpy()
    expected = head(feature_maps).numpy()
    logits = head(feature_maps, training=True).numpy()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    np.testing.assert_array_equal(head.batch_norm.moving_mean.numpy(), before)


@pytest.mark.parametrize("head_class", [SegformerDecodeHead, MmsegDecodeHead])
def test_dropout_scales_what_it_keeps_and_its_gradient_keeps_the_same(feature_maps, head_class):
    head = random_head(head_class(num_labels=12, hidden_size=12, dropout=0.25), feature_maps)
    head.classifier.kernel.assign(np.eye(12))  # the logits are the hidden map
    head.classifier.bias.assign(np.zeros(12))
    without = head_class.from_config({**head.get_config(), "dropout": 0.0})
    without(feature_maps)
    for ours, theirs in zip(
        without.variables, (each for each in head.variables if "seed" not in each.path), strict=True
    ):
        ours.assign(theirs)
    hidden = without(feature_maps, training=True).numpy()
    with tf.GradientTape() as tape:
        dropped = head(feature_maps, training=True)
        loss = tf.reduce_sum(dropped)
    dropped, slope = dropped.numpy(), tape.gradient(loss, head.classifier.kernel).numpy()
    kept = dropped > 0
    assert 0.72 < kept[hidden > 0].mean() < 0.78  # 10,000 entries: three standard stds are 0.013
    # the scale is taken in the classifier's kernel: a few roundings; of a sum of 1650, some more
    np.testing.assert_allclose(dropped[kept], hidden[kept] / 0.75, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(slope[:, 0], dropped.sum((0, 1, 2)), rtol=1e-5)
    assert np.abs(head(feature_maps, training=True).numpy() - dropped).max() > 0.1, "drawn once and for all"


def test_no_hidden_map_is_whole_in_a_training_step(feature_maps, monkeypatch):
    monkeypatch.setattr(chunked_head, "CHANNELS_AT_ONCE", 8)
    head = random_head(SegformerDecodeHead(num_labels=3, hidden_size=48, dropout=0.1), feature_maps)
    classify = functools.partial(head, training=True)
    train = tf.function(functools.partial(gradients, classify, head))
    operations = train.get_concrete_function(feature_maps).graph.get_operations()
    sizes = [each.shape.num_elements() or 0 for operation in operations for each in operation.outputs]
    assert max(sizes) == 2 * 25 * 33 * 8


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["graph", "xla"])
@pytest.mark.parametrize("sizes", ["known", "open"])
@pytest.mark.parametrize("hidden_size", [12, 15], ids=["12 channels in 4 blocks", "15 channels in one"])
def test_blocks_of_channels_change_nothing(feature_maps, hidden_size, sizes, jit_compile, monkeypatch):
    head = random_head(SegformerDecodeHead(num_labels=7, hidden_size=hidden_size), feature_maps)
    expected = head(feature_maps).numpy()
    monkeypatch.setattr(chunked_head, "MAX_HIDDEN", 2 * 25 * 33 * 4)
    folded = []
    monkeypatch.setattr(
        chunked_head, "sequential_fold", lambda *inputs: folded.append(inputs[2]) or sequential_fold(*inputs)
    )
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
    fused = ops.matmul(ops.concatenate(projected, axis=-1), head.fusion.kernel)
    fused = ops.relu(head.fusion_norm(fused, training=False))
    expected = ops.convert_to_numpy(head.classifier(fused))
    logits = ops.convert_to_numpy(head(feature_maps))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_moving_statistics_take_a_tenth_of_each_batch_as_torch_does(feature_maps):
    head = MmsegDecodeHead(num_labels=7, hidden_size=12, dropout=0.0)
    head(feature_maps)
    head(feature_maps, training=True)
    projected = ops.convert_to_numpy(head.convolutions[0](feature_maps[0]))
    moving_mean = ops.convert_to_numpy(head.batch_norms[0].moving_mean)
    np.testing.assert_allclose(moving_mean, 0.1 * projected.mean((0, 1, 2)), rtol=1e-4, atol=1e-7)
    moving_variance = ops.convert_to_numpy(head.batch_norms[0].moving_variance)
    np.testing.assert_allclose(moving_variance, 0.9 + 0.1 * projected.var((0, 1, 2)), rtol=1e-2)  # torch's is unbiased


def test_a_new_head_has_the_kernels_of_the_paper_s_code(feature_maps):
    head = SegformerDecodeHead(num_labels=150, hidden_size=256)
    head(feature_maps)
    assert 0.019 < np.std(ops.convert_to_numpy(head.classifier.kernel)) < 0.021


def test_a_head_is_rebuilt_from_its_description(feature_maps):
    for head in (SegformerDecodeHead(7, 12), MmsegDecodeHead(7, 12)):
        again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(head))
        assert again.get_config() == head.get_config()
        assert ops.shape(again(feature_maps)) == (2, 25, 33, 7)
