"""Images beyond 8-bit RGB: each band by itself, in its own range, by constants or by the image itself."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tf_segformer import SegformerImageProcessor
from tf_segformer.imaging.bands import pillow_bands
from tf_segformer.imaging.processor import IMAGENET_MEAN, IMAGENET_STD
from tf_segformer.imaging.values import divides_by_255

FIVE = {"image_mean": [0.1, 0.2, 0.3, 0.4, 0.5], "image_std": [0.5, 0.4, 0.3, 0.2, 0.1]}
TYPES = {"uint16": (0, 65535), "int16": (-3000, 12000), "float32": (-1.5, 2.5)}


def scene(dtype: str, shape=(40, 52, 5), seed=0) -> np.ndarray:
    low, high = TYPES.get(dtype, (0, 255))
    values = np.random.default_rng(seed).uniform(low, high, shape)
    return values.astype(dtype)


def pillow_resized(band: np.ndarray, size: tuple[int, int], resample: int) -> np.ndarray:
    """One band through Pillow: mode L of 8 bits, mode F of others."""
    band = band if band.dtype == np.uint8 else band.astype(np.float32)
    return np.asarray(Image.fromarray(band).resize(size[::-1], resample)).astype(np.float64)


@pytest.mark.parametrize("resample", range(6))
@pytest.mark.parametrize("dtype", ["uint8", *TYPES])
def test_each_band_is_resized_by_itself_as_pillow_does_and_scaled_in_its_own_range(dtype, resample):
    image = scene(dtype)
    low, high = np.percentile(image, (1, 90))
    ranges = [[low - band, high + band] for band in range(5)]
    processor = SegformerImageProcessor(size=(24, 60), resample=resample, value_range=ranges, value_type=dtype, **FIVE)
    found = processor(image)["pixel_values"][0]
    for band, (lowest, highest) in enumerate(ranges):
        resized = pillow_resized(image[..., band], (24, 60), resample)
        unit = ((np.clip(resized, lowest, highest) - lowest) / (highest - lowest)).astype(np.float32)
        expected = (unit - np.float32(FIVE["image_mean"][band])) / np.float32(FIVE["image_std"][band])
        np.testing.assert_array_equal(found[..., band], expected)


def test_bands_of_8_bits_with_means_of_their_own_need_no_field_that_the_hub_does_not_know():
    image = scene("uint8")
    processor = SegformerImageProcessor(size=(24, 60), **FIVE)
    assert not processor.keeps_values
    assert processor(image)["pixel_values"].shape == (1, 24, 60, 5)
    assert set(processor.to_dict()) == set(SegformerImageProcessor().to_dict())


def test_percentiles_are_those_of_each_band_of_each_image():
    image = scene("uint16")
    processor = SegformerImageProcessor(do_resize=False, value_percentiles=(10, 90), do_normalize=False)
    found = processor(image)["pixel_values"][0]
    low, high = np.percentile(image.reshape(-1, 5), (10, 90), axis=0)
    np.testing.assert_allclose(found, np.clip((image - low) / (high - low), 0, 1), atol=1e-7)
    np.testing.assert_allclose(processor(image * np.float32(0.5))["pixel_values"][0], found, atol=1e-6)


def test_an_even_band_has_no_range_and_becomes_0():
    image = scene("float32")
    image[..., 2] = 7.5
    processor = SegformerImageProcessor(do_resize=False, value_percentiles=(2, 98), do_normalize=False)
    assert not processor(image)["pixel_values"][..., 2].any()


def test_each_image_by_its_own_mean_and_deviation_as_doodleverse_does():
    image = scene("uint8")
    processor = SegformerImageProcessor(do_resize=False, do_rescale=False, normalization="per_image")
    expected = (image - np.mean(image)) / np.maximum(np.std(image), 1.0 / np.sqrt(40 * 52))  # its `standardize`
    np.testing.assert_allclose(processor(image)["pixel_values"][0], expected, atol=1e-6)
    even = processor(np.full((40, 52, 5), 9, np.uint8))["pixel_values"]
    np.testing.assert_array_equal(even, np.zeros((1, 40, 52, 5)))


@pytest.mark.parametrize("fields", [{"value_percentiles": (2, 98)}, {"normalization": "per_image"}])
def test_parts_of_an_image_can_be_prepared_by_the_statistics_of_the_whole(fields):
    image = scene("uint16")
    processor = SegformerImageProcessor(do_resize=False, image_mean=0.4, image_std=0.2, **fields)
    whole = processor(image)["pixel_values"][0]
    part = processor.with_statistics_of(image)(image[5:20, 10:30])["pixel_values"][0]
    np.testing.assert_array_equal(part, whole[5:20, 10:30])


def test_fields_travel_in_the_file_and_only_where_they_are_used(tmp_path):
    processor = SegformerImageProcessor(value_type="int16", value_range=[[-5, 5]] * 5, **FIVE)
    processor.save_pretrained(tmp_path)
    assert SegformerImageProcessor.from_pretrained(tmp_path) == processor
    SegformerImageProcessor().save_pretrained(tmp_path)
    written = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert not {"value_type", "value_range", "value_percentiles", "normalization"} & set(written)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"value_type": "uint32"}, "value_type must be None or one of uint8, uint16, int16, float32, but is 'uint32'"),
        ({"normalization": "per_band"}, "normalization must be None or one of per_image"),
        ({"value_range": (5, 5)}, "low < high"),
        ({"value_range": [(0, 1), (3, 2)]}, "low < high"),
        ({"value_range": "01"}, "low < high"),
        ({"value_percentiles": (2, 101)}, "0 <= low < high <= 100"),
        ({"value_range": (0, 1), "value_percentiles": (2, 98)}, "exclude each other"),
        ({"value_range": (0, 1), "do_rescale": False}, "do_rescale=False would ignore it"),
        ({"normalization": "per_image", "do_normalize": False}, "do_normalize=False would ignore it"),
        ({"value_range": [(0, 1)] * 5}, "value_range has 5, image_mean has 3, image_std has 3 values"),
    ],
)
def test_fields_out_of_range_are_errors(fields, message):
    with pytest.raises(ValueError, match=message):
        SegformerImageProcessor(**fields)


def test_images_that_do_not_fit_are_errors():
    with pytest.raises(ValueError, match=r"image_mean has 3 values, but the image has 5 channels.*--statistics"):
        SegformerImageProcessor(do_resize=False)(scene("uint8"), input_data_format="channels_last")
    processor = SegformerImageProcessor(value_type="uint16", value_range=(0, 4095), **FIVE)
    with pytest.raises(ValueError, match=r"holds uint8, but the model was trained on uint16.*astype\('uint16'\)"):
        processor(scene("uint8"))
    with pytest.raises(ValueError, match="not finite"):
        SegformerImageProcessor(value_range=(0, 1), **FIVE)(np.full((8, 8, 5), np.nan, np.float32))


def test_bands_are_last_if_in_doubt_and_found_first():
    processor = SegformerImageProcessor(do_resize=False, value_range=(0, 65535), **FIVE)
    image = scene("uint16", (5, 52, 5))
    np.testing.assert_array_equal(processor(image)["pixel_values"][0].shape, (5, 52, 5))
    image = scene("uint16")
    first = processor(image.transpose(2, 0, 1))["pixel_values"]
    np.testing.assert_array_equal(first, processor(image)["pixel_values"])


def test_16_bit_files_keep_their_values_where_the_processor_takes_them(tmp_path):
    gray = scene("uint16", (20, 30))
    Image.fromarray(gray).save(tmp_path / "gray.png")
    processor = SegformerImageProcessor(do_resize=False, value_type="uint16", value_range=(0, 65535))
    with Image.open(tmp_path / "gray.png") as image:
        found = processor(image)["pixel_values"][0]
    unit = np.repeat((gray / 65535).astype(np.float32)[..., None], 3, axis=-1)
    expected = (unit - np.array(IMAGENET_MEAN, np.float32)) / np.array(IMAGENET_STD, np.float32)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(pillow_bands(Image.fromarray(gray))[..., 0], gray)


def test_alpha_is_no_band_of_a_model_of_rgb():
    image = Image.fromarray(scene("uint8", (20, 30, 4)))
    processor = SegformerImageProcessor(do_resize=False, value_percentiles=(2, 98))
    assert processor(image)["pixel_values"].shape == (1, 20, 30, 3)
    processor = SegformerImageProcessor(do_resize=False, image_mean=[0.5] * 4, image_std=[0.2] * 4)
    assert processor(image)["pixel_values"].shape == (1, 20, 30, 4)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, True),
        ({"value_type": "uint16"}, True),  # as of a file to which nobody gave a range
        ({"rescale_factor": 1 / 65535}, False),
        ({"do_rescale": False}, False),
        ({"value_range": (0, 4000)}, False),
        ({"value_percentiles": (2, 98)}, False),
        ({"normalization": "per_image"}, False),
    ],
    ids=str,
)
def test_who_divides_by_255_and_no_more_is_for_8_bits(fields, expected):
    assert divides_by_255(SegformerImageProcessor(**fields)) is expected
