"""The graph resizes to the bytes of Pillow, whatever the sizes and the filter."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tf_segformer.imaging.graph.resize import resize_like_pillow


@pytest.mark.parametrize("resample", range(6))
def test_resize_has_the_bytes_of_pillow_for_random_shapes(resample: int):
    resize = tf.function(
        lambda image, size: resize_like_pillow(image, size[0], size[1], resample),
        input_signature=[tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([2], tf.int32)],
    )
    random = np.random.default_rng(resample)
    for index in range(70):
        height, width, *target = (int(side) for side in np.exp(random.uniform(0, np.log(400), 4)))
        if index % 10 == 0:
            target = [max(1, height // 4), max(1, width // 4)]
        target = {1: [height, target[1]], 2: [target[0], width], 3: [height, width]}.get(index % 10, target)
        image = random.integers(0, 256, (height, width, 3)).astype(np.uint8)
        if index % 2:
            image = np.where(image > 127, 255, 0).astype(np.uint8)  # edges that overshoot the range
        expected = np.asarray(Image.fromarray(image).resize((target[1], target[0]), resample))
        np.testing.assert_array_equal(resize(image, target), expected, err_msg=f"{image.shape} to {target}")


def test_an_unknown_filter_is_rejected_when_the_graph_is_built():
    with pytest.raises(ValueError, match="filters"):
        resize_like_pillow(tf.zeros((4, 4, 3), tf.uint8), 2, 2, resample=9)
