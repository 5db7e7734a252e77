"""The tail of a decode head, some hidden channels at a time: the hidden map, by far the largest, is never whole."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tf_segformer.ops.channels import on_matrix
from tf_segformer.ops.portability import exporting
from tf_segformer.ops.resize import resize_bilinear
from tf_segformer.ops.sequential import run_after, sequential_fold

MAX_HIDDEN = 2**22  # entries of the hidden map that exist at once at inference: 16 MB of float32, as of B0 at 512x512

CHANNELS_AT_ONCE = 128  # of the hidden map in training; B2's has 768, and takes 100 MB at 512x512 with batch 2


def upsample_and_add(maps: Sequence[Any]) -> Any:
    """Resizes every map to the size of the first and adds them.

    Args:
        maps: Maps (B, H_i, W_i, D), the first the largest.

    Returns:
        float32 map (B, H_0, W_0, D).
    """
    height, width = ops.shape(maps[0])[1:3]
    upsampled = [ops.cast(maps[0], "float32"), *(resize_bilinear(each, height, width) for each in maps[1:])]
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.add_n(upsampled)  # one pass over the largest map instead of three
    return sum(upsampled)


def classify_maps(
    feature_maps: Sequence[Any], kernels: Sequence[Any], bias: Any, classifier_kernel: Any, classifier_bias: Any
) -> Any:
    """The whole decode head for inference: project, upsample, add, ReLU, classify.

    Where the hidden map would be large it is made a few channels at a time, each block adding to the logits: at
    1024x2048, B0's takes 134 MB, three times over while maps are added.

    Args:
        feature_maps: (B, H_i, W_i, C_i), the largest first.
        kernels: (C_i, D) a stage, as `SegformerDecodeHead.composed_weights` gives them, with the batch norm folded.
        bias: (D,).
        classifier_kernel: (D, K).
        classifier_bias: (K,).

    Returns:
        float32 logits (B, H_0, W_0, K).
    """
    dtype, hidden_size = feature_maps[0].dtype, kernels[0].shape[-1]
    blocks = _channel_blocks(math.prod(ops.shape(feature_maps[0])[:3]), hidden_size)
    size = hidden_size // blocks

    def cut(weight: Any, block: Any, axis: int) -> Any:
        """The channels of a block, along one axis of a weight."""
        weight = ops.convert_to_tensor(weight)
        starts, sizes = [0] * len(weight.shape), list(weight.shape)
        starts[axis], sizes[axis] = block * size, size
        return ops.cast(ops.slice(weight, starts, sizes), dtype)

    def add_block(block: Any, logits: Any) -> Any:
        hidden = _project_and_add(feature_maps, [cut(kernel, block, 1) for kernel in kernels], cut(bias, block, 0))
        hidden = ops.reshape(ops.relu(ops.cast(hidden, dtype)), (-1, size))
        return ops.matmul(hidden, cut(classifier_kernel, block, 0)) + logits

    logits = add_block(0, ops.cast(classifier_bias, dtype))  # (B*H_0*W_0, K)
    logits = sequential_fold(add_block, 1, blocks, logits)
    num_labels = classifier_kernel.shape[-1]
    return ops.cast(ops.reshape(logits, (*ops.shape(feature_maps[0])[:3], num_labels)), "float32")


def classify_maps_in_training(
    feature_maps: Sequence[Any],
    kernels: Sequence[Any],
    bias: Any,
    norm: keras.layers.BatchNormalization,
    dropout: keras.layers.Dropout,
    classifier: keras.layers.Dense,
) -> Any:
    """The same with batch norm and dropout as they are in training; moves the statistics of the batch norm.

    The gradient makes each block of the hidden map again, one after the other, instead of keeping some maps of it for
    each of batch norm, ReLU and dropout. The blocks are a Python loop, since moments over several devices cannot be
    taken within a loop of TensorFlow.

    Args:
        feature_maps: (B, H_i, W_i, C_i), the largest first.
        kernels: (C_i, D) a stage, without the batch norm.
        bias: (D,).
        norm: Batch norm of the hidden map. It takes the moments of the batch unless it is frozen.
        dropout: Dropout before the classifier.
        classifier: From D channels to K.

    Returns:
        float32 logits (B, H_0, W_0, K).
    """
    positions, num_labels = ops.shape(feature_maps[0])[:3], classifier.kernel.shape[-1]
    classifier_kernel = ops.cast(classifier.kernel, "float32") / (1 - dropout.rate)  # as dropout scales what it keeps
    weights = [*kernels, ops.transpose(classifier_kernel), bias]
    weights += [ops.cast(each, "float32") for each in (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)]
    logits = ops.zeros((math.prod(positions), num_labels)) + ops.cast(classifier.bias, "float32")
    moments = []
    for start in range(0, kernels[0].shape[-1], CHANNELS_AT_ONCE):
        block = [weight[..., start : start + CHANNELS_AT_ONCE] for weight in weights]
        kept = _draw_kept(dropout, (*positions, block[0].shape[-1]))
        logits, *maps = run_after(logits, *feature_maps)
        classify = keras.remat(functools.partial(_classify_channels, kept=kept, norm=norm))
        more, *moments_of_block = classify(maps, block)
        logits = logits + more
        moments.append(moments_of_block)
    if norm.trainable:
        for moving, of_blocks in zip((norm.moving_mean, norm.moving_variance), zip(*moments, strict=True), strict=True):
            moving.assign(
                ops.cast(moving, "float32") * norm.momentum + ops.concatenate(of_blocks) * (1 - norm.momentum)
            )
    return ops.reshape(logits, (*positions, num_labels))


def _classify_channels(maps: list[Any], weights: list[Any], kept: Any, norm: Any) -> tuple[Any, Any, Any]:
    """Some channels' part of the logits (B*H_0*W_0, K), and mean and variance of each channel."""
    *kernels, classifier_kernel, bias, gamma, beta, mean, variance = weights
    dtype = maps[0].dtype
    hidden = _project_and_add(maps, [ops.cast(kernel, dtype) for kernel in kernels], ops.cast(bias, dtype))
    if norm.trainable:
        mean, variance = ops.moments(hidden, axes=[0, 1, 2], synchronized=norm.synchronized)
    scale = gamma * ops.rsqrt(variance + norm.epsilon)
    hidden = ops.relu(ops.cast(hidden * scale + (beta - mean * scale), dtype))
    if kept is not None:
        hidden = ops.where(kept, hidden, ops.zeros_like(hidden))
    matrix = ops.reshape(hidden, (-1, hidden.shape[-1]))
    logits = ops.matmul(matrix, ops.transpose(ops.cast(classifier_kernel, dtype)))
    return ops.cast(logits, "float32"), mean, variance


def _draw_kept(dropout: keras.layers.Dropout, shape: tuple[Any, ...]) -> Any:
    """Which entries dropout keeps; None for all of them. Drawn apart from the gradient, which needs the same again."""
    return keras.random.uniform(shape, seed=dropout.seed_generator) >= dropout.rate if dropout.rate > 0 else None


def _channel_blocks(positions: Any, hidden_size: int) -> Any:
    """Into how many equal blocks the hidden channels are parted so that none exceeds `MAX_HIDDEN`: a power of two."""
    if exporting():
        return 1
    most = hidden_size & -hidden_size  # the largest power of two that divides them
    needed = (positions * hidden_size + MAX_HIDDEN - 1) // MAX_HIDDEN
    if isinstance(needed, int):
        return min(1 << (needed - 1).bit_length(), most)
    exponent = ops.ceil(ops.log2(ops.cast(needed, "float32")))
    return ops.minimum(ops.cast(2.0**exponent, "int32"), most)


def _project_and_add(feature_maps: Sequence[Any], kernels: Sequence[Any], bias: Any) -> Any:
    """The hidden map of all stages together, before batch norm and ReLU; float32."""
    maps = [
        on_matrix(functools.partial(ops.matmul, x2=kernel), each)
        for each, kernel in zip(feature_maps, kernels, strict=True)
    ]
    # Upsampling does not change a constant map, such as the bias: it is added where there is least to add to.
    maps[-1] = maps[-1] + bias
    return upsample_and_add(maps)
