"""Makes a network that NNCF quantized one whose convolutions onnxruntime computes in 8 bits.

It does so where input, weights and output of a convolution are quantized, the activations to one type and by one scale
each. NNCF quantizes inputs and weights; such convolutions run in float32, on weights that are converted in every call,
and take longer than those of the float network.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tf_segformer.requirements import import_extra

Ranges = Mapping[str, tuple[float, float]]
"""The least and the largest value of tensors, by name, as the mean over images; 0 lies between."""


def convolution_ranges(network: Any, images: Iterable[np.ndarray]) -> Ranges:
    """Measures what the convolutions of a network in float32 give.

    Args:
        network: `onnx.ModelProto` with the one input "pixel_values".
        images: Pixel values as it takes them.

    Returns:
        The range of every convolution's output: means over the images, so that one of them does not coarsen all.
    """
    onnx, onnxruntime = (import_extra(name, "onnx", "int8") for name in ("onnx", "onnxruntime"))
    measuring = _copy(network)
    graph = measuring.graph
    names = [node.output[0] for node in graph.node if node.op_type == "Conv"]
    ends = [f"{name}_{reduce}" for name in names for reduce in ("ReduceMin", "ReduceMax")]
    for end in ends:  # numbers, since the maps of all layers are too large to keep
        name, _, reduce = end.rpartition("_")
        graph.node.append(onnx.helper.make_node(reduce, [name], [end], keepdims=0))
        graph.output.append(onnx.helper.make_tensor_value_info(end, onnx.TensorProto.FLOAT, []))
    session = onnxruntime.InferenceSession(measuring.SerializeToString(), providers=["CPUExecutionProvider"])
    found = [np.reshape(session.run(ends, {"pixel_values": each}), (-1, 2)) for each in images]
    low, high = np.mean(found or [np.zeros((len(names), 2))], axis=0).T
    return dict(zip(names, zip(np.minimum(low, 0).tolist(), np.maximum(high, 0).tolist(), strict=True), strict=True))


def in_eight_bits(network: Any, ranges: Ranges) -> Any:
    """Quantizes the outputs of all convolutions that have 8-bit weights.

    Args:
        network: `onnx.ModelProto` as NNCF quantized it, or in part: its other convolutions stay as they are.
        ranges: From the network in float32.

    Returns:
        The network; activations are 0 to 255.
    """
    onnx = import_extra("onnx", "onnx", "int8")
    changed = _copy(network)
    graph = changed.graph
    _make_unsigned(onnx, graph)
    _keep_from_gemm(graph)
    computed = {name for node in graph.node for name in node.output}
    quantized = {node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    nodes = []
    for node in graph.node:
        nodes.append(node)
        on_eight_bits = node.op_type == "Conv" and node.input[1] in computed  # its weights are dequantized
        if on_eight_bits and node.output[0] not in quantized:
            nodes += _quantize(onnx, graph, node, ranges[node.output[0]])
    ordered = [_copy(node) for node in nodes]
    del graph.node[:]
    graph.node.extend(ordered)
    return changed


def _copy(message: Any) -> Any:
    copied = type(message)()
    copied.CopyFrom(message)
    return copied


def _make_unsigned(onnx: Any, graph: Any) -> None:
    """Moves activations of -128 to 127 to 0 to 255, the values that they stand for staying the same.

    A convolution in onnxruntime needs input and output of one type, and OpenVINO (2026.4) computes one of a signed
    input wrongly on AVX2.
    """
    constants = {each.name: each for each in graph.initializer}
    types = {each.name: each.type.tensor_type for each in graph.value_info}
    pairs = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    weights = {
        *constants,
        *(node.output[0] for node in pairs if node.input[0] in constants),
    }  # NNCF may fold them later
    for node in pairs:
        if node.input[0] in weights:
            continue
        zero_point = constants[node.input[2]]  # that of a pair is shared
        values = onnx.numpy_helper.to_array(zero_point)
        if values.dtype == np.int8:
            unsigned = (values.astype(np.int16) + 128).astype(np.uint8)
            zero_point.CopyFrom(onnx.numpy_helper.from_array(unsigned, zero_point.name))
        if node.op_type == "QuantizeLinear" and node.output[0] in types:
            types[node.output[0]].elem_type = onnx.TensorProto.UINT8


def _keep_from_gemm(graph: Any) -> None:
    """Gives biases of dense layers three axes, which Gemm does not take.

    Where all sizes are known onnxruntime makes Gemm of a product and a sum, and computes it in 8 bits only where its
    output is quantized, too.
    """
    others = {name for node in graph.node if node.op_type != "Add" for name in node.input}
    added = {name for node in graph.node if node.op_type == "Add" for name in node.input} - others
    for constant in graph.initializer:
        if constant.name in added and len(constant.dims) == 1:
            constant.dims[:] = [1, 1, *constant.dims]


def _quantize(onnx: Any, graph: Any, node: Any, values: tuple[float, float]) -> list[Any]:
    """Two nodes that quantize a node's output and dequantize it again."""
    low, high = values
    name, scale = node.output[0], np.float32((high - low) / 255 or 1)
    exact, constants = f"{name}_exact", [f"{name}_scale", f"{name}_zero_point"]
    node.output[0] = exact
    for constant, value in zip(constants, (scale, np.uint8(round(-low / float(scale)))), strict=True):
        graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), constant))
    quantized = f"{name}_quantized"
    return [
        onnx.helper.make_node("QuantizeLinear", [exact, *constants], [quantized]),
        onnx.helper.make_node("DequantizeLinear", [quantized, *constants], [name]),
    ]
