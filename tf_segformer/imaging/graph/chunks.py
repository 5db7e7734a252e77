"""The blocks of a class map that one choice of class does not fill, in TensorFlow operations.

By the theorem of `imaging.postprocess`, the pixels between four logits need no interpolation where the same class is
the largest in all four. Between the others, few classes come into question: a mix of four logits is at most their
maximum and at least their minimum, so that a class whose maximum lies below another one's minimum cannot win there.
Each such pair of block and class is interpolated by itself; all blocks of a map have the same shape, so that they are
rows of one array.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

_LONGEST = 16  # most pixels of a block along one side
_CHUNK_BYTES = 4 * 2**20  # interpolated logits of one chunk, if every class came into question


class Axis(NamedTuple):
    """How the pixels of one axis lie in blocks that mix the same two logits.

    Args:
        low: (blocks,) int32, the one logit of each block.
        high: (blocks,) int32, the other one, of which a pixel takes its weight.
        weights: (blocks, length) float32, weight of each pixel; a shorter block repeats some.
        block: (pixels,) int32, the block of each pixel.
        offset: (pixels,) int32, its place in the block.
    """

    low: tf.Tensor
    high: tf.Tensor
    weights: tf.Tensor
    block: tf.Tensor
    offset: tf.Tensor

    @property
    def length(self) -> tf.Tensor:
        """Pixels of the longest block."""
        return tf.shape(self.weights)[1]


def axis_of(size: tf.Tensor, target: tf.Tensor | int) -> Axis:
    """Parts `target` pixels over `size` logits into blocks, with half-pixel centres in single precision."""
    scale = tf.cast(size, tf.float32) / tf.cast(target, tf.float32)
    position = (tf.range(tf.cast(target, tf.float32)) + 0.5) * scale - 0.5
    low = tf.floor(position)  # -1 before the first logit
    weight = position - low
    new_cell = tf.concat([[True], tf.not_equal(low[1:], low[:-1])], axis=0)
    cells = tf.cast(tf.where(new_cell)[:, 0], tf.int32)  # first pixel of each
    offset = (tf.range(target) - tf.gather(cells, tf.cumsum(tf.cast(new_cell, tf.int32)) - 1)) % _LONGEST
    first = tf.cast(tf.where(tf.equal(offset, 0))[:, 0], tf.int32)  # pixel of each block
    pixels = tf.minimum(first[:, None] + tf.range(tf.reduce_max(offset) + 1), target - 1)
    low = tf.cast(tf.gather(low, first), tf.int32)
    block = tf.cumsum(tf.cast(tf.equal(offset, 0), tf.int32)) - 1
    return Axis(tf.maximum(low, 0), tf.minimum(low + 1, size - 1), tf.gather(weight, pixels), block, offset)


def boundary_blocks(winners: tf.Tensor, rows: Axis, columns: Axis) -> tf.Tensor:
    """Marks the blocks (blocks down, blocks across) whose four logits, with these winners (h, w), disagree."""
    upper, lower = tf.gather(winners, rows.low), tf.gather(winners, rows.high)
    corners = [tf.gather(line, side, axis=1) for line in (upper, lower) for side in (columns.low, columns.high)]
    return tf.reduce_any([tf.not_equal(corners[0], other) for other in corners[1:]], axis=0)


def resolve_blocks(logits: tf.Tensor, rows: Axis, columns: Axis, places: tf.Tensor) -> tf.Tensor:
    """Interpolates blocks chunk by chunk and finds the winner of each pixel.

    Args:
        logits: (h, w, K) float32.
        rows: Blocks down.
        columns: Blocks across.
        places: (n, 2) int32: which block down and across; at least one.

    Returns:
        Classes (n, columns.length, rows.length), int32: each block turned over.
    """
    # Weights of the pixels of a block, in one row as the block itself.
    down = tf.tile(rows.weights, [1, columns.length])  # (blocks, Q*P)
    across = tf.repeat(columns.weights, rows.length, axis=1)
    count, num_labels = tf.shape(places)[0], tf.shape(logits)[2]

    def settle(chunk: tf.Tensor) -> tf.Tensor:
        row, column = tf.unstack(tf.gather(places, chunk), axis=1)
        corners = _corners(logits, rows, columns, row, column)
        block, label = _candidates(corners)
        pair = block * num_labels + label
        a, b, c, d = (tf.gather(tf.reshape(corner, [-1]), pair)[:, None] for corner in corners)  # (p, 1) each
        weight = tf.gather(down, tf.gather(row, block))  # (p, Q*P)
        left, step = a + weight * (c - a), (b - a) + weight * ((d - b) - (c - a))
        values = left + tf.gather(across, tf.gather(column, block)) * step
        beaten = values < tf.gather(tf.math.segment_max(values, block), block)
        return tf.math.segment_min(tf.where(beaten, num_labels, label[:, None]), block)  # (blocks, Q*P)

    area = rows.length * columns.length
    step = tf.clip_by_value(_CHUNK_BYTES // (4 * area * num_labels), 1, count)
    chunks = tf.range(0, count, step)[:, None] + tf.range(step)
    settled = tf.map_fn(
        settle,
        tf.minimum(chunks, count - 1),  # the last chunk repeats its last block
        fn_output_signature=tf.TensorSpec([None, None], tf.int32),
        parallel_iterations=1,
    )
    return tf.reshape(settled, [-1, columns.length, rows.length])[:count]


def _corners(logits: tf.Tensor, rows: Axis, columns: Axis, row: tf.Tensor, column: tf.Tensor) -> list[tf.Tensor]:
    """The logits (blocks, K) around blocks: upper left, upper right, lower left, lower right."""
    flat = tf.reshape(logits, [-1, tf.shape(logits)[2]])
    starts = [tf.gather(side, row) * tf.shape(logits)[1] for side in (rows.low, rows.high)]
    return [
        tf.gather(flat, start + tf.gather(side, column)) for start in starts for side in (columns.low, columns.high)
    ]


def _candidates(corners: list[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """The pairs of block and class that may win a pixel, as two (p,) int32; each block has one at least."""
    a, b, c, d = corners
    highest = tf.maximum(tf.maximum(a, b), tf.maximum(c, d))
    lowest = tf.minimum(tf.minimum(a, b), tf.minimum(c, d))
    beaten = highest < tf.reduce_max(lowest, axis=1, keepdims=True)  # never where a logit is not a number
    block, label = tf.unstack(tf.cast(tf.where(~beaten), tf.int32), axis=1)
    return block, label
