"""The processor gives transformers' bytes, keeps the Hub's file, and names what is wrong with its input."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image

from tests.imaging.golden_cases import Case, golden_cases, make_image, make_labels
from tf_segformer import SegformerImageProcessor
from tf_segformer.errors import CheckpointError, ImageError

GOLDEN = np.load(Path(__file__).parent / "golden.npz")
DIGESTS = dict(zip(GOLDEN["names"].tolist(), GOLDEN["digests"].tolist(), strict=True))
PILLOW = int(PIL.__version__.split(".")[0])

OLD_HUB_FILE = {
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "SegformerFeatureExtractor",
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "reduce_labels": True,
    "resample": 2,
    "size": 512,
    "some_field_of_tomorrow": [1, 2],
}


@pytest.mark.parametrize("case", golden_cases(), ids=lambda case: case.name)
def test_result_has_the_bytes_of_transformers_4_49(case: Case):
    if case.needs_pillow_13 and PILLOW < 13:
        pytest.skip("Pillow 13 changed the order of its two passes for this size, and the stored result is Pillow 13's")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batch = SegformerImageProcessor()(make_image(case.shape, case.kind), [make_labels(case.shape)], **case.options)
    found = hashlib.sha256(batch["pixel_values"].tobytes() + batch["labels"].astype(np.int32).tobytes()).hexdigest()
    assert found == DIGESTS[case.name]


def test_stored_example_is_given_back_value_for_value():
    batch = SegformerImageProcessor(size=(24, 28))(make_image((40, 52, 3), "pil"), [make_labels((40, 52, 3))])
    np.testing.assert_array_equal(batch["pixel_values"], GOLDEN["example_pixel_values"])
    np.testing.assert_array_equal(batch["labels"], GOLDEN["example_labels"])
    assert batch["pixel_values"].dtype == np.float32
    assert batch["labels"].dtype == np.int32


@pytest.mark.parity
def test_random_shapes_and_filters_equal_the_installed_transformers():
    transformers = pytest.importorskip("transformers")
    theirs = getattr(transformers, "SegformerImageProcessorPil", None) or transformers.SegformerImageProcessor
    theirs, ours = theirs(), SegformerImageProcessor()
    random = np.random.default_rng(0)
    for index in range(200):
        height, width, *target = (int(side) for side in np.exp(random.uniform(np.log(4), np.log(300), 4)))
        image = Image.fromarray(random.integers(0, 256, (height, width, 3)).astype(np.uint8))
        labels = random.integers(0, 151, (height, width)).astype(np.uint8)
        options = {
            "size": {"height": target[0], "width": target[1]},
            "resample": index % 6,
            "do_reduce_labels": bool(index % 2),
            "input_data_format": "channels_last",
        }
        expected = theirs(image, [labels.copy()], return_tensors="np", **options)
        found = ours(image, [labels], data_format="channels_first", **options)
        np.testing.assert_array_equal(found["pixel_values"], expected["pixel_values"])
        np.testing.assert_array_equal(found["labels"], expected["labels"])


def test_rescaled_floats_are_warned_of_in_the_words_of_transformers():
    with pytest.warns(UserWarning, match="It looks like you are trying to rescale already rescaled images"):
        SegformerImageProcessor(size=8)(np.full((10, 10, 3), 0.5, np.float32))


def test_images_of_different_sizes_make_one_batch():
    images = [np.zeros((20, 30, 3), np.uint8), Image.new("RGB", (7, 90))]
    assert SegformerImageProcessor(size=16)(images)["pixel_values"].shape == (2, 16, 16, 3)


def test_images_of_different_sizes_without_resize_come_as_a_list_or_not_at_all():
    processor = SegformerImageProcessor(do_resize=False)
    images = [np.zeros((20, 30, 3), np.uint8), np.zeros((7, 90, 3), np.uint8)]
    assert [one.shape for one in processor(images, return_tensors=None)["pixel_values"]] == [(20, 30, 3), (7, 90, 3)]
    with pytest.raises(ValueError, match="different shapes"):
        processor(images)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "RGBA", "CMYK"])
def test_pillow_images_of_other_modes_are_taken_as_rgb(mode: str):
    image = make_image((40, 52, 3), "pil").convert(mode)
    processor = SegformerImageProcessor(size=24)
    np.testing.assert_array_equal(processor(image)["pixel_values"], processor(image.convert("RGB"))["pixel_values"])


def test_sixteen_bit_grayscale_keeps_its_upper_byte():
    eight_bit = make_image((40, 52, 1), "pil")
    processor = SegformerImageProcessor(size=24)
    np.testing.assert_array_equal(
        processor(make_image((40, 52, 1), "pil16"))["pixel_values"], processor(eight_bit)["pixel_values"]
    )


def test_channels_of_a_pillow_image_three_pixels_high_are_its_last_axis():
    image = make_image((3, 52, 3), "pil")
    processor = SegformerImageProcessor(size=24)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = processor(image)["pixel_values"]
    np.testing.assert_array_equal(found, processor(image, input_data_format="channels_last")["pixel_values"])


def test_exif_orientation_is_applied_only_on_request():
    image = make_image((40, 52, 3), "pil")
    image.getexif()[0x0112] = 6  # turned by a quarter
    turned = image.transpose(Image.Transpose.ROTATE_270)
    for option, expected in ((False, np.asarray(image)), (True, np.asarray(turned))):
        processor = SegformerImageProcessor(
            do_resize=False, do_rescale=False, do_normalize=False, apply_exif_orientation=option
        )
        np.testing.assert_array_equal(processor(image)["pixel_values"][0], expected)


def test_segmentation_maps_of_the_caller_are_left_alone():
    labels = np.zeros((10, 10), np.uint8)
    SegformerImageProcessor(size=4, do_reduce_labels=True)(np.zeros((10, 10, 3), np.uint8), labels)
    assert labels.max() == 0


def test_palette_maps_give_their_indices():
    labels = make_labels((40, 52, 3))
    image = Image.fromarray(labels, mode="L").convert("P")
    image.putdata(labels.ravel().tolist())
    batch = SegformerImageProcessor(do_resize=False)(np.zeros((40, 52, 3), np.uint8), image)
    np.testing.assert_array_equal(batch["labels"][0], labels)


def test_one_call_may_override_any_field_by_its_old_or_new_name():
    processor = SegformerImageProcessor()
    labels = np.full((10, 10), 1, np.uint8)
    batch = processor(np.zeros((10, 10, 3), np.uint8), labels, size=6, reduce_labels=True)
    assert batch["pixel_values"].shape == (1, 6, 6, 3)
    assert batch["labels"].max() == 0
    assert processor.size == {"height": 512, "width": 512}
    with pytest.raises(TypeError, match="do_resise"):
        processor(np.zeros((10, 10, 3), np.uint8), do_resise=False)


@pytest.mark.parametrize("framework", ["tf", "pt", "jax"])
def test_tensors_of_each_framework_go_in_and_come_out(framework: str):
    pytest.importorskip({"tf": "tensorflow", "pt": "torch", "jax": "jax"}[framework])
    processor = SegformerImageProcessor(size=8)
    image = make_image((10, 12, 3), "uint8")
    expected = processor(image)["pixel_values"]
    out = processor(image, return_tensors=framework)["pixel_values"]
    np.testing.assert_array_equal(np.asarray(out), expected)
    unchanged = processor(image, do_resize=False, do_rescale=False, do_normalize=False, return_tensors=framework)
    np.testing.assert_array_equal(processor(unchanged["pixel_values"])["pixel_values"], expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size"),
        ({"size": {"shortest_edge": 512}}, "shortest_edge"),
        ({"resample": 99}, "resample.*99"),
        ({"rescale_factor": float("nan")}, "rescale_factor"),
        ({"image_mean": "red"}, "image_mean"),
        ({"image_std": [0.2, 0, 0.2]}, "image_std"),
    ],
)
def test_wrong_options_are_rejected_by_name(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        SegformerImageProcessor(**options)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("photo.jpg", "open_image"),
        ([], "no image"),
        (np.zeros((0, 4, 3), np.uint8), "empty"),
        (np.zeros((4, 5, 6), np.uint8), "channels"),
        (np.full((4, 5, 3), 700), r"\[0, 255\]"),
        (np.full((4, 5, 3), 1.5), r"\[0, 1\]"),
        (Image.new("F", (4, 4)), "mode F"),
    ],
)
def test_what_is_no_image_is_rejected_with_the_remedy(images: object, message: str):
    with pytest.raises(ValueError, match=message):
        SegformerImageProcessor(size=8)(images)


@pytest.mark.parametrize("bands", [2, 4, 5, 16])
def test_bands_are_resized_each_by_itself_as_pillow_resizes_gray(bands: int):
    """Of two or four bands Pillow takes the last for alpha: the others became black where it is 0."""
    image = np.random.default_rng(0).integers(0, 256, (20, 30, bands), np.uint8)
    image[:10, :, -1] = 0
    processor = SegformerImageProcessor(size=(12, 17), do_rescale=False, do_normalize=False)
    found = processor(image, input_data_format="channels_last")["pixel_values"][0]
    expected = [Image.fromarray(image[..., band]).resize((17, 12), Image.Resampling.BILINEAR) for band in range(bands)]
    np.testing.assert_array_equal(found, np.stack([np.asarray(band) for band in expected], axis=-1))


def test_means_must_fit_the_channels():
    with pytest.raises(ValueError, match="image_mean has 3 values, but the image has 1"):
        SegformerImageProcessor(size=8)(np.zeros((9, 9, 1), np.uint8))


def test_images_and_maps_must_be_equally_many():
    with pytest.raises(ValueError, match="2 images but 1 segmentation maps"):
        SegformerImageProcessor(size=8)(np.zeros((2, 9, 9, 3), np.uint8), np.zeros((9, 9), np.uint8))


def test_old_hub_file_is_understood_and_unknown_fields_are_written_back(tmp_path: Path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(OLD_HUB_FILE))
    processor = SegformerImageProcessor.from_pretrained(tmp_path, do_normalize=False)
    assert processor.size == {"height": 512, "width": 512}
    assert processor.do_reduce_labels
    assert not processor.do_normalize
    saved = json.loads(processor.save_pretrained(tmp_path / "new").read_text())
    assert saved["some_field_of_tomorrow"] == [1, 2]
    assert saved["image_processor_type"] == "SegformerImageProcessor"
    assert "reduce_labels" not in saved
    assert SegformerImageProcessor.from_pretrained(tmp_path / "new") == processor


@pytest.mark.parity
def test_transformers_reads_the_saved_file(tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    processor = SegformerImageProcessor(size=(320, 480), resample=3, do_reduce_labels=True, image_mean=[0.1, 0.2, 0.3])
    processor.save_pretrained(tmp_path)
    kind = getattr(transformers, "SegformerImageProcessorPil", None) or transformers.SegformerImageProcessor
    theirs = kind.from_pretrained(tmp_path)
    assert (theirs.size["height"], theirs.size["width"], int(theirs.resample)) == (320, 480, 3)
    assert theirs.do_reduce_labels
    assert list(theirs.image_mean) == [0.1, 0.2, 0.3]


@pytest.mark.parametrize("text", ["{", "[1]", '{"size": -1}'])
def test_unusable_file_is_rejected_by_its_path(tmp_path: Path, text: str):
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json"):
        SegformerImageProcessor.from_pretrained(tmp_path)


def test_post_processing_takes_logits_or_the_models_dictionary():
    logits = np.random.default_rng(0).standard_normal((2, 6, 5, 4)).astype(np.float32)
    processor = SegformerImageProcessor()
    unresized = processor.post_process_semantic_segmentation({"logits": logits})
    np.testing.assert_array_equal(np.stack(unresized), logits.argmax(-1))
    sizes = [one.shape for one in processor.post_process_semantic_segmentation(logits, [(20, 30), (7, 9)])]
    assert sizes == [(20, 30), (7, 9)]
    with pytest.raises(ValueError, match="2 predictions but 1 target sizes"):
        processor.post_process_semantic_segmentation(logits, [(20, 30)])


def test_image_errors_are_value_errors():
    assert issubclass(ImageError, ValueError)
