"""Token merging of ONNX operators: the queries of `tf_segformer.ops.token_merging`, in another order.

Without a scatter that adds, which is younger than version 13 and slow: the first tokens of all cells of 2x2 come first,
each the mean of itself and of what is merged into it, then the tokens that are not merged.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from onnx import numpy_helper

from tf_segformer.deploy.onnx.graph import OnnxGraph
from tf_segformer.ops.token_merging import count_merged

_LAST, _ONE, _TWO, _THREE = (np.array([number], np.int64) for number in (-1, 1, 2, 3))
_MERGED = numpy_helper.from_array(_LAST)
_KEPT, _FIRST = np.float32(-2), np.float32(2)  # in place of a cosine, for the edge and for the first tokens of cells


class Cells(NamedTuple):
    """Where the tokens of a map lie, all arrays or, where its size is open, names of tensors.

    Args:
        num_others: How many tokens are neither merged nor the first of a cell (1,).
        first: The first token of each token's cell (N,).
        cell: The number of each token's cell (N,).
        is_source: Whether a token may be merged (N,).
        fixed: What stands for the cosine of a token that may not (N,).
        corners: The four tokens of each cell, the first one first (cells,).
        num_cells: How many whole cells there are (1,).
    """

    num_others: Any
    first: Any
    cell: Any
    is_source: Any
    fixed: Any
    corners: list[Any]
    num_cells: Any


def cells_of(graph: OnnxGraph, size: Any, fraction: float) -> Cells:
    """The cells of a map, which all blocks of a stage share.

    Args:
        graph: The graph.
        size: (H, W), an array or the name of a tensor.
        fraction: How many of the tokens are merged.

    Returns:
        The cells.
    """
    height, width = _sides(graph, size)
    tokens = graph.fold("Mul", height, width)
    rows, columns = (graph.fold("Div", side, _TWO) for side in (height, width))
    num_cells = graph.fold("Mul", rows, columns)
    merged = _count_merged(graph, height, width, fraction)
    num_others = graph.fold("Sub", graph.fold("Sub", tokens, merged), num_cells)

    every_token, every_cell = graph.fold("Range", tokens), graph.fold("Range", num_cells)
    y, x = _divided(graph, every_token, width)
    row, column = (graph.fold("Div", each, _TWO) for each in (y, x))
    first = _flat(graph, graph.fold("Mul", row, _TWO), graph.fold("Mul", column, _TWO), width)
    is_first = graph.fold("Equal", first, every_token)
    whole = graph.fold("And", graph.fold("Less", row, rows), graph.fold("Less", column, columns))
    is_source = graph.fold("And", whole, graph.fold("Not", is_first))
    fixed = graph("Where", whole, *(graph.constant(each, np.float32) for each in (_FIRST, _KEPT)))

    cell_row, cell_column = _divided(graph, every_cell, graph.fold("Max", columns, _ONE))
    corner = _flat(graph, graph.fold("Mul", cell_row, _TWO), graph.fold("Mul", cell_column, _TWO), width)
    below = graph.fold("Add", corner, width)
    corners = [corner, below, *(graph.fold("Add", each, _ONE) for each in (corner, below))]
    return Cells(num_others, first, _flat(graph, row, column, columns), is_source, fixed, corners, num_cells)


def merge(graph: OnnxGraph, tokens: str, cells: Cells) -> tuple[str, str]:
    """Merges the tokens of each image that are most similar to the first of their cell into that one.

    Args:
        graph: The graph.
        tokens: (B, N, C).
        cells: Where they lie.

    Returns:
        The queries (B, groups, C), and the group of each token (B, N).
    """
    similarity = _similarity(graph, tokens, cells)
    others = graph.smallest(similarity, cells.num_others)  # (B, others)
    numbers = graph.fold("Add", graph.fold("Range", cells.num_others), cells.num_cells)
    numbers = graph("Expand", numbers, graph("Shape", others))
    merged = graph("ConstantOfShape", graph("Shape", similarity), value=_MERGED)
    alone = graph("ScatterElements", merged, others, numbers, axis=1)  # (B, N)
    is_merged = graph("Less", alone, np.int64(0))
    groups = graph("Where", is_merged, cells.cell, alone)

    total, *sources = (graph("Gather", tokens, corner, axis=1) for corner in cells.corners)  # (B, cells, C)
    count: Any = np.float32(1)
    weights = graph("Unsqueeze", graph.cast(is_merged, graph.float.name), _LAST)  # (B, N, 1)
    for corner, token in zip(cells.corners[1:], sources, strict=True):
        weight = graph("Gather", weights, corner, axis=1)
        total = graph("Add", total, graph("Mul", token, weight))
        count = graph("Add", weight, count)
    queries = graph("Concat", graph("Div", total, count), _gather(graph, tokens, others), axis=1)
    return queries, groups


def unmerge(graph: OnnxGraph, outputs: str, groups: str) -> str:
    """Copies what was computed for each group (B, groups, C) to its tokens (B, N, C)."""
    return _gather(graph, outputs, groups)


def _similarity(graph: OnnxGraph, tokens: str, cells: Cells) -> str:
    """Cosine of each token and the first of its cell (B, N), and what stands for it."""
    x = tokens if graph.float == np.float32 else graph.cast(tokens, "float32")
    norm = graph("ReduceSum", graph("Mul", x, x), _LAST, keepdims=0)
    product = graph("ReduceSum", graph("Mul", x, graph("Gather", x, cells.first, axis=1)), _LAST, keepdims=0)
    norms = graph("Mul", norm, graph("Gather", norm, cells.first, axis=1))
    epsilon = graph.constant(np.float32(1e-12), np.float32)
    cosine = graph("Div", product, graph("Sqrt", graph("Add", norms, epsilon)))
    return graph("Where", cells.is_source, cosine, cells.fixed)


def _gather(graph: OnnxGraph, x: str, indices: str) -> str:
    """Rows (B, M, C) of each image's matrix (B, N, C) by their numbers (B, M)."""
    return graph("GatherND", x, graph("Unsqueeze", indices, _LAST), batch_dims=1)


def _sides(graph: OnnxGraph, size: Any) -> tuple[Any, Any]:
    """Height and width (1,)."""
    if isinstance(size, str):
        return graph.slice(size, 0, 1), graph.slice(size, 1, 2)
    return size[:1], size[1:]


def _count_merged(graph: OnnxGraph, height: Any, width: Any, fraction: float) -> Any:
    """`count_merged` (1,)."""
    if not isinstance(height, str):
        return np.array([count_merged(int(height[0]), int(width[0]), fraction)], np.int64)
    sources = graph("Mul", graph("Mul", graph("Div", height, _TWO), graph("Div", width, _TWO)), _THREE)
    tokens = graph.cast(graph("Mul", height, width), "float32")
    asked = graph("Mul", tokens, graph.constant(np.float32(fraction), np.float32))
    return graph("Min", graph.cast(asked, "int64"), sources)


def _divided(graph: OnnxGraph, numbers: Any, width: Any) -> tuple[Any, Any]:
    """Row and column of each number, counted row by row."""
    row = graph.fold("Div", numbers, width)
    return row, graph.fold("Sub", numbers, graph.fold("Mul", row, width))


def _flat(graph: OnnxGraph, row: Any, column: Any, width: Any) -> Any:
    """The number of a row and a column."""
    return graph.fold("Add", graph.fold("Mul", row, width), column)
