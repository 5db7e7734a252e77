"""The graph gives the pixel values of the Python processor bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.imaging.golden_cases import make_image
from tf_segformer import SegformerImageProcessor
from tf_segformer.imaging.graph.preprocess import preprocess


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"resample": 3, "size": (65, 33)},
        {"do_rescale": False},
        {"rescale_factor": 0.0039},  # no arithmetic in single precision gives the processor's bits
        {"do_normalize": False, "rescale_factor": 0},
        {"do_normalize": False, "rescale_factor": 1 / 127.5},
        {"do_rescale": False, "do_normalize": False},
        {"do_resize": False},
        {"image_mean": 0.4, "image_std": [0.1, 0.2, 0.3]},
    ],
    ids=str,
)
def test_pixel_values_equal_the_processor_bit_for_bit(options: dict):
    processor = SegformerImageProcessor(**{"size": (96, 130), **options})
    prepare = tf.function(
        lambda image: preprocess(image, processor),
        input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)],
    )
    for shape in ((211, 97, 3), (1, 1, 3), (480, 64, 3)):
        image = make_image(shape, "uint8")
        expected = processor(image, input_data_format="channels_last")["pixel_values"][0].astype(np.float32)
        assert prepare(image).numpy().tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("image", "processor", "message"),
    [
        (tf.zeros((4, 4, 3), tf.uint8), SegformerImageProcessor(apply_exif_orientation=True), "apply_exif_orientation"),
        (tf.zeros((4, 4, 3)), SegformerImageProcessor(), "uint8"),
    ],
    ids=["EXIF orientation", "float image"],
)
def test_what_the_graph_cannot_do_is_rejected_when_it_is_built(image, processor, message):
    with pytest.raises(ValueError, match=message):
        preprocess(image, processor)
