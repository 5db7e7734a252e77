"""Upsampled logits, a chunk of rows of one image at a time, so that those of a batch never exist together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import ops

from tf_segformer.ops.resize import resize_bilinear, resize_bilinear_gradient
from tf_segformer.ops.sequential import sequential_map

CHUNK_SIZE = 2**22
"""Entries of the upsampled logits of a chunk: 16 MB."""

_CHUNKS_AT_ONCE = 2  # TensorFlow's kernel of the resize's gradient runs on one thread: two take 0.75 x the time of one


def map_row_chunks(
    function: Callable[..., tuple[Any, ...]], logits: Any, *maps: Any, project_last: bool = False
) -> tuple[Any, ...]:
    """Upsamples the logits of an image chunk by chunk and calls a function with each.

    The rows are resized first, for the whole image: this is as much smaller than the upsampled logits as the image
    is narrower. The columns are resized within a chunk.

    Args:
        function: Gets upsampled logits (s, W, K) and the same rows (s, W) of each of `maps`; returns float32 tensors.
        logits: (h, w, K).
        *maps: Maps (H, W) of the size to upsample to; rows below the last chunk are zero.
        project_last: Whether the last result of `function` is a gradient with respect to the upsampled logits, to
            become the gradient with respect to `logits`.

    Returns:
        The results of `function`, one row per chunk; with `project_last` the last of them is (h, w, K).

    Example:
        >>> (sums,) = map_row_chunks(lambda x, labels: (ops.sum(x),), ops.ones((2, 2, 3)), ops.zeros((4, 4)))
        >>> float(ops.sum(sums))
        48.0
    """
    (height, width), (low_height, low_width, num_classes) = ops.shape(maps[0]), ops.shape(logits)
    rows = CHUNK_SIZE // (width * num_classes)
    if isinstance(rows, int) and isinstance(height, int):
        rows = min(max(rows, 1), height)  # JAX needs a plain number
    else:
        rows = ops.minimum(ops.maximum(rows, 1), height)
    count = (height + rows - 1) // rows

    def in_chunks(rows_of_map: Any) -> Any:
        padding = [[0, 0] for _ in rows_of_map.shape]
        padding[0] = [0, count * rows - height]
        return ops.reshape(ops.pad(rows_of_map, padding), (count, rows, *ops.shape(rows_of_map)[1:]))

    def call_with_chunk(tall: Any, *chunk: Any) -> tuple[Any, ...]:
        results = function(resize_bilinear(tall[None], rows, width)[0], *chunk)
        if project_last:
            results = (*results[:-1], resize_bilinear_gradient(results[-1][None], rows, low_width)[0])
        return results

    tall = resize_bilinear(logits[None], height, low_width)[0]  # (H, w, K)
    results = sequential_map(
        call_with_chunk, [in_chunks(each) for each in (tall, *maps)], ["float32"] * (1 + project_last), _CHUNKS_AT_ONCE
    )
    if project_last:
        grad = ops.reshape(results[-1], (1, count * rows, low_width, num_classes))[:, :height]
        results = (*results[:-1], resize_bilinear_gradient(grad, low_height, low_width)[0])
    return results
