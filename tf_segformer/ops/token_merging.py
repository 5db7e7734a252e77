"""Token merging: similar neighbors become one query of attention, whose output goes to each of them.

Source: Kienzle et al. 2024, "SegFormer++", https://arxiv.org/abs/2405.14467, section III; the matching within cells of
2x2 tokens, written from the paper's idea. Bolya et al. 2023, "Token Merging", https://arxiv.org/abs/2210.09461.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

_NEVER = -2.0  # below every cosine


def count_merged(height: Any, width: Any, fraction: float) -> Any:
    """How many tokens of a map are merged away: the fraction, rounded down, of those in whole cells of 2x2 at most 3/4.

    Args:
        height: Height of the map, an int or a scalar tensor.
        width: Its width.
        fraction: From 0 to 0.75: one token of each cell stays.

    Returns:
        An int for ints, a scalar tensor otherwise. Both multiply in float32, so that they agree.

    Example:
        >>> count_merged(8, 12, 0.65), count_merged(5, 3, 0.75)
        (62, 6)
    """
    tokens, sources = height * width, 3 * (height // 2) * (width // 2)
    if isinstance(tokens, int):
        return min(int(np.float32(fraction) * np.float32(tokens)), sources)
    return ops.minimum(ops.cast(ops.cast(tokens, "float32") * fraction, "int32"), sources)


def match_tokens(x: Any, fraction: float) -> tuple[Any, Any]:
    """Groups the tokens of each image that are most similar to the first token of their cell of 2x2 with that one.

    Tokens outside the last whole cell stay alone, as does the first token of a cell of which no other is among the most
    similar of the image by cosine.

    Args:
        x: The tokens as a map (B, H, W, C); every size but C may be open.
        fraction: Of the tokens that are not the first of their group, from 0 to 0.75.

    Returns:
        The number of each token's group (B*H*W,), counted through all images, and the number of groups of an image,
        H*W less `count_merged`.

    Example:
        >>> groups, count = match_tokens(ops.ones((1, 2, 4, 8)), 0.75)
        >>> ops.convert_to_numpy(groups).tolist(), count
        ([0, 0, 1, 1, 0, 0, 1, 1], 2)
    """
    batch, height, width = ops.shape(x)[:3]
    tokens, merged = height * width, count_merged(height, width, fraction)
    similarity = ops.reshape(_similarity_to_first(x), (batch, tokens))
    most_similar = ops.top_k(similarity, merged, sorted=False)[1]  # (B, merged)
    image = ops.expand_dims(ops.arange(batch, dtype="int32"), 1)
    flat = ops.reshape(ops.cast(most_similar, "int32") + image * tokens, (-1,))
    is_merged = ops.segment_sum(ops.ones_like(flat), flat, num_segments=batch * tokens)
    is_merged = ops.reshape(is_merged, (batch, tokens))
    groups = ops.cumsum(1 - is_merged, axis=1) - 1 + image * (tokens - merged)
    first_rows, first_columns = (ops.arange(side, dtype="int32") // 2 * 2 for side in (height, width))
    first_of_cell = ops.reshape(ops.expand_dims(first_rows * width, 1) + first_columns, (-1,))
    groups = ops.where(is_merged > 0, ops.take(groups, first_of_cell, axis=1), groups)
    return ops.reshape(groups, (-1,)), tokens - merged


def merge(tokens: Any, groups: Any, num_groups: Any) -> Any:
    """The mean of each group's tokens.

    Args:
        tokens: (N, C).
        groups: Number of each token's group (N,).
        num_groups: How many groups there are.

    Returns:
        (num_groups, C).

    Example:
        >>> ops.convert_to_numpy(merge(ops.array([[1.0], [3.0], [7.0]]), ops.array([0, 0, 1]), 2)).tolist()
        [[2.0], [7.0]]
    """
    total = ops.segment_sum(tokens, groups, num_segments=num_groups)
    count = ops.segment_sum(ops.ones_like(groups, dtype=tokens.dtype), groups, num_segments=num_groups)
    return total / ops.expand_dims(count, 1)


def unmerge(tokens: Any, groups: Any) -> Any:
    """Copies what was computed for each group to all of its tokens.

    Args:
        tokens: (num_groups, C).
        groups: Number of each token's group (N,).

    Returns:
        (N, C).

    Example:
        >>> ops.convert_to_numpy(unmerge(ops.array([[2.0], [7.0]]), ops.array([0, 0, 1]))).tolist()
        [[2.0], [2.0], [7.0]]
    """
    return ops.take(tokens, groups, axis=0)


def _similarity_to_first(x: Any) -> Any:
    """Cosine of each token and the first of its cell (B, H, W), in float32; tokens that are never merged have less."""
    batch, height, width, channels = ops.shape(x)
    rows, columns = height // 2, width // 2
    x = ops.cast(x[:, : 2 * rows, : 2 * columns], "float32")
    x = ops.reshape(x, (batch, rows, 2, columns, 2 * channels))
    first, *others = (x[:, :, row, :, start : start + channels] for row in (0, 1) for start in (0, channels))
    norm = ops.sum(first * first, axis=-1)  # (B, H/2, W/2)
    cosines = [
        ops.sum(first * other, axis=-1) * ops.rsqrt(norm * ops.sum(other * other, axis=-1) + 1e-12) for other in others
    ]
    never = ops.full_like(norm, _NEVER)
    pairs = ops.stack([never, cosines[0]], axis=-1), ops.stack(cosines[1:], axis=-1)  # (B, H/2, W/2, 2)
    similarity = ops.reshape(ops.stack(pairs, axis=2), (batch, 2 * rows, 2 * columns))
    edges = ((0, 0), (0, height - 2 * rows), (0, width - 2 * columns))
    return ops.pad(similarity, edges, constant_values=_NEVER)
