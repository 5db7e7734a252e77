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


BANDS = {"image_mean": [0.1, 0.2, 0.3, 0.4, 0.5], "image_std": [0.5, 0.4, 0.3, 0.2, 0.1]}


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        ("uint8", BANDS),
        ("uint8", {**BANDS, "value_range": (20, 200), "resample": 3}),
        ("uint16", {**BANDS, "value_range": [(band, 3000 + band) for band in range(5)]}),
        ("int16", {**BANDS, "value_type": "int16", "value_percentiles": (2, 98), "resample": 1}),
        ("float32", {"value_range": (-0.3, 0.9), "do_normalize": False, "resample": 0}),
        ("uint16", {"value_type": "uint16", "rescale_factor": 1 / 65535, "image_mean": 0.4, "image_std": 0.3}),
        ("float32", {"normalization": "per_image", "do_rescale": False, "do_resize": False}),
        ("uint16", {"normalization": "per_image", "value_percentiles": (0, 99)}),
    ],
    ids=str,
)
def test_bands_of_any_type_equal_the_processor(dtype: str, options: dict):
    processor = SegformerImageProcessor(**{"size": (40, 30), **options})
    prepare = tf.function(
        lambda image: preprocess(image, processor),
        input_signature=[tf.TensorSpec([None, None, 5], dtype)],
    )
    for shape in ((71, 25, 5), (13, 40, 5)):
        image = np.random.default_rng(0).uniform(-1, 1, shape) if dtype == "float32" else None
        image = (np.random.default_rng(0).integers(0, 250, shape) if image is None else image).astype(dtype)
        image *= 1 if dtype in ("uint8", "float32") else 17
        expected = processor(image, input_data_format="channels_last")["pixel_values"][0]
        tolerance = 1e-6 if processor.normalization else 0
        np.testing.assert_allclose(prepare(image).numpy(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("image", "processor", "message"),
    [
        (tf.zeros((4, 4, 3), tf.uint8), SegformerImageProcessor(apply_exif_orientation=True), "apply_exif_orientation"),
        (tf.zeros((4, 4, 3)), SegformerImageProcessor(), "uint8 for this processor, which has no value_range"),
        (tf.zeros((4, 4, 5), tf.uint8), SegformerImageProcessor(), "image_mean has 3 values, but the image has 5"),
        (tf.zeros((4, 4, 5)), SegformerImageProcessor(value_percentiles=(2, 98)), "image_mean has 3 values, but"),
        (tf.zeros((4, 4, 5)), SegformerImageProcessor(value_type="int16"), "float32, but value_type .* is int16"),
    ],
    ids=["EXIF orientation", "float image", "five bands", "five bands of floats", "another type"],
)
def test_what_the_graph_cannot_do_is_rejected_when_it_is_built(image, processor, message):
    with pytest.raises(ValueError, match=message):
        preprocess(image, processor)
