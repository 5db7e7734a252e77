"""SegmentationLoss: values and gradients are those of the definition, at every size, with every option and by XLA."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.training import reference_losses
from tf_segformer.errors import DatasetError
from tf_segformer.training import row_chunks
from tf_segformer.training.losses import SegmentationLoss

SHAPE, CLASSES = (2, 5, 7), 4  # logits of odd sizes, where tf.image.resize is wrong under XLA
LABEL_SIZE = (19, 23)
WEIGHTS = [1.0, 2.0, 0.5, 3.0]


@pytest.fixture(autouse=True)
def several_chunks(monkeypatch):
    """Lets the small logits of these tests be resized three rows at a time, with a last chunk that is not full."""
    monkeypatch.setattr(row_chunks, "CHUNK_SIZE", 3 * 23 * CLASSES)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (*SHAPE, CLASSES)).astype("float32")
    labels = rng.integers(0, CLASSES, (SHAPE[0], *LABEL_SIZE))
    labels[0, :4] = 255
    return logits, labels


def value_and_gradient(loss, logits, labels, jit_compile=False):
    @tf.function(jit_compile=jit_compile)
    def run(logits, labels):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = loss(labels, logits)
        return value, tape.gradient(value, logits)

    value, gradient = run(tf.constant(logits), tf.constant(labels, tf.int32))
    return float(value), gradient.numpy()


OPTIONS = {
    "plain": {},
    "average over all pixels": {"normalize_by": "all_pixels"},
    "class weights": {"class_weights": WEIGHTS},
    "label smoothing": {"label_smoothing": 0.1},
    "focal": {"focal_gamma": 2.0},
    "smoothed focal below 1": {"focal_gamma": 0.5, "label_smoothing": 0.1},
    "dice": {"dice_weight": 0.7},
    "hard examples": {"ohem_threshold": 0.3, "ohem_min_kept": 5},
    "hardest examples": {"ohem_threshold": 1e-6, "ohem_min_kept": 40},
    "everything": {
        "normalize_by": "all_pixels",
        "class_weights": WEIGHTS,
        "label_smoothing": 0.2,
        "focal_gamma": 1.5,
        "ohem_threshold": 0.4,
        "ohem_min_kept": 5,
        "dice_weight": 0.3,
    },
}
FAST_ON_XLA = {"hardest examples"}  # each compilation takes seconds


@pytest.mark.parametrize(
    ("option", "jit_compile"),
    [
        *[pytest.param(option, False, id=f"{option}-graph") for option in OPTIONS],
        *[
            pytest.param(option, True, id=f"{option}-xla", marks=() if option in FAST_ON_XLA else pytest.mark.slow)
            for option in OPTIONS
        ],
    ],
)
def test_value_and_gradient_are_those_of_the_definition(batch, option, jit_compile):
    value, gradient = value_and_gradient(SegmentationLoss(**OPTIONS[option]), *batch, jit_compile)
    expected, expected_gradient = reference_losses.value_and_gradient(*batch, **OPTIONS[option])
    assert value == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-8)


def test_the_definition_is_torchs_cross_entropy(batch):
    functional = pytest.importorskip("torch.nn.functional")
    import torch

    logits, labels = torch.tensor(batch[0], requires_grad=True), torch.tensor(batch[1])
    resized = functional.interpolate(logits.permute(0, 3, 1, 2), size=LABEL_SIZE, mode="bilinear")
    options = {"weight": torch.tensor(WEIGHTS), "ignore_index": 255}
    loss = functional.cross_entropy(resized, labels, **options)
    loss.backward()
    value, gradient = reference_losses.value_and_gradient(*batch, class_weights=WEIGHTS)
    assert value == pytest.approx(float(loss.detach()), rel=1e-6)
    np.testing.assert_allclose(gradient, logits.grad.numpy(), atol=1e-8)
    smoothed = functional.cross_entropy(resized, labels, ignore_index=255, label_smoothing=0.1)
    assert reference_losses.loss_value(*batch, label_smoothing=0.1) == pytest.approx(float(smoothed.detach()), rel=1e-6)


def test_single_channel_is_binary_cross_entropy(batch):
    logits, labels = batch[0][..., :1], np.where(batch[1] == 255, 255, batch[1] % 2)
    value, gradient = value_and_gradient(SegmentationLoss(), logits, labels)
    expected, expected_gradient = reference_losses.value_and_gradient(logits, labels)
    assert value == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-8)


def test_another_label_is_ignored(batch):
    logits, labels = batch[0], np.where(batch[1] == 255, 2, batch[1])
    value, gradient = value_and_gradient(SegmentationLoss(ignore_index=2), logits, labels)
    expected, expected_gradient = reference_losses.value_and_gradient(logits, labels, ignore_index=2)
    assert value == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-8)


@pytest.mark.parametrize(
    "options", [{}, {"dice_weight": 1.0}, {"ohem_threshold": 0.7}, {"normalize_by": "all_pixels"}], ids=str
)
def test_all_pixels_ignored_gives_zero_and_no_gradient(batch, options):
    logits, labels = batch
    value, gradient = value_and_gradient(SegmentationLoss(**options), logits, np.full_like(labels, 255))
    assert value == 0
    assert not gradient.any()


def test_hard_examples_keep_at_least_the_wanted_number(batch):
    logits, labels = batch
    everything = SegmentationLoss(ohem_threshold=1e-6, ohem_min_kept=labels.size)
    assert float(everything(labels, logits)) == pytest.approx(float(SegmentationLoss()(labels, logits)), rel=1e-6)
    hardest = SegmentationLoss(ohem_threshold=1e-6, ohem_min_kept=10)
    assert float(hardest(labels, logits)) > 2 * float(everything(labels, logits))


def test_label_out_of_range_is_named_in_eager_execution(batch):
    logits, labels = batch
    with pytest.raises(DatasetError, match=r"labels .*7.* neither a class \(0 to 3\)"):
        SegmentationLoss()(np.where(labels == 3, 7, labels), logits)


def test_label_out_of_range_ends_a_graph_with_the_values(batch):
    logits, labels = batch
    wrong = np.where(labels == 3, 7, np.where(labels == 2, -1, labels))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"(?s)neither a class \(0 to 3\).*\[-1 7\]"):
        value_and_gradient(SegmentationLoss(), logits, wrong)


@pytest.mark.slow
def test_label_out_of_range_is_nan_under_xla_and_teaches_nothing(batch):
    logits, labels = batch
    value, gradient = value_and_gradient(SegmentationLoss(), logits, np.full_like(labels, 7), jit_compile=True)
    assert np.isnan(value)
    assert not gradient.any()


def test_one_chunk_gives_the_same(batch, monkeypatch):
    several = value_and_gradient(SegmentationLoss(dice_weight=1.0), *batch)
    monkeypatch.setattr(row_chunks, "CHUNK_SIZE", 2**22)
    one = value_and_gradient(SegmentationLoss(dice_weight=1.0), *batch)
    assert one[0] == pytest.approx(several[0], rel=1e-6)
    np.testing.assert_allclose(one[1], several[1], atol=1e-8)


def test_labels_may_have_a_last_axis_of_one(batch):
    logits, labels = batch
    assert float(SegmentationLoss()(labels[..., None], logits)) == float(SegmentationLoss()(labels, logits))


def test_dynamic_sizes_give_the_same(batch):
    logits, labels = batch
    loss = SegmentationLoss()
    spec = [tf.TensorSpec((None, None, None)), tf.TensorSpec((None, None, None, CLASSES))]
    dynamic = tf.function(lambda labels, logits: loss(labels, logits), input_signature=spec)
    assert float(dynamic(labels.astype("float32"), logits)) == pytest.approx(float(loss(labels, logits)), rel=1e-6)


def test_survives_serialization(batch):
    loss = SegmentationLoss(normalize_by="all_pixels", class_weights=WEIGHTS, label_smoothing=0.1, dice_weight=0.5)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert copy.get_config() == loss.get_config()
    assert float(copy(batch[1], batch[0])) == float(loss(batch[1], batch[0]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"normalize_by": "mean"},
        {"label_smoothing": 1.0},
        {"focal_gamma": -1},
        {"ohem_threshold": 0},
        {"class_weights": [1.0, -1.0]},
    ],
    ids=str,
)
def test_arguments_out_of_range_are_rejected(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SegmentationLoss(**wrong)


def test_class_weights_of_another_length_are_rejected(batch):
    with pytest.raises(ValueError, match="2 entries"):
        SegmentationLoss(class_weights=[1.0, 2.0])(batch[1], batch[0])


@pytest.mark.parametrize(
    ("option", "shape"),
    [
        ("plain", (2,)),
        ("average over all pixels", (2, 1)),
        ("dice", (2, *LABEL_SIZE)),
        ("everything", (2, *LABEL_SIZE, 1)),
    ],
)
def test_sample_weights_count_per_image_and_per_pixel(batch, option, shape):
    weights = np.random.default_rng(1).choice([0.0, 0.5, 2.0], shape)
    weights.flat[-1] = 0.25  # one image counts at least

    def loss(labels, logits):
        return SegmentationLoss(**OPTIONS[option])(labels, logits, sample_weight=weights)

    value, gradient = value_and_gradient(loss, *batch)
    in_map = weights.reshape(2, 1, 1) if weights.size == 2 else weights.reshape(2, *LABEL_SIZE)
    expected, expected_gradient = reference_losses.value_and_gradient(*batch, **OPTIONS[option], sample_weight=in_map)
    assert value == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-8)


def test_sample_weights_of_another_shape_are_rejected(batch):
    with pytest.raises(ValueError, match=r"per pixel .* \(2, 5\)"):
        SegmentationLoss()(batch[1], batch[0], sample_weight=np.ones((2, 5)))
