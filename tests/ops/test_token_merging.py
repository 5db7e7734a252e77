"""Token merging against a definition in loops: which tokens share a query, at any size, traced in any way."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tf_segformer.ops.token_merging import count_merged, match_tokens, merge, unmerge

SIZES = [(6, 8), (5, 7), (1, 4), (4, 1), (2, 2)]


def random_map(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


def definition(x, fraction):
    """Groups of each token, counted through all images in the order of their first tokens."""
    groups, count = [], 0
    for image in x:
        height, width = image.shape[:2]
        sources = []
        for row, column in np.ndindex(height // 2 * 2, width // 2 * 2):
            token, first = image[row, column], image[row // 2 * 2, column // 2 * 2]
            if row % 2 or column % 2:
                sources.append((token @ first / np.sqrt(token @ token * (first @ first)), row, column))
        merged = {place[1:] for place in sorted(sources, reverse=True)[: int(fraction * height * width)]}
        number = np.zeros((height, width), int)
        for place in np.ndindex(height, width):
            if place not in merged:
                number[place], count = count, count + 1
        for row, column in merged:
            number[row, column] = number[row // 2 * 2, column // 2 * 2]
        groups.append(number.ravel())
    return np.concatenate(groups), count // len(x)


@pytest.mark.parametrize("fraction", [0.25, 0.6, 0.75])
def test_the_most_similar_tokens_of_each_image_join_the_first_of_their_cell(fraction):
    open_sizes = tf.function(
        lambda x: match_tokens(x, fraction), input_signature=[tf.TensorSpec((None, None, None, 4))], autograph=False
    )
    for size in SIZES:
        x = random_map(3, *size, 4)
        expected, expected_count = definition(x, fraction)
        for groups, count in (match_tokens(tf.constant(x), fraction), open_sizes(x)):
            np.testing.assert_array_equal(groups, expected)
            assert int(count) == expected_count


@pytest.mark.parametrize("shape", [(3, 5, 7, 4), (None, None, None, 4)], ids=["known sizes", "open sizes"])
def test_xla_matches_the_same_tokens(shape):
    x = random_map(3, 5, 7, 4)
    match = tf.function(lambda x: match_tokens(x, 0.6)[0], jit_compile=True, input_signature=[tf.TensorSpec(shape)])
    np.testing.assert_array_equal(match(x), definition(x, 0.6)[0])


def test_known_and_open_sizes_have_the_same_count():
    count = tf.function(lambda height, width: count_merged(height, width, 0.65))
    for height, width in [(256, 512), (17, 31), (20, 25), (1, 9), (4, 5)]:
        assert int(count(tf.constant(height), tf.constant(width))) == count_merged(height, width, 0.65)


def test_a_group_is_merged_to_its_mean_which_goes_back_to_all_of_its_tokens():
    x = random_map(2, 4, 6, 3)
    groups, count = match_tokens(x, 0.5)
    merged = merge(x.reshape(-1, 3), groups, 2 * count)
    assert merged.shape == (24, 3)
    for group in range(24):
        members = x.reshape(-1, 3)[np.asarray(groups) == group]
        np.testing.assert_allclose(merged[group], members.mean(0), rtol=0, atol=1e-6)
        np.testing.assert_array_equal(
            unmerge(merged, groups)[np.asarray(groups) == group], [merged[group]] * len(members)
        )


def test_cells_of_equal_tokens_survive():
    x = np.repeat(np.repeat(random_map(2, 3, 4, 5), 2, axis=1), 2, axis=2)
    groups, count = match_tokens(x, 0.75)
    assert count == 12
    restored = unmerge(merge(x.reshape(-1, 5), groups, 24), groups)
    np.testing.assert_allclose(restored, x.reshape(-1, 5), rtol=0, atol=1e-6)


def test_tokens_of_zeros_are_merged_like_others():
    groups, count = match_tokens(np.zeros((1, 4, 4, 3), "float32"), 0.75)
    assert count == 4 and sorted(np.unique(groups, return_counts=True)[1]) == [4, 4, 4, 4]


def test_gradients_of_a_mean_and_its_copies_are_shared_by_the_tokens():
    x = tf.constant(random_map(4, 2))
    groups = tf.constant([0, 0, 0, 1])
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(unmerge(merge(x, groups, 2), groups) * [[1.0], [2.0], [3.0], [4.0]])
    np.testing.assert_allclose(tape.gradient(loss, x), [[2, 2], [2, 2], [2, 2], [4, 4]], rtol=0, atol=1e-6)
