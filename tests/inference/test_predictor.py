"""Every mode equals its definition stated on whole arrays; any kind and number of images goes in, lazily."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import warnings
from functools import lru_cache

import keras
import numpy as np
import pytest
from PIL import Image

from tests.inference.definitions import resized, softmax
from tf_segformer.errors import ImageError
from tf_segformer.imaging.processor import SegformerImageProcessor
from tf_segformer.inference.forward import forward_function
from tf_segformer.inference.predictor import SegmentationPredictor

CLASSES = 5


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """A small nonlinear network with quarter-size logits that looks beyond its own patch."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None, None, 3), name="pixel_values")
    x = keras.layers.Conv2D(8, 7, strides=4, padding="same", activation="tanh", kernel_initializer="he_normal")(inputs)
    x = keras.layers.Conv2D(8, 5, padding="same", activation="tanh", kernel_initializer="he_normal")(x)
    return keras.Model(inputs, keras.layers.Conv2D(CLASSES, 1, kernel_initializer="he_normal")(x))


@pytest.fixture(scope="module")
def processor() -> SegformerImageProcessor:
    return SegformerImageProcessor(size={"height": 64, "width": 96})


def _image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colors, so that resizing keeps something."""
    small = np.random.default_rng(seed).integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def _logits(model, processor, image, size=None) -> np.ndarray:
    """Processor and model on one image, at a size of its own or at the image's."""
    options = {"do_resize": False} if size in (None, image.shape[:2]) else {"size": size}
    return keras.ops.convert_to_numpy(model(processor(image, **options)["pixel_values"]))[0]


def _assert_same_but_for_ties(class_map: np.ndarray, values: np.ndarray) -> None:
    """The class map is the argmax, except where the two best values differ by rounding only."""
    assert class_map.dtype == np.int32
    assert class_map.shape == values.shape[:2]
    best, second = np.sort(values, axis=-1)[..., -1], np.sort(values, axis=-1)[..., -2]
    differs = class_map != values.argmax(-1)
    assert np.all((best - second)[differs] < 1e-5)
    assert differs.mean() < 1e-3


def _only(results):
    (result,) = list(results)
    return result


def test_resize_mode_equals_processor_model_and_post_processing(model, processor):
    image = _image(75, 110)
    result = _only(SegmentationPredictor(model, processor)(image))
    logits = model(processor(image)["pixel_values"])
    expected = processor.post_process_semantic_segmentation(keras.ops.convert_to_numpy(logits), [(75, 110)])[0]
    np.testing.assert_array_equal(result.class_map, expected)


def test_whole_mode_rounds_both_sides_up_to_32(model, processor):
    image = _image(75, 110)
    result = _only(SegmentationPredictor(model, processor, "whole", return_logits=True)(image))
    logits = _logits(model, processor, image, size=(96, 128))
    np.testing.assert_allclose(result.logits, logits, atol=1e-5)
    _assert_same_but_for_ties(result.class_map, resized(logits, (75, 110)))


def test_one_window_equals_the_whole_image(model, processor):
    image = _image(64, 128)
    whole = _only(SegmentationPredictor(model, processor, "whole", return_logits=True)(image))
    logits = resized(whole.logits, (64, 128))
    _assert_same_but_for_ties(whole.class_map, logits)
    for window in ((64, 128), 512):
        slide = _only(SegmentationPredictor(model, processor, "slide", window=window)(image))
        _assert_same_but_for_ties(slide.class_map, logits)


def _slide_logits(model, processor, image, window, stride):
    """The rule of mmsegmentation: sum of resized window logits over the number of windows."""
    height, width = image.shape[:2]
    total, count = np.zeros((height, width, CLASSES)), np.zeros((height, width, 1))
    for row in range(max(height - window[0] + stride[0] - 1, 0) // stride[0] + 1):
        for column in range(max(width - window[1] + stride[1] - 1, 0) // stride[1] + 1):
            bottom, right = min(row * stride[0] + window[0], height), min(column * stride[1] + window[1], width)
            top, left = max(bottom - window[0], 0), max(right - window[1], 0)
            crop = image[top:bottom, left:right]
            total[top:bottom, left:right] += resized(_logits(model, processor, crop), crop.shape[:2])
            count[top:bottom, left:right] += 1
    return total / count


@pytest.mark.parametrize(
    ("size", "window", "stride"),
    [((75, 110), (32, 48), (20, 30)), ((75, 110), (64, 64), (48, 48)), ((40, 200), (64, 64), (16, 63))],
    ids=str,
)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_slide_mode_averages_the_logits_of_overlapping_windows(model, processor, size, window, stride, batch_size):
    image = _image(*size)
    predictor = SegmentationPredictor(
        model, processor, "slide", window=window, stride=stride, batch_size=batch_size, return_confidence=True
    )
    result = _only(predictor(image))
    logits = _slide_logits(model, processor, image, window, stride)
    _assert_same_but_for_ties(result.class_map, logits)
    np.testing.assert_allclose(result.confidence, softmax(logits).max(-1), atol=1e-5)


def test_windows_default_to_the_processors_size_and_three_quarters_of_it(model, processor):
    predictor = SegmentationPredictor(model, processor, "slide")
    assert (predictor.window, predictor.stride) == ((64, 96), (48, 72))


@pytest.mark.parametrize("flip", [False, True])
def test_multiscale_is_the_mean_of_probabilities(model, processor, flip):
    image = _image(75, 110)
    predictor = SegmentationPredictor(
        model, processor, "multiscale", scales=(0.5, 1.0, 1.75), flip=flip, return_confidence=True
    )
    result = _only(predictor(image))
    probabilities = []
    for scale in (0.5, 1.0, 1.75):
        view_size = tuple(int(np.ceil(side * scale / 32)) * 32 for side in (75, 110))
        probabilities.append(softmax(resized(_logits(model, processor, image, view_size), (75, 110))))
        if flip:
            flipped = resized(_logits(model, processor, image[:, ::-1], view_size), (75, 110))
            probabilities.append(softmax(flipped)[:, ::-1])
    _assert_same_but_for_ties(result.class_map, np.mean(probabilities, axis=0))
    np.testing.assert_allclose(result.confidence, np.mean(probabilities, axis=0).max(-1), atol=1e-5)


def test_flip_is_on_in_multiscale_only(model, processor):
    assert SegmentationPredictor(model, processor, "multiscale").flip
    assert not SegmentationPredictor(model, processor, "whole").flip


def test_multiscale_through_windows_slides_at_each_scale(model, processor):
    image = _image(64, 96)
    predictor = SegmentationPredictor(
        model, processor, "multiscale", scales=(1.0, 2.0), window=48, stride=32, flip=False, return_confidence=True
    )
    result = _only(predictor(image))
    enlarged = np.asarray(Image.fromarray(image).resize((192, 128), Image.Resampling.BILINEAR))
    views = [_slide_logits(model, processor, each, (48, 48), (32, 32)) for each in (image, enlarged)]
    expected = np.mean([softmax(resized(each, (64, 96))) for each in views], axis=0)
    _assert_same_but_for_ties(result.class_map, expected)
    np.testing.assert_allclose(result.confidence, expected.max(-1), atol=1e-5)


def test_confidence_is_the_probability_of_the_predicted_class(model, processor):
    image = _image(75, 110)
    result = _only(SegmentationPredictor(model, processor, return_confidence=True)(image))
    logits = _logits(model, processor, image, size=(64, 96))
    np.testing.assert_allclose(result.confidence, softmax(resized(logits, (75, 110))).max(-1), atol=1e-5)


def test_every_kind_of_image_gives_the_same_map(model, processor, tmp_path):
    image = _image(50, 70)
    path = tmp_path / "image.png"
    Image.fromarray(image).save(path)
    encoded = io.BytesIO(path.read_bytes())
    kinds = [path, str(path), encoded.getvalue(), Image.open(path), image, image.transpose(2, 0, 1), image[None]]
    predictor = SegmentationPredictor(model, processor)
    results = [_only(predictor(kind)) for kind in kinds]
    assert all(np.array_equal(result.class_map, results[0].class_map) for result in results)
    assert [result.source for result in results[:3]] == [str(path), str(path), None]


def test_grayscale_array_counts_as_an_image(model, processor):
    gray = _image(50, 70)[..., 0]
    predictor = SegmentationPredictor(model, processor)
    np.testing.assert_array_equal(
        _only(predictor(gray)).class_map, _only(predictor(np.repeat(gray[..., None], 3, -1))).class_map
    )


@pytest.mark.parametrize("channels", [1, 4])
def test_arrays_may_have_as_many_channels_as_the_model(channels):
    inputs = keras.Input((None, None, channels))
    model = keras.Model(inputs, keras.layers.Conv2D(2, 4, strides=4)(inputs))
    processor = SegformerImageProcessor(size=32, image_mean=[0.5] * channels, image_std=[0.2] * channels)
    image = np.random.default_rng(0).integers(0, 256, (40, 50, channels), dtype=np.uint8)
    for mode in ("resize", "whole", "slide"):
        result = _only(SegmentationPredictor(model, processor, mode)(image))
        np.testing.assert_array_equal(
            result.class_map, _only(SegmentationPredictor(model, processor, mode)(image.transpose(2, 0, 1))).class_map
        )


@pytest.mark.parametrize("mode", ["resize", "whole"])
def test_batches_of_equal_sizes_give_what_single_images_give(model, processor, mode):
    images = [_image(*size, seed) for seed, size in enumerate([(50, 70), (60, 70), (50, 70), (90, 40), (33, 65)])]
    together = list(SegmentationPredictor(model, processor, mode, batch_size=3)(images))
    alone = [_only(SegmentationPredictor(model, processor, mode)(image)) for image in images]
    assert [result.index for result in together] == [0, 1, 2, 3, 4]
    for one, other in zip(together, alone, strict=True):
        assert np.mean(one.class_map != other.class_map) < 1e-3  # another batch size may round a tie the other way


def test_generator_is_read_as_results_are_asked_for(model, processor):
    read = []

    def images():
        for index in range(1_000_000):
            read.append(index)
            yield _image(40, 40)

    results = SegmentationPredictor(model, processor, batch_size=2)(images())
    assert read == []
    assert [next(results).index for _ in range(3)] == [0, 1, 2]
    assert len(read) <= 4


def test_unreadable_files_are_skipped_and_listed(model, processor, tmp_path):
    paths = [tmp_path / f"{index}.png" for index in range(5)]
    for path in paths:
        Image.fromarray(_image(40, 40)).save(path)
    paths[1].write_bytes(b"")
    paths[3].unlink()
    results = SegmentationPredictor(model, processor, batch_size=2)(paths, on_error="skip")
    assert [result.index for result in results] == [0, 2, 4]
    assert [(failure.index, failure.source) for failure in results.failures] == [(1, str(paths[1])), (3, str(paths[3]))]
    with pytest.raises(ImageError, match=r"1\.png"):
        list(SegmentationPredictor(model, processor)(paths))


def test_error_of_the_callers_generator_is_not_swallowed(model, processor):
    def images():
        yield _image(40, 40)
        raise KeyError("the caller's own")

    with pytest.raises(KeyError):
        list(SegmentationPredictor(model, processor)(images(), on_error="skip"))


def test_fractions_are_named_sorted_and_sum_to_one(model, processor):
    labels = {index: f"thing {index}" for index in range(CLASSES)}
    result = _only(SegmentationPredictor(model, processor, labels=labels)(_image(50, 70)))
    fractions = result.class_fractions
    assert sum(fractions.values()) == pytest.approx(1)
    assert list(fractions.values()) == sorted(fractions.values(), reverse=True)
    for index, name in labels.items():
        assert fractions.get(name, 0) == pytest.approx(np.mean(result.class_map == index))


def test_dictionary_of_a_model_with_more_outputs_is_understood(model, processor):
    with_states = keras.Model(model.input, {"logits": model.output, "hidden_states": [model.layers[1].output]})
    image = _image(50, 70)
    np.testing.assert_array_equal(
        _only(SegmentationPredictor(with_states, processor)(image)).class_map,
        _only(SegmentationPredictor(model, processor)(image)).class_map,
    )


def test_classifier_is_rejected(processor):
    inputs = keras.Input((None, None, 3))
    classifier = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs))
    with pytest.raises(ValueError, match="not logits"):
        list(SegmentationPredictor(classifier, processor)(_image(40, 40)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "tiles"}, "choose one of resize, whole, slide, multiscale"),
        ({"window": 64}, "belongs to mode='slide'"),
        ({"stride": 64}, "needs mode='slide'"),
        ({"scales": (1.0,)}, "belong to mode='multiscale'"),
        ({"mode": "multiscale", "scales": (0.0, 1.0)}, "above 0"),
        ({"mode": "slide", "window": 64, "stride": 65}, "left out"),
        ({"mode": "slide", "window": 0}, "whole number of pixels"),
        ({"batch_size": 0}, "at least 1"),
        ({"mode": "slide", "return_logits": True}, "return_logits"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_rejected(model, processor, options, message):
    with pytest.raises(ValueError, match=message):
        SegmentationPredictor(model, processor, **options)


def test_progress_bar_goes_to_stderr(model, processor, capsys):
    list(SegmentationPredictor(model, processor, progress=True)([_image(40, 40)] * 3))
    captured = capsys.readouterr()
    assert "3/3" in captured.err
    assert captured.out == ""


def test_no_progress_bar_where_there_is_no_terminal(model, processor, capsys):
    list(SegmentationPredictor(model, processor)([_image(40, 40)] * 3))
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="counts the traces of a tf.function")
def test_images_of_many_sizes_are_traced_once(model):
    traces = []
    inputs = keras.Input((None, None, 3))
    counting = keras.layers.Lambda(lambda x: (traces.append(1), x)[1], output_shape=lambda shape: shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        forward = forward_function(keras.Model(inputs, counting(inputs)))
    traces.clear()
    for size in range(8, 20):
        forward(np.zeros((1, size, 8, 3), np.float32))
    assert len(traces) == 1


_SEGMENT_AND_COUNT = """
import keras, numpy as np
from tf_segformer.imaging.processor import SegformerImageProcessor
from tf_segformer.inference.predictor import SegmentationPredictor
inputs = keras.Input((None, None, 3))
model = keras.Model(inputs, keras.layers.Conv2D(4, 4, strides=4)(inputs))
generator = np.random.default_rng(0)
model.set_weights([generator.normal(size=weight.shape) for weight in model.get_weights()])
predictor = SegmentationPredictor(model, SegformerImageProcessor(), "slide", window=64, stride=48, flip=True)
(result,) = predictor(generator.integers(0, 256, (100, 130, 3), dtype=np.uint8))
print(np.bincount(result.class_map.ravel()).tolist())
"""


@lru_cache
def _counts_on(backend: str) -> list[int]:
    """Pixels of each class, from a fresh interpreter: the backend is chosen before the first import."""
    completed = subprocess.run(
        [sys.executable, "-c", _SEGMENT_AND_COUNT],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        check=True,
        timeout=900,
    )
    return json.loads(completed.stdout)


@pytest.mark.parity
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_give_the_same_class_map(backend):
    pytest.importorskip(backend)
    assert len(_counts_on(backend)) == 4
    assert _counts_on(backend) == _counts_on("tensorflow")


BANDS = {"image_mean": [0.5] * 5, "image_std": [0.25] * 5, "value_type": "uint16", "value_range": (0, 4095)}


@pytest.fixture
def five_bands(small_config):
    from tf_segformer import SegformerForSemanticSegmentation

    small_config.num_channels = 5
    return SegformerForSemanticSegmentation(small_config)


@pytest.mark.parametrize(
    "options", [{}, {"mode": "whole"}, {"mode": "slide", "window": 32, "stride": 16}, {"mode": "multiscale"}]
)
def test_five_bands_of_16_bits_are_segmented_as_arrays_and_files(five_bands, options, tmp_path):
    image = np.random.default_rng(0).integers(0, 4096, (40, 52, 5)).astype(np.uint16)
    np.save(tmp_path / "scene.npy", image)
    predictor = SegmentationPredictor(five_bands, SegformerImageProcessor(size=32, **BANDS), **options)
    array, channels_first, file = predictor([image, image.transpose(2, 0, 1), tmp_path / "scene.npy"])
    assert array.class_map.shape == (40, 52)
    np.testing.assert_array_equal(channels_first.class_map, array.class_map)
    np.testing.assert_array_equal(file.class_map, array.class_map)


def test_windows_are_prepared_by_the_statistics_of_their_image(five_bands):
    image = np.random.default_rng(0).integers(0, 900, (48, 64, 5)).astype(np.uint16)
    image[:, 32:] += 3000  # windows on the right have other percentiles than the image
    own = SegformerImageProcessor(value_percentiles=(0, 100), image_mean=0.5, image_std=0.25)
    fixed = own.with_statistics_of(image)
    slide = {"mode": "slide", "window": 32, "stride": 16, "return_confidence": True}
    (found,), (expected,) = (SegmentationPredictor(five_bands, each, **slide)(image) for each in (own, fixed))
    np.testing.assert_array_equal(found.confidence, expected.confidence)


def test_images_with_other_bands_than_the_model_are_errors(five_bands):
    predictor = SegmentationPredictor(five_bands, SegformerImageProcessor(**BANDS))
    for image in (np.zeros((40, 52, 4), np.uint16), np.zeros((40, 52), np.uint16), Image.new("RGB", (52, 40))):
        with pytest.raises(ValueError, match="takes images of 5 channels, but this one's shape is"):
            list(predictor(image))
