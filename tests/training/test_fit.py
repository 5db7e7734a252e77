"""Keras' own `fit` with what its users bring: weights of pixels, labels of unknown shape, callbacks of the rate."""

from __future__ import annotations

import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.modeling.test_models import TWO_STAGES
from tf_segformer import SegformerForSemanticSegmentation, losses, metrics, optimization
from tf_segformer.transformers import TFSegformerForSemanticSegmentation

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "train.md"

STILL = TWO_STAGES.replace(drop_path_rate=0.0, classifier_dropout_prob=0.0, initializer_range=0.2)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return rng.standard_normal((2, 12, 16, 3)).astype("float32"), rng.integers(0, 3, (2, 12, 16))


def compiled(optimizer="sgd", config=STILL, **options):
    model = SegformerForSemanticSegmentation(config)
    model.compile(optimizer, loss=losses.SegmentationLoss(), **options)
    return model


def test_weights_of_pixels_reach_the_loss(images):
    pixel_values, labels = images
    weights = np.zeros(labels.shape, "float32")
    weights[:, :5] = 2.0
    model = compiled(keras.optimizers.SGD(0.0))

    def loss(*data, **options):
        return model.fit(*data, shuffle=False, verbose=0, **options).history["loss"][0]

    without_the_others = loss(pixel_values, np.where(weights > 0, labels, 255))
    with_arrays = loss(pixel_values, labels, sample_weight=weights)
    with_dataset = loss(tf.data.Dataset.from_tensors((pixel_values, labels, weights)))
    assert with_arrays == with_dataset == pytest.approx(without_the_others, rel=1e-6)
    assert with_arrays != pytest.approx(loss(pixel_values, labels), rel=1e-4)


@pytest.mark.parametrize("class_of_model", [SegformerForSemanticSegmentation, TFSegformerForSemanticSegmentation])
def test_class_weight_is_rejected_with_the_remedy_by_name_and_by_position(class_of_model):
    model, weights = class_of_model(STILL), {0: 1.0, 1: 5.0}
    x, y = np.zeros((1, 12, 16, 3), "float32"), np.zeros((1, 12, 16), "int32")
    for train in (
        lambda: model.fit(x, y, class_weight=weights),
        lambda: model.fit(x, y, 2, 1, 0, None, 0.0, None, True, weights),
        lambda: model.train_on_batch(x, y, class_weight=weights),
        lambda: model.train_on_batch(x, y, None, weights),
    ):
        with pytest.raises(
            ValueError, match=r"SegmentationLoss\(class_weights=.*or those of the pixels as sample_weight"
        ):
            train()


def test_labels_of_unknown_shape_give_the_same(images):
    def read(index):
        pixel_values, labels = images
        return pixel_values[int(index)], labels[int(index)]

    def load(index):
        pixel_values, labels = tf.py_function(read, [index], [tf.float32, tf.int64])
        return tf.ensure_shape(pixel_values, (12, 16, 3)), labels

    unknown = tf.data.Dataset.range(2).map(load).batch(2)
    assert unknown.element_spec[1].shape.rank is None
    logs = []
    for dataset in (unknown, tf.data.Dataset.from_tensors(images)):
        keras.utils.set_random_seed(0)
        model = compiled(metrics=[metrics.MeanIoU(3)])
        logs.append(model.fit(dataset, shuffle=False, verbose=0).history)
    assert logs[0] == logs[1]


def test_the_guide_s_generator_trains_on_rows_of_pillow_images():
    random = np.random.default_rng(0)
    rows = [
        {
            "image": Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)).convert(mode),
            "annotation": Image.fromarray(random.integers(0, 3, (height, width), np.uint8)),
        }
        for height, width, mode in ((40, 50, "RGB"), (300, 260, "L"))
    ]
    blocks = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (program,) = [block for block in blocks if "from_generator" in block]
    model = compiled("sgd", metrics=[metrics.MeanIoU(3)])
    names = {"rows": rows, "model": model}
    exec(compile(program, GUIDE.name, "exec"), names)
    pixel_values, labels = next(iter(names["batches"]))
    assert (pixel_values.shape, labels.shape) == ((2, 256, 256, 3), (2, 256, 256))
    expected = metrics.MeanIoU(3)
    expected.update_state(labels, model.predict(pixel_values, verbose=0))
    found = model.evaluate(names["batches"], verbose=0, return_dict=True)
    assert found["mean_iou"] == pytest.approx(float(expected.result()), abs=1e-6)
    assert 0 < found["mean_iou"] < 1


def test_a_label_out_of_range_ends_fit_with_its_value(images):
    pixel_values, labels = images
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"(?s)neither a class \(0 to 2\).*\[9\]"):
        compiled(jit_compile=False).fit(pixel_values, np.where(labels == 1, 9, labels), verbose=0)


def test_callbacks_set_the_rate_of_an_optimizer_without_schedule(images):
    model = compiled(optimization.create_optimizer(1e-3, schedule=None))
    plateau = keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=0, min_delta=1e9)
    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 10 if epoch == 1 else rate)
    rates = model.fit(*images, epochs=3, verbose=0, callbacks=[scheduler, plateau]).history["learning_rate"]
    np.testing.assert_allclose(rates, [1e-3, 1e-2, 5e-3], rtol=1e-6)  # at the end of the second epoch it is halved
    assert model.optimizer.head_lr_multiplier == 10.0


@pytest.mark.parametrize("wrong", [{"schedule": "cosine"}, {"schedule": None, "warmup_steps": 10}], ids=str)
def test_a_schedule_that_does_not_exist_and_a_warm_up_without_one_are_rejected(wrong):
    with pytest.raises(ValueError, match="schedule="):
        optimization.create_optimizer(1e-3, **wrong)
