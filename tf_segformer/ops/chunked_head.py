"""The tail of a decode head: project, upsample, add, normalize, ReLU, classify; the hidden features are never whole.

They are the largest map of the network by far: 100 MB for two images of 512x512 in B2, and three times that while maps
are added. On a CPU, TensorFlow makes some channels of them at a time, each chunk adding to the logits.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tf_segformer.ops import tracing
from tf_segformer.ops.dense import apply_to_tokens
from tf_segformer.ops.resize import resize_bilinear
from tf_segformer.ops.sequential import run_after, sequential_fold

MAX_HIDDEN = 2**22  # elements of the hidden features at once at inference: 16 MB of float32, as of B0 at 512x512

CHANNELS_AT_ONCE = 128  # of the hidden features in training; B2 has 768


def upsample_and_add(maps: Sequence[Any]) -> Any:
    """Resizes every map to the size of the first and adds them.

    Args:
        maps: Maps (B, H_i, W_i, D), the first the largest.

    Returns:
        float32 map (B, H_0, W_0, D).

    Example:
        >>> float(upsample_and_add([ops.ones((1, 4, 4, 1)), ops.ones((1, 2, 2, 1))])[0, 0, 0, 0])
        2.0
    """
    height, width = ops.shape(maps[0])[1:3]
    upsampled = [ops.cast(maps[0], "float32"), *(resize_bilinear(each, height, width) for each in maps[1:])]
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.add_n(upsampled)  # one pass over the largest map instead of three
    return sum(upsampled)


def fused_head(features: Sequence[Any], kernels: Sequence[Any], bias: Any, classifier: keras.layers.Dense) -> Any:
    """The head for inference: `classifier(relu(upsample_and_add(features @ kernels) + bias))`.

    Args:
        features: Feature maps (B, H_i, W_i, C_i), the largest first.
        kernels: (C_i, D), one per stage, with the batch norm folded.
        bias: (D,).
        classifier: From D channels to K.

    Returns:
        float32 logits (B, H_0, W_0, K).

    Example:
        >>> features = [ops.ones((1, 8, 8, 2)), ops.ones((1, 4, 4, 3))]
        >>> classifier = keras.layers.Dense(5)
        >>> classifier.build((None, 6))
        >>> tuple(fused_head(features, [ops.ones((2, 6)), ops.ones((3, 6))], ops.zeros(6), classifier).shape)
        (1, 8, 8, 5)
    """
    dtype, hidden_size, size = features[0].dtype, kernels[0].shape[-1], ops.shape(features[0])[:3]
    if classifier.quantization_mode is not None or not tracing.tuned_for_cpu():
        hidden = _project_and_add(features, [ops.cast(kernel, dtype) for kernel in kernels], ops.cast(bias, dtype))
        hidden = ops.relu(ops.cast(hidden, dtype))
        return ops.cast(apply_to_tokens(classifier, hidden), "float32")
    chunks = _channel_chunks(math.prod(size), hidden_size)
    width = hidden_size // chunks

    def cut(weight: Any, chunk: Any, axis: int) -> Any:
        """The channels of a chunk, along one axis of a weight."""
        weight = ops.convert_to_tensor(weight)
        starts, sizes = [0] * len(weight.shape), list(weight.shape)
        starts[axis], sizes[axis] = chunk * width, width
        return ops.cast(ops.slice(weight, starts, sizes), dtype)

    def add_chunk(chunk: Any, logits: Any) -> Any:
        hidden = _project_and_add(features, [cut(kernel, chunk, 1) for kernel in kernels], cut(bias, chunk, 0))
        hidden = ops.reshape(ops.relu(ops.cast(hidden, dtype)), (-1, width))
        return ops.matmul(hidden, cut(classifier.kernel, chunk, 0)) + logits

    logits = add_chunk(0, ops.cast(classifier.bias, dtype))  # (B*H_0*W_0, K)
    logits = sequential_fold(add_chunk, 1, chunks, logits)
    return ops.cast(ops.reshape(logits, (*size, classifier.units)), "float32")


def fused_head_in_training(
    features: Sequence[Any],
    kernels: Sequence[Any],
    bias: Any,
    norm: keras.layers.BatchNormalization,
    dropout: keras.layers.Dropout,
    classifier: keras.layers.Dense,
) -> Any:
    """The head in training: `classifier(dropout(relu(norm(upsample_and_add(features @ kernels) + bias))))`.

    Moves the statistics of the batch norm. Batch norm, ReLU and dropout act on every channel by itself, so chunks of
    channels are exact; the gradient computes each chunk again, one after the other. The chunks are a Python loop, since
    moments over several devices cannot be taken within a loop of TensorFlow.

    Args:
        features: Feature maps (B, H_i, W_i, C_i), the largest first.
        kernels: (C_i, D), one per stage, without the batch norm.
        bias: (D,).
        norm: Batch norm of the hidden features. It takes the moments of the batch unless it is frozen.
        dropout: Dropout before the classifier.
        classifier: From D channels to K.

    Returns:
        float32 logits (B, H_0, W_0, K).
    """
    if classifier.quantization_mode is not None or not tracing.tuned_for_cpu():
        dtype = features[0].dtype
        hidden = _project_and_add(features, [ops.cast(kernel, dtype) for kernel in kernels], ops.cast(bias, dtype))
        hidden = dropout(ops.relu(norm(hidden, training=True)), training=True)
        return ops.cast(apply_to_tokens(classifier, hidden), "float32")
    size = ops.shape(features[0])[:3]
    classifier_kernel = ops.cast(classifier.kernel, "float32") / (1 - dropout.rate)  # as dropout scales what it keeps
    weights = [*kernels, ops.transpose(classifier_kernel), bias]
    weights += [ops.cast(each, "float32") for each in (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)]
    logits = ops.zeros((math.prod(size), classifier.units)) + ops.cast(classifier.bias, "float32")
    moments = []
    for start in range(0, kernels[0].shape[-1], CHANNELS_AT_ONCE):
        chunk = [weight[..., start : start + CHANNELS_AT_ONCE] for weight in weights]
        mask = _dropout_mask(dropout, (*size, chunk[0].shape[-1]))
        logits, *maps = run_after(logits, *features)
        classify = keras.remat(functools.partial(_classify_channels, mask=mask, norm=norm))
        more, *moments_of_chunk = classify(maps, chunk)
        logits = logits + more
        moments.append(moments_of_chunk)
    if norm.trainable:
        for moving, of_chunks in zip((norm.moving_mean, norm.moving_variance), zip(*moments, strict=True), strict=True):
            moving.assign(
                ops.cast(moving, "float32") * norm.momentum + ops.concatenate(of_chunks) * (1 - norm.momentum)
            )
    return ops.reshape(logits, (*size, classifier.units))


def _classify_channels(maps: list[Any], weights: list[Any], mask: Any, norm: Any) -> tuple[Any, Any, Any]:
    """Some channels' part of the logits (B*H_0*W_0, K), and mean and variance of each channel."""
    *kernels, classifier_kernel, bias, gamma, beta, mean, variance = weights
    dtype = maps[0].dtype
    hidden = _project_and_add(maps, [ops.cast(kernel, dtype) for kernel in kernels], ops.cast(bias, dtype))
    if norm.trainable:
        mean, variance = ops.moments(hidden, axes=[0, 1, 2], synchronized=norm.synchronized)
    scale = gamma * ops.rsqrt(variance + norm.epsilon)
    hidden = ops.relu(ops.cast(hidden * scale + (beta - mean * scale), dtype))
    if mask is not None:
        hidden = ops.where(mask, hidden, ops.zeros_like(hidden))
    tokens = ops.reshape(hidden, (-1, hidden.shape[-1]))
    logits = ops.matmul(tokens, ops.transpose(ops.cast(classifier_kernel, dtype)))
    return ops.cast(logits, "float32"), mean, variance


def _dropout_mask(dropout: keras.layers.Dropout, shape: tuple[Any, ...]) -> Any:
    """Which elements dropout keeps; None for all. Sampled outside of the gradient, which needs the same again."""
    return keras.random.uniform(shape, seed=dropout.seed_generator) >= dropout.rate if dropout.rate > 0 else None


def _channel_chunks(tokens: Any, hidden_size: int) -> Any:
    """Into how many equal chunks the hidden channels are cut so that none exceeds `MAX_HIDDEN`: a power of two."""
    most = hidden_size & -hidden_size  # the largest power of two that divides them
    needed = (tokens * hidden_size + MAX_HIDDEN - 1) // MAX_HIDDEN
    if isinstance(needed, int):
        return min(1 << (needed - 1).bit_length(), most)
    exponent = ops.ceil(ops.log2(ops.cast(needed, "float32")))
    return ops.minimum(ops.cast(2.0**exponent, "int32"), most)


def _project_and_add(features: Sequence[Any], kernels: Sequence[Any], bias: Any) -> Any:
    """The hidden features of all stages together, before batch norm and ReLU; float32."""
    maps = [
        apply_to_tokens(functools.partial(ops.matmul, x2=kernel), each)
        for each, kernel in zip(features, kernels, strict=True)
    ]
    # Upsampling does not change a constant map, such as the bias: it is added where there is least to add to.
    maps[-1] = maps[-1] + bias
    return upsample_and_add(maps)
