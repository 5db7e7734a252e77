"""Upsampled logits, a band of rows of one image at a time, so that those of a batch never exist together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import ops

from tf_segformer.ops.resize import resize_bilinear, resize_bilinear_gradient
from tf_segformer.ops.sequential import sequential_map

STRIP_SIZE = 2**22
"""Entries of the upsampled logits of a strip: 16 MB."""

_STRIPS_AT_ONCE = 2  # TensorFlow's kernel of the resize's gradient runs on one thread: two take 0.75 x the time of one


def map_row_chunks(
    visit: Callable[..., tuple[Any, ...]], logits: Any, *pixels: Any, project_last: bool = False
) -> tuple[Any, ...]:
    """Upsamples the logits of an image strip by strip and calls a function with each.

    The rows are resized first, for the whole image: this is as much smaller than the upsampled logits as the image
    is narrower. The columns are resized within a strip.

    Args:
        visit: Gets upsampled logits (s, W, K) and the strip (s, W) of each of `pixels`; returns float32 tensors.
        logits: (h, w, K).
        *pixels: Maps (H, W) of the size to upsample to; rows below the last strip are zero.
        project_last: Whether the last result of `visit` is a gradient by the upsampled logits, to become the gradient
            by `logits`.

    Returns:
        The results of `visit`, one row a strip; with `project_last` the last of them is (h, w, K).
    """
    (height, width), (low_height, low_width, num_classes) = ops.shape(pixels[0]), ops.shape(logits)
    rows = STRIP_SIZE // (width * num_classes)
    if isinstance(rows, int) and isinstance(height, int):
        rows = min(max(rows, 1), height)  # JAX needs a plain number
    else:
        rows = ops.minimum(ops.maximum(rows, 1), height)
    count = (height + rows - 1) // rows

    def part(each: Any) -> Any:
        padding = [[0, 0] for _ in each.shape]
        padding[0] = [0, count * rows - height]
        return ops.reshape(ops.pad(each, padding), (count, rows, *ops.shape(each)[1:]))

    def visit_strip(tall: Any, *strip: Any) -> tuple[Any, ...]:
        results = visit(resize_bilinear(tall[None], rows, width)[0], *strip)
        if project_last:
            results = (*results[:-1], resize_bilinear_gradient(results[-1][None], rows, low_width)[0])
        return results

    tall = resize_bilinear(logits[None], height, low_width)[0]  # (H, w, K)
    results = sequential_map(
        visit_strip, [part(each) for each in (tall, *pixels)], ["float32"] * (1 + project_last), _STRIPS_AT_ONCE
    )
    if project_last:
        slope = ops.reshape(results[-1], (1, count * rows, low_width, num_classes))[:, :height]
        results = (*results[:-1], resize_bilinear_gradient(slope, low_height, low_width)[0])
    return results
