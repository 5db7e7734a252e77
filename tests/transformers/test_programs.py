"""Programs written for transformers 4 run with the import changed: the example of keras.io, and Doodleverse's library.

The second is skipped where it is not installed: pip install -r tests/transformers/doodleverse.txt
"""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image

from tests.transformers import cases

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")

from tf_segformer import transformers  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture
def mit_b0(tmp_path, monkeypatch):
    """A small classifier as the folder nvidia/mit-b0, so that programs find one under that name."""
    config = transformers.SegformerConfig(**{**cases.fields("classification"), "num_labels": 1000})
    model = transformers.TFSegformerForImageClassification(config)
    model.save_pretrained(tmp_path / "nvidia" / "mit-b0")
    monkeypatch.chdir(tmp_path)
    return model


def test_the_example_of_keras_io_trains_and_shows_its_predictions(mit_b0):
    random = np.random.default_rng(0)
    samples = [(random.integers(0, 256, (40, 48, 3)), random.integers(1, 4, (40, 48, 1))) for _ in range(4)]
    mean = tf.constant([0.485, 0.456, 0.406])
    std = tf.constant([0.229, 0.224, 0.225])

    def load_image(image, mask):
        image = tf.image.resize(image, (64, 64))
        mask = tf.image.resize(mask, (64, 64), method="nearest")
        image = (tf.cast(image, tf.float32) / 255.0 - mean) / tf.maximum(std, tf.keras.backend.epsilon())
        return {"pixel_values": tf.transpose(image, (2, 0, 1)), "labels": tf.squeeze(mask - 1)}

    images, masks = (np.stack(each) for each in zip(*samples, strict=True))
    train_ds = tf.data.Dataset.from_tensor_slices((images, masks)).map(load_image).batch(2).prefetch(2)

    id2label = {0: "outer", 1: "inner", 2: "border"}
    label2id = {label: index for index, label in id2label.items()}
    with pytest.warns(UserWarning, match="has no decode_head"):
        model = transformers.TFSegformerForSemanticSegmentation.from_pretrained(
            "nvidia/mit-b0",
            num_labels=len(id2label),
            id2label=id2label,
            label2id=label2id,
            ignore_mismatched_sizes=True,
        )
    model.compile(optimizer=tf.keras.optimizers.Adam(learning_rate=0.00006))
    shown = []

    def create_mask(pred_mask):
        return tf.expand_dims(tf.math.argmax(pred_mask, axis=1), -1)[0]

    class DisplayCallback(tf.keras.callbacks.Callback):
        def __init__(self, dataset):
            super().__init__()
            self.dataset = dataset

        def on_epoch_end(self, epoch, logs=None):
            for sample in self.dataset.take(1):
                shown.append(create_mask(model.predict(sample["pixel_values"], verbose=0).logits))

    history = model.fit(
        train_ds, validation_data=train_ds, callbacks=[DisplayCallback(train_ds)], epochs=2, verbose=0, shuffle=False
    )
    assert np.isfinite(history.history["loss"] + history.history["val_loss"]).all()
    assert [tuple(mask.shape) for mask in shown] == [(16, 16, 1)] * 2


@pytest.mark.filterwarnings("ignore")  # of a library that is no part of this project
@pytest.mark.parametrize("num_classes", [2, 4])
def test_doodleverse_utils_builds_its_model_and_segments_an_image(num_classes, mit_b0, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", transformers)
    monkeypatch.setenv("MPLBACKEND", "agg")
    model_imports = pytest.importorskip("doodleverse_utils.model_imports", exc_type=ImportError)
    prediction_imports = pytest.importorskip("doodleverse_utils.prediction_imports", exc_type=ImportError)
    assert model_imports.TFSegformerForSemanticSegmentation is transformers.TFSegformerForSemanticSegmentation

    names = {index: f"class {index}" for index in range(num_classes)}
    model = model_imports.segformer(names, num_classes=num_classes)
    weights = tmp_path / "coast_fullmodel.h5"
    model.save_weights(weights)
    again = model_imports.segformer(names, num_classes=num_classes)
    again.load_weights(weights)
    images = np.random.default_rng(0).standard_normal((1, 3, 64, 96)).astype("float32")
    np.testing.assert_allclose(again(images).logits, model(images).logits, atol=1e-6)

    photo = np.random.default_rng(1).integers(0, 256, (50, 70, 3), np.uint8)
    Image.fromarray(photo).save(tmp_path / "scene.jpg")
    models = prediction_imports.compile_models([again], "segformer")
    prediction_imports.do_seg(
        str(tmp_path / "scene.jpg"),
        models,
        {},
        "segformer",
        str(tmp_path),
        num_classes,
        3,
        [64, 96],
        True,
        True,
        False,
        profile="meta",
    )
    with np.load(tmp_path / "out" / "scene_res.npz", allow_pickle=True) as result:
        labels = result["grey_label"]
    assert labels.shape == (50, 70)
    assert set(np.unique(labels)) <= set(range(num_classes))
    assert Image.open(tmp_path / "out" / "scene_predseg.png").size == (70, 50)
