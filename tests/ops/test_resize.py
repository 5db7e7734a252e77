"""Bilinear resizing: one result from TensorFlow's kernel, from XLA and from the definition."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tf_segformer.ops.resize import interpolation_matrix, resize_bilinear

# XLA's own resize is wrong for the first four
SIZES = [
    ((5, 9), (9, 17)),
    ((17, 33), (65, 65)),
    ((1, 1), (7, 4)),
    ((9, 5), (17, 9)),
    ((16, 16), (64, 64)),
    ((9, 7), (4, 3)),
]


def definition(x: np.ndarray, height: int, width: int) -> np.ndarray:
    """Half-pixel bilinear interpolation as torch documents it, one axis after the other."""
    for axis, size in ((1, height), (2, width)):
        length = x.shape[axis]
        scale = np.float32(length) / np.float32(size)  # torch, too, has positions in float32
        source = np.maximum((np.arange(size, dtype="float32") + np.float32(0.5)) * scale - np.float32(0.5), 0)
        low = np.minimum(np.floor(source).astype(int), length - 1)
        high = np.minimum(low + 1, length - 1)
        shape = [1, 1, 1, 1]
        shape[axis] = size
        share = (source - low).reshape(shape)
        x = x.take(low, axis) * (1 - share) + x.take(high, axis) * share
    return x


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(("size_in", "size_out"), SIZES)
def test_values_equal_the_definition(size_in, size_out, jit_compile):
    x = np.random.default_rng(0).standard_normal((2, *size_in, 3)).astype("float32")
    resized = tf.function(lambda x: resize_bilinear(x, *size_out), jit_compile=jit_compile)(x)
    np.testing.assert_allclose(resized, definition(x, *size_out), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(("size_in", "size_out"), SIZES[:3])
def test_gradients_equal_the_transposed_matrices(size_in, size_out, jit_compile, dtype):
    generator = np.random.default_rng(0)
    x = tf.cast(generator.standard_normal((2, *size_in, 3)), dtype)
    upstream = generator.standard_normal((2, *size_out, 3)).astype("float32")

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = resize_bilinear(x, *size_out)
        return tape.gradient(y, x, upstream)

    rows, columns = (np.asarray(interpolation_matrix(out, size)) for out, size in zip(size_out, size_in, strict=True))
    expected = np.einsum("oh,pw,bopc->bhwc", rows, columns, upstream)
    result = tf.cast(tf.function(gradient, jit_compile=jit_compile)(x), "float32")
    rounding = {"float32": 2e-6, "float16": 1e-3, "bfloat16": 8e-3}[dtype]  # the result's own precision
    np.testing.assert_allclose(result, expected, rtol=0, atol=rounding * np.abs(expected).max())


def test_size_may_be_known_only_when_the_graph_runs():
    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 2)), tf.TensorSpec((2,), tf.int32)])
    def resize(x, size):
        return resize_bilinear(x, size[0], size[1])

    x = np.random.default_rng(0).standard_normal((1, 4, 6, 2)).astype("float32")
    np.testing.assert_allclose(resize(x, (9, 5)), definition(x, 9, 5), rtol=0, atol=1e-6)
