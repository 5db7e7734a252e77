"""Class maps made on the device of Keras' backend are those of the path through NumPy."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from PIL import Image

from tests.other_backends import output_on
from tf_segformer import SegformerImageProcessor, SegmentationPredictor
from tf_segformer.imaging import transforms
from tf_segformer.inference import on_device

# From a size to another: larger, smaller, smaller down than across by more than Pillow's limit, and in one axis alone.
SIZES = [((40, 60), (64, 90)), ((50, 70), (13, 29)), ((33, 20), (64, 12)), ((90, 60), (30, 60)), ((200, 40), (20, 30))]

ON_ANOTHER_BACKEND = """
import sys
sys.modules["tensorflow"] = None  # nothing of it may be needed
import keras
from tests.inference import test_on_device
assert keras.backend.backend() == sys.argv[1]
for sizes in test_on_device.SIZES[:3]:
    test_on_device.test_images_are_resized_to_the_bytes_of_pillow(*sizes)
shares = [test_on_device.largest_share_of_other_pixels()]
if sys.argv[1] == "torch":
    shares.append(test_on_device.largest_share_of_other_pixels(torch_compile="default"))
print(max(shares))
"""


def photographs(size, count=1):
    """Smooth random colors (count, H, W, 3) uint8."""
    colors = np.random.default_rng(0).integers(0, 256, (count, 5, 7, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(each).resize(size[::-1])) for each in colors])


def network(classes):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(classes, 4, strides=4)])
    model.layers[0].bias.assign(np.linspace(-0.2, 0.2, classes))
    return model


def largest_share_of_other_pixels(**options):
    """Between the predictor's class maps and those of the device, for networks of one class and of five."""
    images = photographs((90, 121), count=2)
    shares = []
    for classes in (1, 5):
        model, processor = network(classes), SegformerImageProcessor(size=64)
        expected = np.stack([each.class_map for each in SegmentationPredictor(model, processor)(images)])
        class_maps, num_classes = on_device.class_map_function(model, processor, **options)(images, (64, 64))
        assert num_classes == max(classes, 2) == len(np.unique(expected)), "agreement would say little"
        assert class_maps.shape == expected.shape and class_maps.dtype == np.int32
        shares.append((class_maps != expected).mean())
    return max(shares)


@pytest.mark.parametrize(("size_in", "size"), SIZES)
def test_images_are_resized_to_the_bytes_of_pillow(size_in, size):
    image = np.random.default_rng(0).integers(0, 256, (1, *size_in, 3), dtype=np.uint8)
    resized = on_device._resize_function(size_in, size)(keras.ops.convert_to_tensor(image))
    expected = transforms.resize(image[0], size, on_device._BILINEAR, transforms.CHANNELS_LAST)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(resized)[0], expected)


@pytest.mark.parametrize("elements", [2**28, 3000])
def test_class_maps_equal_those_through_numpy(elements, monkeypatch):
    monkeypatch.setattr(on_device, "_MAX_ELEMENTS", elements)  # all rows at once, or some
    assert largest_share_of_other_pixels() < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_class_maps_equal_those_through_numpy_on_a_backend_without_tensorflow(backend):
    assert float(output_on(backend, ON_ANOTHER_BACKEND).split()[-1]) < 1e-3


@pytest.mark.parametrize(
    "changes", [{}, {"do_rescale": False}, {"do_normalize": False}, {"do_rescale": False, "do_normalize": False}]
)
def test_pixel_values_are_those_of_the_processor(changes):
    image, processor = photographs((20, 30)), SegformerImageProcessor(size=16, **changes)
    scale, offset = on_device._affine(processor, 3)
    expected = processor(image)["pixel_values"]
    resized = transforms.resize(image[0], (16, 16), on_device._BILINEAR, transforms.CHANNELS_LAST)
    np.testing.assert_allclose(resized * scale + offset, expected[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["resize", "whole"])
def test_a_predictor_with_a_gpu_gives_the_same_results_without_logits_in_numpy(mode, monkeypatch):
    model, processor = network(4), SegformerImageProcessor(size=64)
    images = [*photographs((70, 90), count=3), *photographs((40, 50))]
    expected = list(SegmentationPredictor(model, processor, mode)(images))
    monkeypatch.setattr(on_device, "sees_gpu", lambda: True)
    predictor = SegmentationPredictor(model, processor, mode, batch_size=2)
    monkeypatch.setattr(predictor, "_logits", lambda *_: pytest.fail("the logits came back"))
    results = list(predictor(images))
    assert [each.index for each in results] == [0, 1, 2, 3]
    for one, other in zip(expected, results, strict=True):
        assert one.labels == other.labels and one.class_map.shape == other.class_map.shape
        assert (one.class_map != other.class_map).mean() < 1e-3


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ({"return_confidence": True}, {}),
        ({"return_logits": True}, {}),
        ({}, {"resample": 3}),
        ({}, {"normalization": "per_image"}),
    ],
)
def test_a_predictor_with_a_gpu_takes_logits_to_the_host_where_it_needs_them(options, fields, monkeypatch):
    monkeypatch.setattr(on_device, "sees_gpu", lambda: True)
    processor = SegformerImageProcessor(size=64, **fields)
    (result,) = SegmentationPredictor(network(4), processor, **options)(photographs((70, 90)))
    assert (result.confidence is not None) == ("return_confidence" in options)
    assert (result.logits is not None) == ("return_logits" in options)


def test_images_that_are_not_8_bit_take_the_path_through_numpy(monkeypatch):
    model, processor = network(4), SegformerImageProcessor(size=64, do_rescale=False)
    images = photographs((70, 90), count=2) / np.float32(255)
    expected = [each.class_map for each in SegmentationPredictor(model, processor)(images)]
    monkeypatch.setattr(on_device, "sees_gpu", lambda: True)
    np.testing.assert_array_equal(
        [each.class_map for each in SegmentationPredictor(model, processor)(images)], expected
    )


def test_what_the_device_cannot_do_is_said():
    with pytest.raises(ValueError, match="resample=2"):
        on_device.class_map_function(network(2), SegformerImageProcessor(resample=3))
    with pytest.raises(ValueError, match="torch backend"):
        on_device.class_map_function(network(2), SegformerImageProcessor(), torch_compile="default")
    flat = keras.Sequential([keras.Input((None, None, 3)), keras.layers.GlobalAveragePooling2D()])
    with pytest.raises(ValueError, match="not logits"):
        on_device.class_map_function(flat, SegformerImageProcessor())(photographs((20, 20)), (16, 16))
