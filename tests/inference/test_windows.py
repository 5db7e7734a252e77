"""Rows of logits: resizing and window averages read in chunks equal their direct statement on whole arrays."""

from __future__ import annotations

import itertools
import tracemalloc

import keras
import numpy as np
import pytest

from tests.inference.definitions import resized
from tf_segformer.imaging.processor import SegformerImageProcessor
from tf_segformer.inference.predictor import SegmentationPredictor
from tf_segformer.inference.windows import (
    BLENDS,
    CHUNK_BYTES,
    ArrayLogits,
    ResizedLogits,
    SlidingWindowLogits,
    row_chunks,
    window_spans,
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
        (30, 40, 30, [0]),
        (41, 40, 30, [0, 1]),
        (2048, 1024, 768, [0, 768, 1024]),
    ],
)
def test_last_window_is_shifted_inside(length, window, stride, expected):
    assert window_spans(length, window, stride) == [(start, start + min(window, length)) for start in expected]


@pytest.mark.parametrize(
    ("length", "window", "stride", "expected"),
    [
        (2000, 512, 384, [(0, 512), (384, 896), (768, 1280), (1152, 1664), (1472, 2000)]),  # the last of 528
        (2048, 512, 384, [(0, 512), (384, 896), (768, 1280), (1152, 1664), (1536, 2048)]),
        (520, 512, 384, [(0, 520)]),  # a second one would begin at a multiple of 8
        (500, 512, 384, [(0, 500)]),
        (300, 128, 100, [(0, 128), (96, 224), (160, 300)]),  # steps of 96
        (110, 48, 24, [(0, 48), (32, 110)]),  # steps of 32 at least
        (50, 16, 12, [(0, 16), (12, 28), (24, 40), (34, 50)]),  # below 32: as they are
    ],
)
def test_aligned_windows_begin_at_multiples_and_the_last_one_reaches_the_border(length, window, stride, expected):
    assert window_spans(length, window, stride, multiple=32) == expected


@pytest.mark.parametrize("length", [33, 500, 991, 992, 2000])
@pytest.mark.parametrize(("window", "stride"), [(32, 24), (48, 48), (512, 384), (500, 111), (640, 639)])
def test_aligned_windows_cover_the_side_and_stay_below_the_next_multiple(length, window, stride):
    spans = window_spans(length, window, stride, multiple=32)
    assert all(start % 32 == 0 for start, _ in spans)
    assert all(end - start < window + 32 for start, end in spans)
    assert (spans[0][0], spans[-1][1]) == (0, length)
    assert all(following[0] <= end for (_, end), following in itertools.pairwise(spans))
    assert len({end - start for start, end in spans}) <= 2


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
    for top, bottom in window_spans(50, 32, 20):
        for left, right in window_spans(70, 24, 17):
            place = np.s_[top:bottom, left:right]
            total[place] += along * resized(_window_logits((top, left, 32, 24)), (32, 24))
            weight[place] += along
    np.testing.assert_allclose(_blended("cosine"), total / weight, atol=1e-5)  # sums in another order
    np.testing.assert_array_equal(_blended("cosine", step=50), _blended("cosine"))


def test_larger_last_windows_have_weights_of_their_own():
    size, window = (75, 110), (48, 64)
    total, weight, boxes = np.zeros((*size, 3)), np.zeros((*size, 1)), []
    for top, bottom in ((0, 75),):
        for left, right in ((0, 64), (32, 110)):
            shape = (bottom - top, right - left)
            along = np.outer(*(np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2 for side in shape))[..., None]
            total[top:bottom, left:right] += along * resized(_window_logits((top, left, *shape)), shape)
            weight[top:bottom, left:right] += along

    def predict(asked):
        boxes.extend(asked)
        return [_window_logits(box) for box in asked]

    source = SlidingWindowLogits(size, window, (24, 40), predict, "cosine", multiple=32)
    np.testing.assert_allclose(_read(source, 9), total / weight, atol=1e-5)  # sums in another order
    assert boxes == [(0, 0, 75, 64), (0, 32, 75, 78)]


def _predictor(blend: str, size: int | None = None, batch_size: int = 1) -> SegmentationPredictor:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((size, size, 3)), keras.layers.Conv2D(3, 4, strides=4, padding="same")])
    processor = SegformerImageProcessor()
    return SegmentationPredictor(
        model, processor, "slide", window=64, stride=40, blend=blend, batch_size=batch_size, progress=False
    )


@pytest.mark.parametrize(
    ("blend", "size", "columns"),
    [
        ("cosine", None, [(0, 64), (32, 64), (64, 64), (96, 84)]),  # (left, width)
        ("mean", None, [(0, 64), (40, 64), (80, 64), (116, 64)]),
        ("cosine", 64, [(0, 64), (40, 64), (80, 64), (116, 64)]),  # a network of one size takes no larger window
    ],
)
def test_cosine_aligns_windows_where_the_network_takes_any_size(blend, size, columns):
    boxes = []

    def read(box):
        boxes.append(box)
        return np.zeros((*box[2:], 3), np.uint8)

    assert _predictor(blend, size).window_logits((64, 180), read).rows(0, 64).shape == (64, 180, 3)
    assert boxes == [(0, left, 64, width) for left, width in columns]


def test_windows_of_two_sizes_share_no_batch_and_give_the_same():
    image = np.random.default_rng(0).integers(0, 256, (100, 180, 3), dtype=np.uint8)
    (single,) = _predictor("cosine")([image])
    (batched,) = _predictor("cosine", batch_size=3)([image])
    np.testing.assert_array_equal(single.class_map, batched.class_map)
