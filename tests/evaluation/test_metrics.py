"""Metrics against a per-pixel oracle; counts that survive size, replicas, XLA, half precision and other backends."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from functools import lru_cache

import keras
import numpy as np
import pytest

from tf_segformer.evaluation.metrics import MeanIoU, confusion_matrix, metrics_from_confusion

CLASSES = 7
IGNORE = 255


def _random_maps(seed: int, shape: tuple[int, ...] = (2, 24, 31)) -> tuple[np.ndarray, np.ndarray]:
    """Target with ignored pixels and prediction; class 3 is in neither, class 4 only in the prediction."""
    generator = np.random.default_rng(seed)
    target = generator.choice([0, 1, 2, 5, 6, IGNORE], size=shape).astype(np.int32)
    return target, generator.choice([0, 1, 2, 4, 5, 6], size=shape).astype(np.int32)


def _oracle(target: np.ndarray, prediction: np.ndarray) -> dict[str, object]:
    """The definitions, class by class from boolean masks."""
    valid = target != IGNORE
    target, prediction = target[valid], prediction[valid]
    iou, accuracy, frequency = np.full(CLASSES, np.nan), np.full(CLASSES, np.nan), np.zeros(CLASSES)
    for index in range(CLASSES):
        intersection = np.sum((target == index) & (prediction == index))
        union = np.sum((target == index) | (prediction == index))
        area = np.sum(target == index)
        frequency[index] = area / target.size if target.size else 0
        if union:
            iou[index] = intersection / union
        if area:
            accuracy[index] = intersection / area
    return {
        "mIoU": np.nanmean(iou),
        "mAcc": np.nanmean(accuracy),
        "aAcc": np.mean(target == prediction),
        "fwIoU": np.nansum(frequency * iou),
        "IoU": iou,
        "Acc": accuracy,
    }


@pytest.mark.parametrize("seed", range(5))
def test_metrics_equal_the_definitions(seed):
    target, prediction = _random_maps(seed)
    metrics = metrics_from_confusion(confusion_matrix(target, prediction, CLASSES))
    for name, expected in _oracle(target, prediction).items():
        np.testing.assert_allclose(metrics[name], expected, rtol=1e-12, err_msg=name)


def test_class_that_is_nowhere_is_left_out_and_one_only_predicted_counts_as_zero():
    target, prediction = _random_maps(0)
    metrics = metrics_from_confusion(confusion_matrix(target, prediction, CLASSES))
    assert np.isnan(metrics["IoU"][3])
    assert metrics["IoU"][4] == 0
    assert np.isnan(metrics["Acc"][4])


def test_metric_over_batches_equals_the_metrics_of_all_pixels():
    maps = [_random_maps(seed) for seed in range(4)]
    metric = MeanIoU(CLASSES)
    for target, prediction in maps:
        metric.update_state(target, prediction)
    target, prediction = (np.stack(each) for each in zip(*maps, strict=True))
    np.testing.assert_array_equal(metric.confusion_matrix(), confusion_matrix(target, prediction, CLASSES))
    np.testing.assert_allclose(float(metric.result()), _oracle(target, prediction)["mIoU"], rtol=1e-6)
    assert metric.metrics()["mIoU"] == pytest.approx(_oracle(target, prediction)["mIoU"], rel=1e-12)


@pytest.mark.parametrize("target", [np.full((1, 4, 4), IGNORE), np.zeros((0, 4, 4))], ids=["all-ignored", "no-image"])
def test_empty_set_is_undefined_in_the_metrics_and_zero_in_the_result(target):
    metric = MeanIoU(CLASSES)
    metric.update_state(target.astype("int32"), np.zeros(target.shape, "int32"))
    assert float(metric.result()) == 0
    with np.errstate(all="raise"):
        metrics = metric.metrics()
    assert all(np.isnan(metrics[name]) for name in ("mIoU", "aAcc", "mAcc", "fwIoU"))


def test_class_of_the_model_can_be_the_ignored_one():
    target, prediction = np.array([[[0, 0, 1, 1]]], "int32"), np.array([[[1, 0, 1, 0]]], "int32")
    metric = MeanIoU(2, ignore_index=0)
    metric.update_state(target, prediction)
    np.testing.assert_array_equal(metric.confusion_matrix(), [[0, 0], [1, 1]])
    np.testing.assert_array_equal(confusion_matrix(target, prediction, 2, ignore_index=0), [[0, 0], [1, 1]])


def test_label_out_of_range_is_rejected_by_name():
    with pytest.raises(ValueError, match="target holds class 9"):
        confusion_matrix(np.array([9]), np.array([0]), CLASSES)
    with pytest.raises(ValueError, match="prediction holds class 7"):
        confusion_matrix(np.array([0]), np.array([7]), CLASSES)


@pytest.mark.parametrize("channels", [1, 2, CLASSES])
def test_logits_with_channels_first_count_the_same(channels):
    random = np.random.default_rng(channels)
    labels, logits = random.integers(0, channels, (2, 9, 8)), random.standard_normal((2, 3, 2, channels))
    counts = []
    for data_format, y_pred in (("channels_last", logits), ("channels_first", np.moveaxis(logits, -1, 1))):
        metric = MeanIoU(channels, data_format=data_format)
        metric.update_state(labels, y_pred)
        counts.append(metric.confusion_matrix())
    np.testing.assert_array_equal(*counts)
    with pytest.raises(ValueError, match="data_format='first' must be one of channels_last, channels_first"):
        MeanIoU(channels, data_format="first")


def test_logits_of_another_number_of_classes_and_sample_weights_are_rejected():
    metric = MeanIoU(CLASSES)
    with pytest.raises(ValueError, match=r"expected \(batch, height, width, 7\) logits"):
        metric.update_state(np.zeros((1, 4, 4), "int32"), np.zeros((1, 1, 1, 3), "float32"))
    with pytest.raises(ValueError, match="ignore_index"):
        metric.update_state(np.zeros((1, 4, 4), "int32"), np.zeros((1, 4, 4), "int32"), np.ones(1))


def _resized_logits(logits: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear with half-pixel centres, stated pixel by pixel in float64."""
    _, source_height, source_width, _ = logits.shape
    result = np.zeros((logits.shape[0], height, width, logits.shape[3]))
    for y in range(height):
        for x in range(width):
            v = min(max((y + 0.5) * source_height / height - 0.5, 0), source_height - 1)
            u = min(max((x + 0.5) * source_width / width - 0.5, 0), source_width - 1)
            v0, u0 = int(v), int(u)
            v1, u1 = min(v0 + 1, source_height - 1), min(u0 + 1, source_width - 1)
            top = logits[:, v0, u0] * (1 - u + u0) + logits[:, v0, u1] * (u - u0)
            bottom = logits[:, v1, u0] * (1 - u + u0) + logits[:, v1, u1] * (u - u0)
            result[:, y, x] = top * (1 - v + v0) + bottom * (v - v0)
    return result


def _jitted(metric: MeanIoU):
    tf = pytest.importorskip("tensorflow")
    return tf.function(metric.update_state, jit_compile=True)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("size", [(36, 36), (17, 33), (9, 65), (5, 7)], ids=str)
def test_logits_are_resized_to_the_labels(jit, size):
    """The odd sizes are those at which XLA's own bilinear resize is wrong; the last is a reduction."""
    if jit and keras.backend.backend() != "tensorflow":
        pytest.skip("tf.function")
    generator = np.random.default_rng(1)
    logits = generator.normal(size=(2, 9, 9, CLASSES)).astype("float32")
    target = generator.integers(0, CLASSES, (2, *size)).astype("int32")
    metric = MeanIoU(CLASSES)
    (_jitted(metric) if jit else metric.update_state)(target, logits)
    expected = confusion_matrix(target, _resized_logits(logits, *size).argmax(-1), CLASSES)
    np.testing.assert_array_equal(metric.confusion_matrix(), expected)


def test_labels_may_have_a_channel_axis():
    target, prediction = _random_maps(2)
    with_axis, without = MeanIoU(CLASSES), MeanIoU(CLASSES)
    logits = keras.utils.to_categorical(prediction, CLASSES)
    with_axis.update_state(target[..., None], logits)
    without.update_state(target, logits)
    np.testing.assert_array_equal(with_axis.confusion_matrix(), without.confusion_matrix())


def test_counts_stay_exact_beyond_the_range_of_float32():
    """2**24 + 1 is the first whole number that float32 lacks: each further pixel must still count."""
    metric = MeanIoU(2)
    metric._high_digit.assign(np.full((2, 2), 2.0**24 / 65_536, "float32"))
    for _ in range(3):
        metric.update_state(np.zeros((1, 1, 1), "int32"), np.zeros((1, 1, 1), "int32"))
    assert metric.confusion_matrix()[0, 0] == 2**24 + 3
    assert metric.confusion_matrix()[1, 1] == 2**24


def test_digits_carry_over():
    metric = MeanIoU(2)
    for pixels in (60_000, 60_000, 75_000, 65_535, 1):
        target = np.zeros((1, 1, pixels), "int32")
        metric.update_state(target, target)
    assert metric.confusion_matrix()[0, 0] == 260_536
    assert float(np.max(keras.ops.convert_to_numpy(metric._low_digit))) < 65_536


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("jit", [False, True])
def test_metric_of_fit_equals_the_metric_of_predictions(policy, jit):
    generator = np.random.default_rng(3)
    images = generator.normal(size=(6, 32, 48, 3)).astype("float32")
    labels = generator.choice([0, 1, 2, IGNORE], size=(6, 32, 48)).astype("int32")
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        inputs = keras.Input((None, None, 3))
        outputs = keras.layers.Conv2D(CLASSES, 4, strides=4)(inputs)
        model = keras.Model(inputs, outputs)
        model.compile(
            loss=lambda y_true, y_pred: keras.ops.mean(y_pred**2), metrics=[MeanIoU(CLASSES)], jit_compile=jit
        )
        measured = model.evaluate(images, labels, batch_size=4, verbose=0, return_dict=True)["mean_iou"]
        logits = model.predict(images, verbose=0)
    finally:
        keras.config.set_dtype_policy(previous)
    expected = MeanIoU(CLASSES)
    expected.update_state(labels, logits)
    assert expected.confusion_matrix().sum() == np.sum(labels != IGNORE)
    # XLA may round a half-precision logit of a near tie the other way: a handful of the 6,912 pixels.
    assert measured == pytest.approx(float(expected.result()), abs=1e-6 if policy == "float32" else 5e-3)


def test_metric_survives_serialization_and_reset():
    metric = keras.metrics.deserialize(
        keras.metrics.serialize(MeanIoU(CLASSES, ignore_index=11, name="iou", data_format="channels_first"))
    )
    assert (metric.num_classes, metric.ignore_index, metric.name) == (CLASSES, 11, "iou")
    assert metric.data_format == "channels_first"
    metric.update_state(np.zeros((1, 2, 2), "int32"), np.zeros((1, 2, 2), "int32"))
    metric.reset_state()
    assert metric.confusion_matrix().sum() == 0


def _run_python(code: str, **environment: str) -> str:
    """Runs a fresh interpreter: backends and logical devices are chosen before the first import."""
    completed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert completed.returncode == 0, completed.stderr[-3000:]
    return completed.stdout


def test_replicas_of_a_mirrored_strategy_count_every_pixel_once():
    pytest.importorskip("tensorflow")
    output = _run_python(
        """
        import numpy as np, tensorflow as tf
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
        import keras
        from tf_segformer.evaluation.metrics import MeanIoU
        generator = np.random.default_rng(0)
        images = generator.normal(size=(8, 16, 16, 3)).astype("float32")
        labels = generator.choice([0, 1, 2, 255], size=(8, 64, 64)).astype("int32")
        with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
            inputs = keras.Input((None, None, 3))
            model = keras.Model(inputs, keras.layers.Conv2D(3, 1)(inputs))
            metric = MeanIoU(3)
            model.compile(optimizer="sgd", loss=lambda t, p: keras.ops.mean(p, axis=(1, 2, 3)), metrics=[metric])
        data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(4)
        model.fit(data, epochs=2, verbose=0)
        measured = model.evaluate(data, verbose=0, return_dict=True)["mean_iou"]
        single = MeanIoU(3)
        single.update_state(labels, model.predict(images, verbose=0))
        assert (metric.confusion_matrix() == single.confusion_matrix()).all(), metric.confusion_matrix()
        print(abs(measured - float(single.result())) < 1e-6)
        """,
        KERAS_BACKEND="tensorflow",
    )
    assert output.strip() == "True"


_COUNT_RANDOM_PIXELS = """
import keras, numpy as np
from tf_segformer.evaluation.metrics import MeanIoU
generator = np.random.default_rng(5)
logits = generator.normal(size=(2, 9, 9, 4)).astype("float32")
target = generator.choice([0, 1, 2, 3, 255], size=(2, 33, 36)).astype("int32")
metric = MeanIoU(4)
metric.update_state(target, logits)
print(metric.confusion_matrix().tolist(), round(float(metric.result()), 6))
"""


@lru_cache
def _counts_on(backend: str) -> str:
    return _run_python(_COUNT_RANDOM_PIXELS, KERAS_BACKEND=backend)


@pytest.mark.parity
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_count_the_same(backend):
    pytest.importorskip(backend)
    assert _counts_on(backend) == _counts_on("tensorflow")
