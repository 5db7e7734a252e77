"""evaluate: every pixel of every image is compared, at the labels' size; labels that do not fit are named."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass

import keras
import numpy as np
import pytest
from PIL import Image

from tf_segformer.errors import DatasetError
from tf_segformer.evaluation.confusion import confusion_matrix, metrics_from_confusion
from tf_segformer.evaluation.evaluate import evaluate
from tf_segformer.evaluation.report import metrics_to_json, write_report
from tf_segformer.imaging.processor import SegformerImageProcessor
from tf_segformer.inference.predictor import SegmentationPredictor

CLASS_NAMES = ("dark", "bright", "absent")


@dataclass
class Example:
    """An image of random blocks whose true class is how bright each block is."""

    labels_name: str
    image: np.ndarray
    labels: np.ndarray

    def read_image(self) -> Image.Image:
        return Image.fromarray(self.image)

    def read_labels(self) -> np.ndarray:
        return self.labels


class Examples(list):
    """A dataset in memory."""

    num_labels = 3
    size = property(len)


@pytest.fixture
def dataset():
    """Five images of two sizes, neighbours of equal size among them; a quarter of the labels is wrong or ignored."""
    random = np.random.default_rng(0)
    examples = Examples()
    for number, (height, width) in enumerate([(24, 32), (24, 32), (16, 20), (24, 32), (16, 20)]):
        labels = random.integers(0, 2, (height, width))
        image = np.repeat(np.where(labels, 200, 50)[..., None], 3, axis=-1).astype(np.uint8)
        labels = np.where(random.random(labels.shape) < 0.25, random.choice([0, 1, 255], labels.shape), labels)
        examples.append(Example(f"{number}.png", image, labels))
    return examples


@pytest.fixture
def predictor():
    """Gives class 1 to pixels above the mean and class 0 to the others; never class 2."""
    model = keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(3, 1)])
    kernel = np.zeros((1, 1, 3, 3), np.float32)
    kernel[0, 0, :, 1] = 1
    model.layers[0].set_weights([kernel, np.array([0, 0, -1e6], np.float32)])
    return SegmentationPredictor(model, SegformerImageProcessor(do_resize=False), batch_size=2)


def expected_confusion(examples) -> np.ndarray:
    return sum(confusion_matrix(each.labels, each.image[..., 0] > 128, 3) for each in examples)


@pytest.mark.parametrize("limit", [None, 3, 9])
def test_every_image_is_counted_once_against_its_own_labels(predictor, dataset, limit):
    metrics = evaluate(predictor, dataset, limit=limit)
    expected = expected_confusion(dataset[:limit])
    np.testing.assert_array_equal(metrics["confusion_matrix"], expected)
    assert 0 < metrics["mIoU"] < 1
    for name, value in metrics_from_confusion(expected).items():
        np.testing.assert_array_equal(metrics[name], value)
    assert metrics["images"] == len(dataset[:limit])


def test_images_are_read_when_their_turn_comes(predictor, dataset):
    """A dataset of any size fits into memory: no more than a batch and the image after it are held."""
    read = []
    for example in dataset:
        example.read_image = lambda image=example.image, name=example.labels_name: (
            read.append(name) or Image.fromarray(image)
        )
    seen = []
    evaluate(predictor, dataset, on_result=lambda example, *_: seen.append((example.labels_name, len(read))))
    assert [name for name, _ in seen] == [example.labels_name for example in dataset]
    assert all(count <= number + 1 + predictor.batch_size for number, (_, count) in enumerate(seen))


def test_callback_gets_example_result_and_labels(predictor, dataset):
    calls = []
    evaluate(predictor, dataset, limit=2, on_result=lambda *given: calls.append(given))
    for (example, result, labels), expected in itertools.zip_longest(calls, dataset[:2]):
        assert example is expected
        np.testing.assert_array_equal(result.class_map, expected.image[..., 0] > 128)
        assert labels is expected.labels


def test_labels_of_another_size_are_named(predictor, dataset):
    dataset[1].labels = dataset[1].labels[:, :-1]
    with pytest.raises(DatasetError, match=r"1\.png: the label map is 31x24 pixels, its image 32x24"):
        evaluate(predictor, dataset)


def test_labels_that_are_no_class_are_named(predictor, dataset):
    dataset[2].labels[0, 0] = 3
    with pytest.raises(DatasetError, match=r"2\.png: target holds class 3"):
        evaluate(predictor, dataset)


def test_ignored_label_can_be_another(predictor, dataset):
    for example in dataset:
        example.labels = np.where(example.labels == 255, 7, example.labels)
    metrics = evaluate(predictor, dataset, ignore_index=7)
    assert metrics["confusion_matrix"].sum() == sum((example.labels != 7).sum() for example in dataset)


def test_report_holds_the_metrics_and_the_counts(predictor, dataset, tmp_path):
    metrics = evaluate(predictor, dataset)
    paths = write_report(tmp_path / "new", metrics, CLASS_NAMES, title="tiny on blocks", facts={"model": "tiny"})
    assert [path.name for path in paths] == ["evaluation.json", "confusion_matrix.png"]
    written = json.loads(paths[0].read_text())
    assert list(written)[:2] == ["model", "images"]
    assert written["confusion_matrix"] == metrics["confusion_matrix"].tolist()
    assert written["mIoU"] == pytest.approx(metrics["mIoU"], abs=1e-6)
    assert [row["name"] for row in written["classes"]] == list(CLASS_NAMES)
    with Image.open(paths[1]) as plot:
        assert plot.width > 100


def test_undefined_metric_is_null(predictor, dataset):
    for example in dataset:
        example.labels = np.full_like(example.labels, 255)
    described = metrics_to_json(evaluate(predictor, dataset), CLASS_NAMES)
    assert all(described[name] is None for name in ("mIoU", "mAcc", "aAcc", "fwIoU"))
    assert described["classes"][2] == {"name": "absent", "IoU": None, "Acc": None, "pixels": 0}
    json.dumps(described, allow_nan=False)
