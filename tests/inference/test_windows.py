"""Rows of logits: resizing and window averages read in chunks equal their direct statement on whole arrays."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from tests.inference.definitions import resized
from tf_segformer.inference.windows import (
    BLENDS,
    CHUNK_BYTES,
    ArrayLogits,
    ResizedLogits,
    SlidingWindowLogits,
    row_chunks,
    window_starts,
)


def _read(source, step: int) -> np.ndarray:
    height = source.size[0]
    return np.concatenate([source.rows(first, min(first + step, height)) for first in range(0, height, step)])


@pytest.mark.parametrize("size", [(33, 65), (9, 13), (5, 4), (1, 1), (40, 13)], ids=str)
@pytest.mark.parametrize("step", [1, 7, 64])
def test_resized_rows_equal_the_whole_resize(size, step):
    logits = np.random.default_rng(0).normal(size=(9, 13, 3)).astype("float32")
    rows = _read(ResizedLogits(ArrayLogits(logits), size), step)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, resized(logits, size), atol=2e-6)


@pytest.mark.parametrize(
    ("length", "window", "stride", "expected"),
    [
        (100, 40, 25, [0, 25, 50, 60]),
        (100, 40, 30, [0, 30, 60]),
        (40, 40, 30, [0]),
        (41, 40, 30, [0, 1]),
        (2048, 1024, 768, [0, 768, 1024]),
    ],
)
def test_last_window_is_shifted_inside(length, window, stride, expected):
    assert window_starts(length, window, stride) == expected


def _window_logits(box: tuple[int, int, int, int]) -> np.ndarray:
    """A quarter-size array that depends on nothing but the place of the window."""
    top, left, height, width = box
    return np.random.default_rng([top, left]).normal(size=(-(-height // 4), -(-width // 4), 3)).astype("float32")


@pytest.mark.parametrize(
    ("size", "window", "stride"),
    [((50, 70), (32, 24), (20, 24)), ((40, 40), (64, 64), (48, 48)), ((33, 90), (16, 32), (5, 11))],
    ids=str,
)
@pytest.mark.parametrize("step", [1, 9, 100])
def test_window_rows_equal_the_rule_of_mmsegmentation(size, window, stride, step):
    """Sum of the windows' logits, each resized to its window, over the number of windows at each pixel."""
    window_size = tuple(np.minimum(window, size))
    total, count = np.zeros((*size, 3)), np.zeros((*size, 1))
    for row in range(-(-max(size[0] - window_size[0], 0) // stride[0]) + 1):
        for column in range(-(-max(size[1] - window_size[1], 0) // stride[1]) + 1):
            bottom = min(row * stride[0] + window_size[0], size[0])
            right = min(column * stride[1] + window_size[1], size[1])
            top, left = bottom - window_size[0], right - window_size[1]
            logits = _window_logits((top, left, *window_size))
            total[top:bottom, left:right] += resized(logits, window_size)
            count[top:bottom, left:right] += 1
    source = SlidingWindowLogits(size, window, stride, lambda boxes: [_window_logits(box) for box in boxes])
    np.testing.assert_allclose(_read(source, step), total / count, atol=3e-6)


def test_windows_are_computed_once_and_dropped_when_passed():
    computed: list[int] = []

    def predict(boxes):
        computed.append(boxes[0][0])
        return [_window_logits(box) for box in boxes]

    source = SlidingWindowLogits((100, 20), (20, 20), (10, 20), predict)
    held = []
    for first in range(0, 100, 5):
        source.rows(first, first + 5)
        held.append(len(source._computed))
    assert computed == list(range(0, 90, 10))
    assert max(held) <= 2


def test_the_average_of_windows_can_be_resized():
    def predict(boxes):
        return [_window_logits(box) for box in boxes]

    source = SlidingWindowLogits((24, 40), (16, 16), (8, 8), predict)
    whole = _read(SlidingWindowLogits((24, 40), (16, 16), (8, 8), predict), 24)
    np.testing.assert_allclose(_read(ResizedLogits(source, (31, 57)), 4), resized(whole, (31, 57)), atol=3e-6)


def test_rows_that_were_read_are_freed():
    tracemalloc.start()
    source = ArrayLogits(np.zeros((1000, 100, 10), np.float32))
    whole = tracemalloc.get_traced_memory()[0]
    source.free_before(900)
    assert tracemalloc.get_traced_memory()[0] < 0.15 * whole
    tracemalloc.stop()
    assert source.rows(900, 1000).shape == (100, 100, 10)


def test_windows_above_are_half_freed_before_the_next_ones_are_computed():
    """Windows overlap by half: at any time one row of windows is held whole, and half of the one above."""

    def predict(boxes):
        return [np.zeros((height, width, 50), np.float32) for _, _, height, width in boxes]

    tracemalloc.start()
    source = SlidingWindowLogits((256, 512), (64, 64), (32, 64), predict)
    row_of_windows = tracemalloc.get_traced_memory()[0]
    for first in range(0, 256, 2):
        source.rows(first, first + 2)
    assert tracemalloc.get_traced_memory()[1] < 1.8 * row_of_windows
    tracemalloc.stop()


def test_chunks_cover_every_row_within_the_budget():
    pairs = list(row_chunks(10_000, 10_000, 150))
    assert [first for first, _ in pairs] == [0] + [last for _, last in pairs[:-1]]
    assert pairs[-1][1] == 10_000
    assert max(last - first for first, last in pairs) * 10_000 * 150 * 4 <= CHUNK_BYTES
    assert list(row_chunks(2, 10**9, 150)) == [(0, 1), (1, 2)]


def _blended(blend: str, step: int = 7, logits_of=_window_logits) -> np.ndarray:
    def predict(boxes):
        return [logits_of(box) for box in boxes]

    return _read(SlidingWindowLogits((50, 70), (32, 24), (20, 17), predict, blend), step)


def test_cosine_weights_are_positive_symmetric_and_fall_to_the_border():
    for side in (1, 2, 31, 512):
        weights = BLENDS["cosine"](side)
        assert weights.dtype == np.float32
        assert (weights > 0).all()
        np.testing.assert_allclose(weights, weights[::-1], atol=1e-6)
        assert (np.diff(weights[: (side + 1) // 2]) > 0).all()


@pytest.mark.parametrize("blend", BLENDS)
def test_windows_that_agree_are_unchanged_by_their_weights(blend):
    constant = np.array([0.25, -3.0, 100.0], np.float32)

    def logits_of(box: tuple[int, int, int, int]) -> np.ndarray:
        return np.tile(constant, (box[2] // 4, box[3] // 4, 1))

    np.testing.assert_allclose(_blended(blend, logits_of=logits_of), np.tile(constant, (50, 70, 1)), rtol=1e-5)


def test_cosine_blend_is_the_weighted_mean_of_the_windows():
    total, weight = np.zeros((50, 70, 3)), np.zeros((50, 70, 1))
    along = np.outer(*(np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2 for side in (32, 24)))[..., None]
    for top in window_starts(50, 32, 20):
        for left in window_starts(70, 24, 17):
            place = np.s_[top : top + 32, left : left + 24]
            total[place] += along * resized(_window_logits((top, left, 32, 24)), (32, 24))
            weight[place] += along
    np.testing.assert_allclose(_blended("cosine"), total / weight, atol=1e-5)
    np.testing.assert_array_equal(_blended("cosine", step=50), _blended("cosine"))
