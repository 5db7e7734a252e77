"""Class maps equal resize-then-argmax but for ties, in little memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from tf_segformer.imaging.postprocess import class_fractions, class_map_and_confidence, class_map_from_logits


def resized(logits: np.ndarray, target: tuple[int, int]) -> np.ndarray:
    """The definition: bilinear, half-pixel centres, in double precision, in one piece."""
    for axis, size in enumerate(target):
        position = np.clip((np.arange(size) + 0.5) * logits.shape[axis] / size - 0.5, 0, logits.shape[axis] - 1)
        low = position.astype(int)
        high = np.minimum(low + 1, logits.shape[axis] - 1)
        weight = (position - low).reshape([-1] + [1] * (2 - axis))
        logits = np.take(logits, low, axis) * (1 - weight) + np.take(logits, high, axis) * weight
    return logits


def random_case(random: np.random.Generator, index: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Noise or large segments, enlarged, shrunk or kept."""
    height, width, num_labels = (int(one) for one in random.integers((1, 1, 2), 40))  # one class is a sigmoid
    logits = random.standard_normal((height, width, num_labels)).astype(np.float32)
    if index % 2:
        logits = logits.cumsum(axis=0).cumsum(axis=1)
    target = (height * 4, width * 4) if index % 5 == 0 else tuple(int(one) for one in random.integers(1, 130, 2))
    return logits, target


def test_class_map_equals_the_definition_wherever_the_winner_is_clear():
    random = np.random.default_rng(0)
    for index in range(120):
        logits, target = random_case(random, index)
        values = resized(logits.astype(np.float64), target)
        found = class_map_from_logits(logits, target)
        assert found.shape == target
        lost = values.max(axis=-1) - np.take_along_axis(values, found[..., None], axis=-1)[..., 0]
        assert lost.max() <= 1e-5 * np.abs(values).max()


@pytest.mark.parity
def test_class_map_equals_torch_on_every_pixel_without_a_tie():
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(1)
    cases = [random_case(random, index) for index in range(120)]
    # So large that positions in another precision would give other classes.
    cases.append((random.standard_normal((500, 50, 8)).astype(np.float32), (1999, 199)))
    for logits, target in cases:
        channels_first = torch.from_numpy(logits).permute(2, 0, 1)[None]
        values = torch.nn.functional.interpolate(channels_first, target, mode="bilinear", align_corners=False)[0]
        expected = values.argmax(0).numpy()
        best = np.sort(values.numpy(), axis=0)[-2:]
        tied = best[-1] - best[0] <= 1e-6 * np.abs(values.numpy()).max() if len(best) > 1 else False
        assert ((class_map_from_logits(logits, target) == expected) | tied).all()


def test_first_of_equal_classes_wins_as_in_argmax():
    assert class_map_from_logits(np.zeros((3, 4, 5), np.float32), (11, 9)).max() == 0


def test_confidence_is_the_probability_of_the_winner():
    random = np.random.default_rng(2)
    for index in range(20):
        logits, target = random_case(random, index)
        values = resized(logits.astype(np.float64), target)
        exponentials = np.exp(values - values.max(axis=-1, keepdims=True))
        class_map, confidence = class_map_and_confidence(logits, target)
        np.testing.assert_array_equal(class_map, class_map_from_logits(logits, target))
        np.testing.assert_allclose(confidence, 1 / exponentials.sum(axis=-1), rtol=2e-4)
        assert confidence.dtype == np.float32


@pytest.mark.parametrize("function", [class_map_from_logits, class_map_and_confidence])
def test_150_classes_at_2048_pixels_need_less_than_200_megabytes(function):
    logits = (
        np.random.default_rng(0).standard_normal((5, 64, 150)).astype(np.float32)
    )  # noise: the class changes everywhere
    function(logits, (64, 64))
    tracemalloc.start()
    function(logits, (2048, 2048))
    extra = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert extra < 200e6


def test_half_precision_logits_are_taken():
    logits = np.random.default_rng(0).standard_normal((5, 6, 7)).astype(np.float16)
    np.testing.assert_array_equal(
        class_map_from_logits(logits, (20, 20)), class_map_from_logits(logits.astype(np.float32), (20, 20))
    )


@pytest.mark.parametrize(("shape", "target"), [((4, 4), (8, 8)), ((0, 4, 3), (8, 8)), ((4, 4, 3), (0, 8))])
def test_wrong_shapes_are_rejected(shape: tuple, target: tuple):
    with pytest.raises(ValueError, match="must be"):
        class_map_from_logits(np.zeros(shape, np.float32), target)


def test_fractions_sum_to_one_without_the_ignored_pixels():
    class_map = np.array([[0, 0, 2, 255]])
    assert class_fractions(class_map, 3, ignore_index=255).tolist() == [2 / 3, 0, 1 / 3]
    assert class_fractions(class_map, 3).tolist() == [0.5, 0, 0.25]
    assert class_fractions(np.full((2, 2), 255), 3, ignore_index=255).tolist() == [0, 0, 0]
