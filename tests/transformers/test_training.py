"""Training as those programs do it: the model's own loss or another one, every form of dataset, Keras' callbacks."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.transformers import cases

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")

from tf_segformer import metrics  # noqa: E402
from tf_segformer.transformers import (  # noqa: E402
    SegformerConfig,
    SegformerImageProcessor,
    TFSegformerForImageClassification,
    TFSegformerForSemanticSegmentation,
)

FORMS = {
    "one dictionary": lambda images, labels: {"pixel_values": images, "labels": labels},
    "pairs": lambda images, labels: (images, labels),
    "dictionary and labels": lambda images, labels: ({"pixel_values": images}, labels),
    "two dictionaries": lambda images, labels: ({"pixel_values": images}, {"labels": labels}),
}


@pytest.fixture
def model():
    return TFSegformerForSemanticSegmentation(SegformerConfig(**cases.fields("five_channels")))


@pytest.fixture
def batch():
    return cases.inputs("five_channels")


def dataset_of(batch, form="one dictionary"):
    pairs = FORMS[form](batch["pixel_values"], batch["labels"].astype("uint8"))
    return tf.data.Dataset.from_tensor_slices(pairs).batch(2)


class MeanLogit(keras.metrics.Mean):
    """The logits' mean, for labels of the images' size and logits with channels first."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        assert (y_true.shape[1:], y_pred.shape[1:]) == ((48, 32), (3, 12, 8))
        super().update_state(y_pred)


@pytest.mark.parametrize(
    "form", ["one dictionary", *(pytest.param(form, marks=pytest.mark.slow) for form in [*FORMS][1:])]
)
def test_fit_and_evaluate_take_the_loss_of_the_model_from_every_form_of_dataset(form, model, batch):
    model.compile(optimizer=keras.optimizers.SGD(0.0), metrics=[MeanLogit(name="logit")], run_eagerly=True)
    dataset = dataset_of(batch, form)
    history = model.fit(dataset, validation_data=dataset, verbose=0, shuffle=False).history
    expected = float(model(**batch).loss[0])
    assert set(history) == {"loss", "val_loss", "logit", "val_logit"}
    assert history["val_loss"][0] == pytest.approx(expected, abs=1e-5)
    assert model.evaluate(dataset, verbose=0, return_dict=True)["loss"] == pytest.approx(expected, abs=1e-5)


def test_arrays_are_taken_and_predict_gives_the_loss_where_it_is_given_labels(model, batch):
    model.compile("sgd", "passthrough", steps_per_execution=None, run_eagerly=True)
    assert np.isfinite(model.fit(batch["pixel_values"], batch["labels"], verbose=0).history["loss"]).all()
    assert np.isfinite(model.train_on_batch(batch))
    outputs = model.predict(dataset_of(batch), verbose=0)
    assert {name: value.shape for name, value in outputs.items()} == {"loss": (1,), "logits": (2, 3, 12, 8)}


def test_rows_of_pillow_images_train_by_the_processor_and_a_generator():
    random = np.random.default_rng(0)
    rows = [
        (random.integers(0, 256, (*size, 3), np.uint8), random.integers(0, 5, size, np.uint8))
        for size in ((40, 50), (64, 33))
    ]
    images, annotations = (list(map(Image.fromarray, arrays)) for arrays in zip(*rows, strict=True))
    processor = SegformerImageProcessor(size=32)

    def examples():
        batch = processor(images, annotations)
        for pixel_values, labels in zip(batch["pixel_values"], batch["labels"], strict=True):
            yield {"pixel_values": pixel_values, "labels": labels}

    signature = {"pixel_values": tf.TensorSpec((3, 32, 32), tf.float32), "labels": tf.TensorSpec((32, 32), tf.int64)}
    dataset = tf.data.Dataset.from_generator(examples, output_signature=signature)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(2)).batch(2)
    model = TFSegformerForSemanticSegmentation(SegformerConfig(**cases.fields("segmentation")))
    model.compile(keras.optimizers.SGD(0.01), metrics=[metrics.MeanIoU(5, data_format="channels_first")])
    model.fit(dataset, verbose=0, shuffle=False)
    found = model.evaluate(dataset, verbose=0, return_dict=True)
    (batch,) = dataset
    expected = metrics.MeanIoU(5)
    class_maps = processor.post_process_semantic_segmentation(model(batch["pixel_values"]), [(32, 32)] * 2)
    expected.update_state(batch["labels"], np.stack(class_maps))
    assert found["mean_iou"] == pytest.approx(float(expected.result()), abs=1e-4)
    assert found["loss"] == pytest.approx(float(model(**batch).loss[0]), abs=1e-5)


def test_ignored_labels_do_not_count(model, batch):
    labels = batch["labels"].copy()
    labels[:, :24] = 255
    half = model(batch["pixel_values"], labels=labels).loss
    pixels = keras.losses.sparse_categorical_crossentropy(
        batch["labels"],
        tf.image.resize(tf.transpose(model(batch["pixel_values"]).logits, (0, 2, 3, 1)), (48, 32)),
        from_logits=True,
    )
    np.testing.assert_allclose(half, [np.mean(pixels[:, 24:])], atol=1e-5)
    nothing = model(batch["pixel_values"], labels=np.full_like(labels, 255)).loss
    np.testing.assert_array_equal(nothing, [0.0])


@pytest.mark.slow
def test_weights_of_pixels_count_in_the_loss_of_the_model(model, batch):
    weights = np.zeros(batch["labels"].shape, "float32")
    weights[:, :24] = 2.0
    model.compile("sgd", run_eagerly=True)
    weighted = model.evaluate(batch["pixel_values"], batch["labels"], sample_weight=weights, verbose=0)
    labels = np.where(weights > 0, batch["labels"], 255)
    assert weighted == pytest.approx(float(model(batch["pixel_values"], labels=labels).loss[0]), abs=1e-5)


def test_a_loss_of_the_user_works_on_logits_with_channels_first(model, batch):
    seen = {}

    def loss(y_true, y_pred):
        seen.update(labels=tuple(y_true.shape), logits=tuple(y_pred.shape))
        return tf.reduce_mean(tf.square(y_pred))

    model.compile(keras.optimizers.SGD(0.0), loss=loss, run_eagerly=True)
    value = model.evaluate(dataset_of(batch), verbose=0)
    assert seen == {"labels": (2, 48, 32), "logits": (2, 3, 12, 8)}
    assert value == pytest.approx(float(np.mean(np.square(model(batch["pixel_values"]).logits))), abs=1e-5)


def test_compiled_again_without_a_loss_the_model_s_own_is_back(model, batch):
    def loss(y_true, y_pred):
        return tf.reduce_mean(tf.square(y_pred))

    model.compile("sgd", loss=loss, metrics=[MeanLogit()], run_eagerly=True)
    model.compile("sgd", run_eagerly=True)
    found = model.evaluate(dataset_of(batch), verbose=0, return_dict=True)
    assert found == {"loss": pytest.approx(float(model(**batch).loss[0]), abs=1e-5)}


@pytest.mark.slow
def test_a_loss_of_a_subclass_is_the_one_that_is_trained(batch):
    class Halved(TFSegformerForSemanticSegmentation):
        def hf_compute_loss(self, logits, labels):
            assert logits.shape[-1] == self.config.num_labels
            return super().hf_compute_loss(logits, labels) / 2

    model = Halved(SegformerConfig(**cases.fields("five_channels")))
    model.compile("sgd", run_eagerly=True)
    half = model.evaluate(dataset_of(batch, "pairs"), verbose=0)
    whole = TFSegformerForSemanticSegmentation.hf_compute_loss(
        model, np.moveaxis(model(batch["pixel_values"]).logits.numpy(), 1, -1), batch["labels"]
    )
    assert half == pytest.approx(float(whole[0]) / 2, abs=1e-5)


def test_images_without_labels_are_no_training_data(model, batch):
    model.compile("sgd", run_eagerly=True)
    with pytest.raises(ValueError, match=r"give fit \(images, labels\), or"):
        model.fit(batch["pixel_values"], verbose=0)


def test_one_label_is_a_regression_for_images():
    config = SegformerConfig(**{**cases.fields("classification"), "num_labels": 1})
    model = TFSegformerForImageClassification(config)
    images = cases.inputs("classification")["pixel_values"]
    outputs = model(images, labels=np.array([0.5, 1.0, 2.0], "float32"))
    np.testing.assert_allclose(outputs.loss, (outputs.logits[:, 0] - np.array([0.5, 1.0, 2.0])) ** 2, rtol=1e-5)


@pytest.mark.slow
def test_callbacks_of_keras_work_and_their_files_load(model, batch, tmp_path):
    rates = []
    callbacks = [
        keras.callbacks.EarlyStopping(monitor="val_loss", patience=0, restore_best_weights=True),
        keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 if epoch == 0 else 1e3),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: rates.append(logs["learning_rate"])),
        keras.callbacks.ModelCheckpoint(str(tmp_path / "a.keras"), save_best_only=True, monitor="val_loss"),
        keras.callbacks.ModelCheckpoint(str(tmp_path / "a.h5"), save_best_only=True, monitor="val_loss"),
        keras.callbacks.ModelCheckpoint(
            str(tmp_path / "a.weights.h5"), save_weights_only=True, save_best_only=True, monitor="val_loss"
        ),
    ]
    dataset = dataset_of(batch)
    model.compile(optimizer=keras.optimizers.SGD(0.01))
    losses = model.fit(
        dataset, validation_data=dataset, epochs=4, verbose=0, shuffle=False, callbacks=callbacks
    ).history
    assert len(losses["val_loss"]) == 2
    assert rates == pytest.approx([0.1, 1e3])
    assert model.evaluate(dataset, verbose=0) == pytest.approx(losses["val_loss"][0], abs=1e-5)
    expected = model.predict(batch["pixel_values"], verbose=0).logits
    for name in ("a.keras", "a.h5"):
        again = keras.models.load_model(tmp_path / name)
        np.testing.assert_allclose(again.predict(batch["pixel_values"], verbose=0).logits, expected, atol=1e-6)
        assert again.evaluate(dataset, verbose=0) == pytest.approx(losses["val_loss"][0], abs=1e-5)
    keras.models.load_model(tmp_path / "a.keras").fit(dataset, verbose=0, shuffle=False)
    fresh = TFSegformerForSemanticSegmentation(model.config)
    fresh.load_weights(tmp_path / "a.weights.h5")
    np.testing.assert_allclose(fresh.predict(batch["pixel_values"], verbose=0).logits, expected, atol=1e-6)
