"""Blocks whose gradients compute attention and Mix-FFN again: the same values and gradients, kept in the config."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.reference import random_weights
from tf_segformer import SegformerForImageClassification, SegformerForSemanticSegmentation, SegformerModel
from tf_segformer.modeling.layers import TransformerBlock

STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def step(block, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(block(x, training=True) ** 2)
    return [loss, *tape.gradient(loss, [x, *(weight.value for weight in block.trainable_weights)])]


@pytest.mark.parametrize("reduction", [1, 2])
def test_values_and_gradients_are_those_of_the_plain_block(reduction):
    x = tf.constant(np.random.default_rng(0).standard_normal((2, 4, 6, 8)).astype("float32"))
    blocks = [TransformerBlock(8, 2, reduction, rematerialize=again) for again in (False, True)]
    for block in blocks:
        block(x)
    random_weights(blocks[0])
    blocks[1].set_weights(blocks[0].get_weights())
    plain, again = (tf.function(lambda x, block=block: step(block, x)) for block in blocks)
    expected = plain(x)
    largest = max(np.abs(each).max() for each in expected[1:])  # of a key's bias the gradient is what roundings leave
    for ours, theirs in zip(again(x), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=2e-6 * largest)
    convolutions = [
        sum(each.type == "DepthwiseConv2dNative" for each in run.get_concrete_function(x).graph.get_operations())
        for run in (plain, again)
    ]
    assert convolutions == [1, 2]  # the gradient runs it again


@pytest.mark.parametrize("task", [SegformerModel, SegformerForImageClassification, SegformerForSemanticSegmentation])
def test_the_models_hand_it_to_every_block_and_keep_it(task, small_config):
    model = task(small_config.replace(**STILL), rematerialize=True)
    for again in (model, task.from_config(model.get_config())):
        encoder = again if task is SegformerModel else again.segformer
        assert [layer.rematerialize for layer in encoder.layers if isinstance(layer, TransformerBlock)] == [True] * 5
        assert again.get_config()["rematerialize"] is True
    assert task(small_config).get_config()["rematerialize"] is False


@pytest.mark.parametrize("field", STILL)
def test_dropout_within_is_rejected(field, small_config):
    with pytest.raises(ValueError, match="would sample another dropout"):
        SegformerForSemanticSegmentation(small_config.replace(**{**STILL, field: 0.1}), rematerialize=True)


@pytest.mark.parametrize("rematerialize", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_fit_traces_its_step_once(rematerialize, small_config, pixel_values):
    traced = []

    def loss(labels, logits):
        traced.append(1)
        return tf.reduce_mean(logits**2)

    model = SegformerForSemanticSegmentation(small_config.replace(**STILL), rematerialize=rematerialize)
    model.compile(keras.optimizers.Adam(1e-3), loss=loss, jit_compile=False)
    model.fit(pixel_values, np.zeros((2, 17, 25), "int32"), batch_size=2, epochs=2, verbose=0)
    assert len(traced) == 1


def test_weights_thawed_after_compile_are_trained(small_config, pixel_values):
    model = SegformerForSemanticSegmentation(small_config.replace(drop_path_rate=0.0))
    model.segformer.trainable = False
    model.compile(keras.optimizers.Adam(1e-3), loss=lambda labels, logits: tf.reduce_mean(logits**2))
    model.segformer.trainable = True
    kernel = model.segformer.get_layer("block_0_0").mlp.dense_1.kernel
    before = kernel.numpy()
    model.train_on_batch(pixel_values, np.zeros((2, 17, 25), "int32"))
    assert np.abs(kernel.numpy() - before).max() > 0
