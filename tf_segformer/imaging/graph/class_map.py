"""From logits to class maps at any size in TensorFlow operations, without holding the resized logits.

By the theorem of `imaging.postprocess`, the pixels between four logits need no interpolation where the same class is
the largest in all four. Between the others, few classes come into question: a mix of four logits is at most their
maximum and at least their minimum, so that a class whose maximum lies below another one's minimum cannot win there.
Each such pair of tile and class is interpolated by itself; all tiles of a map have the same shape, so that they are
rows of one array.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tf_segformer.half_pixel import source_positions

_TILE = 16  # most pixels of a tile along one side
_CHUNK_BYTES = 4 * 2**20  # interpolated logits of one chunk of tiles, if every class came into question


def class_map_from_logits(logits: tf.Tensor, target_size: tf.Tensor | tuple[int, int]) -> tf.Tensor:
    """Resizes logits bilinearly and takes the class with the largest one, without holding the resized logits.

    Only the pixels along the boundaries of classes are interpolated, some tiles at a time.

    Args:
        logits: (h, w, num_labels), any floating type; a single one is that of class 1 against class 0.
        target_size: Height and width of the class map, ints or an int32 tensor (2,).

    Returns:
        Class map (height, width), int32, equal to that of `imaging.postprocess` but for ties.

    Example:
        >>> class_map_from_logits(tf.eye(4)[None], (2, 8)).numpy().tolist()[0]
        [0, 0, 1, 1, 2, 2, 3, 3]
    """
    logits = with_background(tf.cast(logits, tf.float32))
    num_labels = tf.shape(logits)[2]
    rows, columns = _tiles(tf.shape(logits)[0], target_size[0]), _tiles(tf.shape(logits)[1], target_size[1])
    argmax = tf.argmax(logits, axis=-1, output_type=tf.int32)  # (h, w)
    boundary = _boundary_tiles(argmax, rows, columns)  # (tiles down, tiles across)

    # A table of tiles: one filled with each class, then the boundary ones, and one more: a list of none has no shape.
    places = tf.concat([tf.cast(tf.where(boundary), tf.int32), [[0, 0]]], axis=0)
    filled = tf.broadcast_to(tf.range(num_labels)[:, None, None], [num_labels, columns.length, rows.length])
    table = tf.concat([filled, _resolve(logits, rows, columns, places)], axis=0)  # (tiles, Q, P)
    order = tf.reshape(tf.cumsum(tf.cast(tf.reshape(boundary, [-1]), tf.int32)), tf.shape(boundary)) - 1
    plain = tf.gather(tf.gather(argmax, rows.low), columns.low, axis=1)
    which = tf.transpose(tf.where(boundary, num_labels + order, plain))  # (tiles across, tiles down)

    # Whole columns of tiles are copied to the pixels across, transposed, and so are the rows.
    lines = tf.gather(which, columns.tile) * columns.length + columns.offset[:, None]  # (width, tiles down)
    transposed = tf.reshape(tf.gather(tf.reshape(table, [-1, rows.length]), lines), [target_size[1], -1])
    return tf.gather(tf.transpose(transposed), rows.tile * rows.length + rows.offset)


def with_background(logits: tf.Tensor) -> tf.Tensor:
    """One logit as those of two classes, as in `imaging.postprocess`.

    Args:
        logits: (..., K).

    Returns:
        (..., 2) where K is 1, the logits otherwise.

    Example:
        >>> with_background(tf.ones((1, 1))).numpy().tolist()
        [[0.0, 1.0]]
    """
    return tf.concat([tf.zeros_like(logits), logits], axis=-1) if logits.shape[-1] == 1 else logits


def encode_png(class_map: tf.Tensor) -> tf.Tensor:
    """Encodes a class map as a grayscale PNG of 8 bits, or 16 where an index is above 255.

    Args:
        class_map: (H, W) integers in [0, 65535].

    Returns:
        Scalar string with the bytes of the file.

    Example:
        >>> tf.io.decode_png(encode_png(tf.constant([[3, 7]]))).numpy().tolist()
        [[[3], [7]]]
    """
    image = class_map[..., None]
    return tf.cond(
        tf.reduce_max(image) <= 255,
        lambda: tf.io.encode_png(tf.cast(image, tf.uint8)),
        lambda: tf.io.encode_png(tf.cast(image, tf.uint16)),
    )


class _Axis(NamedTuple):
    """How the pixels of one axis lie in tiles that mix the same two logits.

    Args:
        low: (tiles,) int32, the one logit of each tile.
        high: (tiles,) int32, the other one, which a pixel mixes in by its weight.
        weights: (tiles, length) float32, weight of each pixel; a shorter tile repeats some.
        tile: (pixels,) int32, the tile of each pixel.
        offset: (pixels,) int32, its place in the tile.
    """

    low: tf.Tensor
    high: tf.Tensor
    weights: tf.Tensor
    tile: tf.Tensor
    offset: tf.Tensor

    @property
    def length(self) -> tf.Tensor:
        """Pixels of the longest tile."""
        return tf.shape(self.weights)[1]


def _tiles(size: tf.Tensor, target: tf.Tensor | int) -> _Axis:
    """Divides `target` pixels over `size` logits into tiles, in single precision as `imaging.postprocess` does."""
    position = source_positions(
        tf.range(tf.cast(target, tf.float32)), tf.cast(size, tf.float32), tf.cast(target, tf.float32)
    )
    low = tf.floor(position)  # -1 before the first logit
    weight = position - low
    new_cell = tf.concat([[True], tf.not_equal(low[1:], low[:-1])], axis=0)
    cells = tf.cast(tf.where(new_cell)[:, 0], tf.int32)  # first pixel of each
    offset = (tf.range(target) - tf.gather(cells, tf.cumsum(tf.cast(new_cell, tf.int32)) - 1)) % _TILE
    first = tf.cast(tf.where(tf.equal(offset, 0))[:, 0], tf.int32)  # pixel of each tile
    pixels = tf.minimum(first[:, None] + tf.range(tf.reduce_max(offset) + 1), target - 1)
    low = tf.cast(tf.gather(low, first), tf.int32)
    tile = tf.cumsum(tf.cast(tf.equal(offset, 0), tf.int32)) - 1
    return _Axis(tf.maximum(low, 0), tf.minimum(low + 1, size - 1), tf.gather(weight, pixels), tile, offset)


def _boundary_tiles(argmax: tf.Tensor, rows: _Axis, columns: _Axis) -> tf.Tensor:
    """Marks the tiles (tiles down, tiles across) whose four logits do not all have the same argmax (h, w)."""
    upper, lower = tf.gather(argmax, rows.low), tf.gather(argmax, rows.high)
    corners = [tf.gather(line, side, axis=1) for line in (upper, lower) for side in (columns.low, columns.high)]
    return tf.reduce_any([tf.not_equal(corners[0], other) for other in corners[1:]], axis=0)


def _resolve(logits: tf.Tensor, rows: _Axis, columns: _Axis, places: tf.Tensor) -> tf.Tensor:
    """Interpolates tiles chunk by chunk and finds the class of each pixel.

    Args:
        logits: (h, w, K) float32.
        rows: Tiles down.
        columns: Tiles across.
        places: (n, 2) int32: which tile down and across; at least one.

    Returns:
        Classes (n, columns.length, rows.length), int32: each tile transposed.
    """
    # Weights of the pixels of a tile, in one row as the tile itself.
    down = tf.tile(rows.weights, [1, columns.length])  # (tiles, Q*P)
    across = tf.repeat(columns.weights, rows.length, axis=1)
    count, num_labels = tf.shape(places)[0], tf.shape(logits)[2]

    def resolve(chunk: tf.Tensor) -> tf.Tensor:
        row, column = tf.unstack(tf.gather(places, chunk), axis=1)
        corners = _corners(logits, rows, columns, row, column)
        tile, label = _candidates(corners)
        pair = tile * num_labels + label
        a, b, c, d = (tf.gather(tf.reshape(corner, [-1]), pair)[:, None] for corner in corners)  # (p, 1) each
        weight = tf.gather(down, tf.gather(row, tile))  # (p, Q*P)
        left, step = a + weight * (c - a), (b - a) + weight * ((d - b) - (c - a))
        values = left + tf.gather(across, tf.gather(column, tile)) * step
        beaten = values < tf.gather(tf.math.segment_max(values, tile), tile)
        return tf.math.segment_min(tf.where(beaten, num_labels, label[:, None]), tile)  # (tiles, Q*P)

    area = rows.length * columns.length
    step = tf.clip_by_value(_CHUNK_BYTES // (4 * area * num_labels), 1, count)
    chunks = tf.range(0, count, step)[:, None] + tf.range(step)
    resolved = tf.map_fn(
        resolve,
        tf.minimum(chunks, count - 1),  # the last chunk repeats its last tile
        fn_output_signature=tf.TensorSpec([None, None], tf.int32),
        parallel_iterations=1,
    )
    return tf.reshape(resolved, [-1, columns.length, rows.length])[:count]


def _corners(logits: tf.Tensor, rows: _Axis, columns: _Axis, row: tf.Tensor, column: tf.Tensor) -> list[tf.Tensor]:
    """The logits (tiles, K) around tiles: upper left, upper right, lower left, lower right."""
    flat = tf.reshape(logits, [-1, tf.shape(logits)[2]])
    starts = [tf.gather(side, row) * tf.shape(logits)[1] for side in (rows.low, rows.high)]
    return [
        tf.gather(flat, start + tf.gather(side, column)) for start in starts for side in (columns.low, columns.high)
    ]


def _candidates(corners: list[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """The pairs of tile and class that may win a pixel, as two (p,) int32; each tile has one at least."""
    a, b, c, d = corners
    highest = tf.maximum(tf.maximum(a, b), tf.maximum(c, d))
    lowest = tf.minimum(tf.minimum(a, b), tf.minimum(c, d))
    beaten = highest < tf.reduce_max(lowest, axis=1, keepdims=True)  # never where a logit is not a number
    tile, label = tf.unstack(tf.cast(tf.where(~beaten), tf.int32), axis=1)
    return tile, label
