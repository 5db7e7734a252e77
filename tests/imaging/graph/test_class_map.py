"""Class maps of the graph equal those of NumPy, and their PNG files keep every class."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tf_segformer.imaging import postprocess
from tf_segformer.imaging.graph.class_map import class_map_from_logits, encode_png


def test_class_maps_equal_numpy_for_random_sizes():
    resize = tf.function(
        class_map_from_logits,
        input_signature=[tf.TensorSpec([None, None, None], tf.float32), tf.TensorSpec([2], tf.int32)],
    )
    random = np.random.default_rng(0)
    for index in range(60):
        height, width, num_labels = random.integers(1, 30, 3)
        target = random.integers(1, 120, 2)
        logits = random.standard_normal((height, width, num_labels)).astype(np.float32)
        if index % 2:
            logits = logits.cumsum(axis=0).cumsum(axis=1)  # large segments
        np.testing.assert_array_equal(resize(logits, target), postprocess.class_map_from_logits(logits, target))


def test_image_of_one_class_needs_no_interpolation():
    logits = np.zeros((5, 6, 3), np.float32)
    logits[..., 1] = 1
    assert (class_map_from_logits(tf.constant(logits), (31, 17)).numpy() == 1).all()


@pytest.mark.parametrize(("largest", "bits"), [(255, np.uint8), (256, np.uint16)])
def test_class_map_png_keeps_every_index(largest: int, bits: type):
    class_map = np.array([[0, 7, largest]])
    decoded = np.asarray(Image.open(io.BytesIO(encode_png(tf.constant(class_map)).numpy())))
    np.testing.assert_array_equal(decoded, class_map)
    assert decoded.dtype == bits
