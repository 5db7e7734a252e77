"""The graph gives the bytes of the Python processor, as a SavedModel too, and rejects what it cannot decode."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.imaging.golden_cases import make_image
from tests.imaging.test_files import PHOTO, encode, png_header
from tf_segformer import SegformerImageProcessor
from tf_segformer.imaging.files import open_image
from tf_segformer.imaging.graph import processing
from tf_segformer.imaging.graph.resize import resize_like_pillow
from tf_segformer.imaging.labels import palette_for
from tf_segformer.imaging.postprocess import class_map_from_logits
from tf_segformer.imaging.visualize import colorize


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
        lambda image: processing.preprocess(image, processor),
        input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)],
    )
    for shape in ((211, 97, 3), (1, 1, 3), (480, 64, 3)):
        image = make_image(shape, "uint8")
        expected = processor(image, input_data_format="channels_last")["pixel_values"][0].astype(np.float32)
        assert prepare(image).numpy().tobytes() == expected.tobytes()


def encoded_images() -> dict[str, bytes]:
    """A file of every kind that the graph decodes."""
    files = {}
    for height, width in ((37, 53), (16, 16), (1, 1), (1, 9)):
        rgb = Image.fromarray(make_image((height, width, 3), "uint8"))
        for name, options in {
            "444": {"subsampling": 0},
            "422": {"subsampling": 1},
            "420": {"subsampling": 2},
            "progressive": {"progressive": True},
        }.items():
            stream = io.BytesIO()
            rgb.save(stream, "JPEG", quality=70, **options)
            files[f"jpeg {name} {height}x{width}"] = stream.getvalue()
        for mode in ("L", "CMYK"):
            files[f"jpeg {mode} {height}x{width}"] = encode(rgb.convert(mode), "JPEG")
        for mode in ("RGB", "RGBA", "L", "LA", "P", "1"):
            files[f"png {mode} {height}x{width}"] = encode(rgb.convert(mode), "PNG")
        for bits in (3, 13):
            files[f"png {bits} colors {height}x{width}"] = encode(rgb.quantize(bits), "PNG")
        for channels in (1, 2, 3, 4):
            values = make_image((height, width, channels), "int64") * 251 % 65536
            files[f"png 16 bit {channels} {height}x{width}"] = tf.io.encode_png(values.astype(np.uint16)).numpy()
    return files


@pytest.mark.parametrize(("name", "encoded"), encoded_images().items(), ids=encoded_images())
def test_decoded_image_equals_pillow(name: str, encoded: bytes):
    expected = np.asarray(open_image(encoded))
    np.testing.assert_array_equal(processing.decode_image(encoded), expected)
    np.testing.assert_array_equal(processing.encoded_image_size(encoded), expected.shape[:2])


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        (b"", "neither a JPEG nor a PNG"),
        (b"\x89PNG", "neither a JPEG nor a PNG"),
        (encode(Image.new("RGB", (4, 4)), "BMP"), "neither a JPEG nor a PNG"),
        (encode(Image.new("P", (4, 4)), "GIF"), "neither a JPEG nor a PNG"),
        (PHOTO[: len(PHOTO) // 2], "Invalid JPEG"),
        (png_header(50_000, 50_000), "max_pixels"),
        (png_header(0, 7), "empty"),
        (png_header(40, 40), "Invalid PNG"),
    ],
    ids=["empty", "signature only", "BMP", "GIF", "half a JPEG", "bomb", "no height", "no pixels"],
)
def test_bad_bytes_are_rejected_when_the_graph_runs(encoded: bytes, message: str):
    decode = tf.function(processing.decode_image, input_signature=[tf.TensorSpec([], tf.string)])
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        decode(encoded)


def test_saved_model_from_bytes_equals_python(tmp_path: Path):
    processor = SegformerImageProcessor(size=(40, 56))

    class Serving(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def __call__(self, encoded: tf.Tensor) -> dict[str, tf.Tensor]:
            pixel_values, sizes = processing.preprocess_encoded(encoded, processor)
            class_map = processing.class_map_from_logits(pixel_values[0, ::4, ::4], sizes[0])
            return {"pixel_values": pixel_values, "png": processing.encode_png(class_map), "sizes": sizes}

    tf.saved_model.save(Serving(), str(tmp_path))
    files = [PHOTO, encode(make_image((90, 31, 3), "pil"), "PNG")]
    results = tf.saved_model.load(str(tmp_path))(files)
    expected = processor([open_image(one) for one in files])["pixel_values"]
    assert results["pixel_values"].numpy().tobytes() == expected.tobytes()
    assert results["sizes"].numpy().tolist() == [[150, 200], [90, 31]]
    class_map = np.asarray(Image.open(io.BytesIO(results["png"].numpy())))
    np.testing.assert_array_equal(class_map, class_map_from_logits(expected[0, ::4, ::4], (150, 200)))


def test_class_maps_equal_numpy_for_random_sizes():
    resize = tf.function(
        processing.class_map_from_logits,
        input_signature=[tf.TensorSpec([None, None, None], tf.float32), tf.TensorSpec([2], tf.int32)],
    )
    random = np.random.default_rng(0)
    for index in range(60):
        height, width, num_labels = random.integers(1, 30, 3)
        target = random.integers(1, 120, 2)
        logits = random.standard_normal((height, width, num_labels)).astype(np.float32)
        if index % 2:
            logits = logits.cumsum(axis=0).cumsum(axis=1)  # large segments
        np.testing.assert_array_equal(resize(logits, target), class_map_from_logits(logits, target))


def test_image_of_one_class_needs_no_interpolation():
    logits = np.zeros((5, 6, 3), np.float32)
    logits[..., 1] = 1
    assert (processing.class_map_from_logits(tf.constant(logits), (31, 17)).numpy() == 1).all()


@pytest.mark.parametrize(("largest", "bits"), [(255, np.uint8), (256, np.uint16)])
def test_class_map_png_keeps_every_index(largest: int, bits: type):
    class_map = np.array([[0, 7, largest]])
    decoded = np.asarray(Image.open(io.BytesIO(processing.encode_png(tf.constant(class_map)).numpy())))
    np.testing.assert_array_equal(decoded, class_map)
    assert decoded.dtype == bits


def test_colors_equal_those_of_the_images():
    class_map = np.array([[0, 10, 255], [3, 4, 11]])
    palette = palette_for("camvid")
    np.testing.assert_array_equal(processing.colorize(tf.constant(class_map), palette), colorize(class_map, palette))


def test_what_the_graph_cannot_do_is_rejected_when_it_is_built():
    with pytest.raises(ValueError, match="apply_exif_orientation"):
        processing.preprocess(tf.zeros((4, 4, 3), tf.uint8), SegformerImageProcessor(apply_exif_orientation=True))
    with pytest.raises(ValueError, match="uint8"):
        processing.preprocess(tf.zeros((4, 4, 3)), SegformerImageProcessor())
    with pytest.raises(ValueError, match="do_resize"):
        processing.preprocess_encoded(tf.constant([PHOTO]), SegformerImageProcessor(do_resize=False))
    with pytest.raises(ValueError, match="filters"):
        resize_like_pillow(tf.zeros((4, 4, 3), tf.uint8), 2, 2, resample=9)
