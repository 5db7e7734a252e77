"""Builds a SegFormer of ONNX operators, in the layout that engines run fastest.

Convolutions are channels first, the only layout that ONNX has for them. Dense layers before and after a convolution
are convolutions too, of one pixel, so that the wide maps of the feed-forward networks and of the decode head are never
transposed. All else runs on tokens (B, H*W, C), whose channels lie together. A transpose stands right next to its
convolution and acts on four axes: onnxruntime and OpenVINO merge such a pair.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import onnx

from tf_segformer.deploy.onnx.graph import OnnxGraph, as_array
from tf_segformer.deploy.onnx.token_merging import Cells, cells_of, merge, unmerge
from tf_segformer.modeling.decode_head import MmsegDecodeHead, SegformerDecodeHead, scale_and_shift
from tf_segformer.modeling.models import SegformerForSemanticSegmentation

_TO_CHANNELS_FIRST, _TO_CHANNELS_LAST = (0, 3, 1, 2), (0, 2, 3, 1)


class Dense(NamedTuple):
    """The weights of a dense layer: kernel (C, D) and bias (D,)."""

    kernel: np.ndarray
    bias: np.ndarray


class FeatureMap(NamedTuple):
    """A channels-first map (B, C, H, W) with its size (H, W): an array, or the name of a tensor where it is open."""

    x: str
    size: Any


def build_onnx(
    model: Any,
    opset: int,
    data_format: str = "channels_last",
    precision: str = "float32",
    size: tuple[int, int] | None = None,
) -> onnx.ModelProto:
    """Builds the inference pass of a model: `pixel_values` in, `logits` out, both float32.

    Args:
        model: A `SegformerForSemanticSegmentation` or `SegformerForImageClassification`.
        opset: Version of the operators, 13 to 18.
        data_format: "channels_last" or "channels_first", of pixel values and of a segmenter's logits.
        precision: "float32" or "float16", of the weights and of all that is computed; "int8" is float32 in the layout
            in which a quantized network is fastest.
        size: (height, width) of the one image that the network takes, so that every shape in it is a constant; None
            leaves batch, height and width open.

    Returns:
        The model.
    """
    graph, config = OnnxGraph(opset, "float32" if precision == "int8" else precision), model.config
    channels_last = data_format == "channels_last"
    x = graph.cast("pixel_values", precision) if precision == "float16" else "pixel_values"
    x = graph("Transpose", x, perm=_TO_CHANNELS_FIRST) if channels_last else x
    maps = _encoder(graph, model.segformer, x, size)
    if isinstance(model, SegformerForSemanticSegmentation):
        hidden = _HEADS[type(model.decode_head)](graph, model.decode_head, maps)
        # A product of 8-bit numbers may give float32 logits, a convolution of them gives 8-bit ones.
        classify = _classify_tokens if precision == "int8" else _classify_map
        logits = classify(graph, hidden, model.decode_head.classifier, channels_last)
        sides = ("logits_height", "logits_width") if size is None else maps[0].size.tolist()
        output_shape = _shape(size, sides, config.num_labels, channels_last)
    else:
        pooled = graph.reshape(graph("GlobalAveragePool", maps[-1].x), 0, -1)  # (B, C)
        classifier = model.get_layer("classifier")
        logits = graph("Gemm", pooled, classifier.kernel, classifier.bias)
        output_shape = [_batch(size), config.num_labels]
    if precision == "float16":
        graph.cast(logits, "float32", output="logits")
    else:
        graph("Identity", logits, output="logits")
    input_shape = _shape(size, size or ("height", "width"), config.num_channels, channels_last)
    return graph.model({"pixel_values": input_shape}, {"logits": output_shape})


def _batch(size: Any) -> int | str:
    return "batch" if size is None else 1


def _shape(size: Any, sides: Any, channels: int, channels_last: bool) -> list[Any]:
    return [_batch(size), *sides, channels] if channels_last else [_batch(size), channels, *sides]


# === Encoder ===


def _encoder(graph: OnnxGraph, encoder: Any, x: str, image_size: tuple[int, int] | None) -> list[FeatureMap]:
    """Images (B, C, H, W) -> the feature map of every stage."""
    known = None if image_size is None else np.array(image_size, np.int64)
    maps = []
    for stage, depth in enumerate(encoder.config.depths):
        embedding = encoder.get_layer(f"patch_embedding_{stage}")
        padding = embedding.patch_size // 2
        x = _convolution(graph, x, embedding.projection, strides=[embedding.stride] * 2, pads=[padding] * 4)
        if known is not None:
            known = (known + 2 * padding - embedding.patch_size) // embedding.stride + 1
        size = graph.slice(graph("Shape", x), 2, 4) if known is None else known
        tokens = _layer_norm(graph, _tokens(graph, x, embedding.hidden_size), embedding.layer_norm)
        fraction = encoder.config.stage_token_merging[stage]
        cells = cells_of(graph, size, fraction) if fraction else None
        for block in range(depth):
            tokens = _block(graph, tokens, size, cells, encoder.get_layer(f"block_{stage}_{block}"))
        tokens = _layer_norm(graph, tokens, encoder.get_layer(f"stage_norm_{stage}"))
        x = _map(graph, tokens, size, embedding.hidden_size)
        maps.append(FeatureMap(x, size))
    return maps


def _block(graph: OnnxGraph, tokens: str, size: Any, cells: Cells | None, block: Any) -> str:
    """One transformer block on tokens (B, H*W, C)."""
    normalized = _layer_norm(graph, tokens, block.layer_norm_1)
    tokens = graph("Add", tokens, _attention(graph, normalized, size, cells, block.attention))
    normalized = _layer_norm(graph, tokens, block.layer_norm_2)
    return graph("Add", tokens, _feed_forward(graph, normalized, size, block.mlp))


def _attention(graph: OnnxGraph, tokens: str, size: Any, cells: Cells | None, layer: Any) -> str:
    """Efficient self-attention (B, H*W, C) -> (B, H*W, C)."""
    width = layer.hidden_size // layer.num_heads
    reduced = _reduce(graph, tokens, size, layer)
    queries, groups = (tokens, None) if cells is None else merge(graph, tokens, cells)

    def heads(x: str, projection: Any, order: tuple[int, ...], scale: float = 1.0) -> str:
        x = graph.reshape(_dense(graph, x, projection, scale), 0, -1, layer.num_heads, width)
        return graph("Transpose", x, perm=order)

    query = heads(queries, layer.query, (0, 2, 1, 3))  # (B, heads, H*W, d)
    key = heads(reduced, layer.key, (0, 2, 3, 1), scale=width**-0.5)  # (B, heads, d, H'*W')
    value, output = layer.value, layer.output_dense
    if layer.num_heads == 1:  # one projection of the few keys: probabilities sum to one, so the bias passes, too
        value, output = _composed(value, output), None
    value = heads(reduced, value, (0, 2, 1, 3))
    probabilities = graph("Softmax", graph("MatMul", query, key), axis=-1)
    context = graph("Transpose", graph("MatMul", probabilities, value), perm=(0, 2, 1, 3))
    context = graph.reshape(context, 0, -1, layer.hidden_size)
    outputs = context if output is None else _dense(graph, context, output)
    return outputs if groups is None else unmerge(graph, outputs, groups)


def _reduce(graph: OnnxGraph, tokens: str, size: Any, layer: Any) -> str:
    """Tokens of the reduced map, at least one: the convolution goes over the edge, and what it found there is cut."""
    ratio = layer.ratio
    if ratio == 1:
        return tokens
    x = _map(graph, tokens, size, layer.hidden_size)
    x = _convolution(graph, x, layer.sequence_reduction, strides=[ratio] * 2, pads=[0, 0, ratio - 1, ratio - 1])
    if isinstance(size, str):
        whole = graph("Max", graph("Div", size, np.array([ratio], np.int64)), np.array([1], np.int64))
    else:
        whole = np.maximum(size // ratio, 1)
    x = graph.slice(x, 0, whole, axes=(2, 3))
    return _layer_norm(graph, _tokens(graph, x, layer.hidden_size), layer.layer_norm)


def _feed_forward(graph: OnnxGraph, tokens: str, size: Any, layer: Any) -> str:
    """Mix-FFN (B, H*W, C) -> (B, H*W, C)."""
    x = _map(graph, tokens, size, layer.hidden_size)
    x = _pointwise(graph, x, as_array(layer.dense_1.kernel), layer.dense_1.bias)  # (B, mlp_ratio * C, H, W)
    x = _convolution(graph, x, layer.depthwise_convolution, pads=[1] * 4, group=layer.inner_size)
    x = _ACTIVATIONS[layer.activation](graph, x)
    x = _pointwise(graph, x, as_array(layer.dense_2.kernel), layer.dense_2.bias)
    return _tokens(graph, x, layer.hidden_size)


# === Heads ===


def _decode_head(graph: OnnxGraph, head: SegformerDecodeHead, maps: list[FeatureMap]) -> str:
    """The paper's head up to its classifier, with its linear maps and batch norm multiplied out: (B, D, H, W)."""
    kernels, bias = head.composed_weights(fold_batch_norm=True)
    biases = [None] * (len(maps) - 1) + [bias]  # upsampling does not change a constant map: add it to the smallest
    projected = [
        _pointwise(graph, each.x, as_array(kernel), bias)
        for each, kernel, bias in zip(maps, kernels, biases, strict=True)
    ]
    return graph("Relu", _upsample_and_add(graph, projected, maps[0].size, head.classifier.kernel.shape[-2]))


def _mmseg_decode_head(graph: OnnxGraph, head: MmsegDecodeHead, maps: list[FeatureMap]) -> str:
    """mmsegmentation's head likewise, whose projections are activated; batch norms are multiplied into them."""
    fusion_scale, fusion_shift = map(as_array, scale_and_shift(head.fusion_norm))
    blocks = np.split(as_array(head.fusion.kernel) * fusion_scale, len(maps))
    shifts = [None] * (len(maps) - 1) + [fusion_shift]
    projected = []
    for each, convolution, norm, block, fused_shift in zip(
        maps, head.convolutions, head.batch_norms, blocks, shifts, strict=True
    ):
        scale, shift = map(as_array, scale_and_shift(norm))
        x = graph("Relu", _pointwise(graph, each.x, as_array(convolution.kernel) * scale, shift))
        projected.append(_pointwise(graph, x, block, fused_shift))
    return graph("Relu", _upsample_and_add(graph, projected, maps[0].size, head.classifier.kernel.shape[-2]))


_HEADS: dict[type, Callable[[OnnxGraph, Any, list[FeatureMap]], str]] = {
    SegformerDecodeHead: _decode_head,
    MmsegDecodeHead: _mmseg_decode_head,
}


def _classify_map(graph: OnnxGraph, hidden: str, classifier: Any, channels_last: bool) -> str:
    """Logits by a convolution of (B, D, H, W), which float32 is fastest in."""
    logits = _pointwise(graph, hidden, as_array(classifier.kernel), classifier.bias)
    return graph("Transpose", logits, perm=_TO_CHANNELS_LAST) if channels_last else logits


def _classify_tokens(graph: OnnxGraph, hidden: str, classifier: Any, channels_last: bool) -> str:
    """The same logits by a dense layer."""
    logits = _dense(graph, graph("Transpose", hidden, perm=_TO_CHANNELS_LAST), classifier)
    return logits if channels_last else graph("Transpose", logits, perm=_TO_CHANNELS_FIRST)


def _upsample_and_add(graph: OnnxGraph, maps: list[str], size: Any, channels: int) -> str:
    """Resizes maps (B, D, H_i, W_i) bilinearly to the size of the first and adds them."""
    total = maps[0]
    for each in maps[1:]:
        batch_and_channels = graph.slice(graph("Shape", each), 0, 2) if isinstance(size, str) else [1, channels]
        shape = graph.shape(batch_and_channels, size)
        resized = graph("Resize", each, "", "", shape, mode="linear", coordinate_transformation_mode="half_pixel")
        total = graph("Add", total, resized)
    return total


# === Layers ===


def _dense(graph: OnnxGraph, x: str, layer: Any, scale: float = 1.0) -> str:
    """A dense layer on tokens, its result multiplied by a number."""
    product = graph("MatMul", x, as_array(layer.kernel) * np.float32(scale))
    return graph("Add", product, as_array(layer.bias) * np.float32(scale))


def _composed(first: Any, second: Any) -> Dense:
    """Two dense layers, one after the other, as one."""
    kernel = as_array(second.kernel)
    return Dense(as_array(first.kernel) @ kernel, as_array(first.bias) @ kernel + as_array(second.bias))


def _pointwise(graph: OnnxGraph, x: str, kernel: np.ndarray, bias: Any = None) -> str:
    """A dense kernel (C, D) on a channels-first map, as a convolution of one pixel."""
    weights = [kernel.T[:, :, None, None]] + ([] if bias is None else [bias])
    return graph("Conv", x, *weights, kernel_shape=[1, 1])


def _convolution(graph: OnnxGraph, x: str, layer: Any, **attributes: Any) -> str:
    """A convolution of Keras on a channels-first map; Keras' kernel is (height, width, in, out)."""
    kernel = as_array(layer.kernel)
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        kernel = kernel.transpose(0, 1, 3, 2)  # one channel in for each group
    return graph("Conv", x, kernel.transpose(3, 2, 0, 1), layer.bias, kernel_shape=kernel.shape[:2], **attributes)


def _layer_norm(graph: OnnxGraph, x: str, layer: Any) -> str:
    """The operator, or what it is made of where it is too young; its sums are float32 in either."""
    if graph.opset < 17:
        return _spelled_layer_norm(graph, x, layer)
    return graph("LayerNormalization", x, layer.gamma, layer.beta, axis=-1, epsilon=layer.epsilon)


def _spelled_layer_norm(graph: OnnxGraph, x: str, layer: Any) -> str:
    """Layer norm of operators that version 13 has."""
    x = x if graph.float == np.float32 else graph.cast(x, "float32")
    centered = graph("Sub", x, graph("ReduceMean", x, axes=[-1]))
    variance = graph("ReduceMean", graph("Mul", centered, centered), axes=[-1])
    epsilon = graph.constant(np.float32(layer.epsilon), np.float32)  # 1e-6 is hardly a number in float16
    x = graph("Div", centered, graph("Sqrt", graph("Add", variance, epsilon)))
    x = x if graph.float == np.float32 else graph.cast(x, graph.float.name)
    return graph("Add", graph("Mul", x, layer.gamma), layer.beta)


def _tokens(graph: OnnxGraph, x: str, channels: int) -> str:
    """(B, C, H, W) -> (B, H*W, C)."""
    return graph.reshape(graph("Transpose", x, perm=_TO_CHANNELS_LAST), 0, -1, channels)


def _map(graph: OnnxGraph, tokens: str, size: Any, channels: int) -> str:
    """(B, H*W, C) -> (B, C, H, W)."""
    x = graph("Reshape", tokens, graph.shape(0, size, channels))
    return graph("Transpose", x, perm=_TO_CHANNELS_FIRST)


def _gelu(graph: OnnxGraph, x: str) -> str:
    """GELU by the error function, in the form that engines know: the operator is younger than version 18."""
    error = graph("Erf", graph("Div", x, np.float32(math.sqrt(2))))
    return graph("Mul", graph("Mul", x, graph("Add", error, np.float32(1))), np.float32(0.5))


def _tanh_gelu(graph: OnnxGraph, x: str) -> str:
    """GELU by its tanh approximation."""
    cube = graph("Mul", graph("Mul", graph("Mul", x, x), x), np.float32(0.044715))
    inner = graph("Mul", graph("Add", x, cube), np.float32(math.sqrt(2 / math.pi)))
    return graph("Mul", graph("Mul", x, graph("Add", graph("Tanh", inner), np.float32(1))), np.float32(0.5))


def _silu(graph: OnnxGraph, x: str) -> str:
    return graph("Mul", x, graph("Sigmoid", x))


_ACTIVATIONS: dict[str, Callable[[OnnxGraph, str], str]] = {
    "gelu": _gelu,
    "gelu_new": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "relu": lambda graph, x: graph("Relu", x),
    "silu": _silu,
    "swish": _silu,
}
