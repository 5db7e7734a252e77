"""A model with one logit (num_labels=1) decides by its sigmoid at 0.5 in every place that makes classes of logits."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.modeling.test_models import TWO_STAGES
from tf_segformer import (
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    SegmentationPredictor,
    evaluate,
    export_saved_model,
    metrics,
)
from tf_segformer.data import find_dataset
from tf_segformer.imaging.graph.class_map import class_map_from_logits as class_map_in_graph
from tf_segformer.imaging.postprocess import class_map_and_confidence
from tf_segformer.inference.classifier import classify

CONFIG = TWO_STAGES.replace(id2label={0: "crack"}, initializer_range=0.3)
PROCESSOR = SegformerImageProcessor(size=32)


@pytest.fixture(scope="module")
def model():
    model = SegformerForSemanticSegmentation(CONFIG)
    logits = model(PROCESSOR(image())["pixel_values"])
    model.decode_head.classifier.bias.assign(-np.median(logits, axis=(0, 1, 2)))  # each class has half of the image
    return model


def image():
    return np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)


def upsampled_sigmoid(logits):
    return 1 / (1 + np.exp(-tf.image.resize(logits, (32, 32)).numpy()[..., 0]))  # (B, 32, 32)


def test_class_map_and_confidence_are_the_sigmoid_s(model):
    logits = model(PROCESSOR(image())["pixel_values"]).numpy()
    p = upsampled_sigmoid(logits)[0]
    class_map, confidence = class_map_and_confidence(logits[0], (32, 32))
    assert 0.3 < class_map.mean() < 0.7
    np.testing.assert_array_equal(class_map, p > 0.5)
    np.testing.assert_allclose(confidence, np.maximum(p, 1 - p), atol=1e-6)
    np.testing.assert_array_equal(class_map_in_graph(tf.constant(logits[0]), (32, 32)), class_map)
    (processed,) = PROCESSOR.post_process_semantic_segmentation(logits, [(32, 32)])
    np.testing.assert_array_equal(processed, class_map)


@pytest.mark.parametrize("options", [{"mode": "resize"}, {"mode": "slide", "window": 32, "stride": 32}], ids=str)
def test_the_predictor_has_a_background(model, options):
    (result,) = SegmentationPredictor(model, PROCESSOR, return_confidence=True, **options)(image())
    p = upsampled_sigmoid(model(PROCESSOR(image())["pixel_values"]))[0]
    np.testing.assert_array_equal(result.class_map, p > 0.5)
    np.testing.assert_allclose(result.confidence, np.maximum(p, 1 - p), atol=1e-5)
    assert result.labels == {0: "background", 1: "crack"}
    assert result.class_fractions["crack"] == pytest.approx(result.class_map.mean())


@pytest.mark.parametrize("num_classes", [1, 2])
def test_mean_iou_counts_two_classes(num_classes):
    metric = metrics.MeanIoU(num_classes)
    metric.update_state(np.array([[[1, 1], [0, 255]]]), np.array([[[[3.0], [-3.0]], [[-3.0], [3.0]]]], "float32"))
    assert metric.confusion_matrix().tolist() == [[1, 0], [1, 1]]
    assert float(metric.result()) == 0.5


def test_evaluate_counts_two_classes(model, tmp_path):
    labels = np.zeros((32, 32), np.uint8)
    labels[:16] = 1
    for folder, array in (("images", image()), ("labels", labels)):
        (tmp_path / "val" / folder).mkdir(parents=True)
        Image.fromarray(array).save(tmp_path / "val" / folder / "0.png")
    dataset = find_dataset("folder", tmp_path, "val", class_names=["background", "crack"])
    found = evaluate(SegmentationPredictor(model, PROCESSOR), dataset)
    assert found["confusion_matrix"].shape == (2, 2) and found["confusion_matrix"].sum() == 32 * 32
    assert (found["confusion_matrix"] > 0).all()


@pytest.mark.slow
def test_a_saved_model_serves_the_same_classes(model, tmp_path):
    served = tf.saved_model.load(str(export_saved_model(model, tmp_path, PROCESSOR)))
    encoded = tf.constant([tf.io.encode_png(image()).numpy()])
    outputs = served.signatures["serving_default"](image_bytes=encoded)
    (result,) = SegmentationPredictor(model, PROCESSOR)(image())
    class_map = tf.io.decode_png(outputs["class_map_bytes"][0])[..., 0].numpy()
    assert (class_map != result.class_map).mean() < 0.01  # the graph resizes images in its own roundings
    assert outputs["labels"].numpy().tolist() == [[b"background", b"crack"]]
    np.testing.assert_allclose(outputs["class_fractions"][0], np.bincount(class_map.ravel()) / class_map.size)


def test_a_classifier_of_one_label_gives_its_sigmoid():
    model = SegformerForImageClassification(CONFIG)
    (result,) = classify(model, PROCESSOR, image())
    logit = float(model(PROCESSOR(image())["pixel_values"])[0, 0])
    assert result.probabilities["crack"] == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-5)
    assert set(result.probabilities) == {"background", "crack"}
