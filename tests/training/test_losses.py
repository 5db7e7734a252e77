"""SegmentationLoss: its values and gradients are torch's, at every size, with every option, compiled or not."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_segformer.errors import DatasetError
from tf_segformer.training import row_chunks
from tf_segformer.training.losses import SegmentationLoss

torch = pytest.importorskip("torch", reason="the reference loss is torch's")
functional = torch.nn.functional

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


def torch_loss(logits, labels, weight=None, smoothing=0.0, average="valid", gamma=0.0, dice=0.0, hard_below=None):
    """The same loss on logits that are resized first, by torch's autograd."""
    leaf, labels = torch.tensor(logits, requires_grad=True), torch.tensor(labels)
    size = labels.shape[1:]
    resized = functional.interpolate(leaf.permute(0, 3, 1, 2), size=size, mode="bilinear", align_corners=False)
    counts, classes = labels != 255, resized.shape[1]
    labels = torch.where(counts, labels, 0)
    log_p = functional.log_softmax(resized, dim=1)
    is_label = functional.one_hot(labels, classes).permute(0, 3, 1, 2).float()
    p_label = (log_p.exp() * is_label).sum(1)
    pixels = -((is_label * (1 - smoothing) + smoothing / classes) * log_p).sum(1) * (1 - p_label) ** gamma
    pixel_weights = counts.float()
    if hard_below is not None:
        pixel_weights = pixel_weights * (p_label.detach() < hard_below)
    if weight is not None:
        pixel_weights = pixel_weights * torch.tensor(weight)[labels]
    total = pixel_weights.sum() if average == "valid" else pixel_weights.numel()
    value = (pixels * pixel_weights).sum() / total
    if dice:
        p, target = log_p.exp() * counts[:, None], is_label * counts[:, None]
        overlap, both = (p * target).sum((0, 2, 3)), (p + target).sum((0, 2, 3))
        present = target.sum((0, 2, 3)) > 0
        value = value + dice * (1 - (2 * overlap + 1) / (both + 1))[present].mean()
    value.backward()
    return float(value.detach()), leaf.grad.numpy()


OPTIONS = {
    "plain": ({}, {}),
    "average over all pixels": ({"normalize_by": "all_pixels"}, {"average": "all"}),
    "class weights": ({"class_weights": WEIGHTS}, {"weight": WEIGHTS}),
    "label smoothing": ({"label_smoothing": 0.1}, {"smoothing": 0.1}),
    "focal": ({"focal_gamma": 2.0}, {"gamma": 2.0}),
    "smoothed focal below 1": ({"focal_gamma": 0.5, "label_smoothing": 0.1}, {"gamma": 0.5, "smoothing": 0.1}),
    "dice": ({"dice_weight": 0.7}, {"dice": 0.7}),
    "hard examples": ({"ohem_threshold": 0.3, "ohem_min_kept": 5}, {"hard_below": 0.3}),
}


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("option", OPTIONS)
def test_value_and_gradient_are_those_of_torch(batch, option, jit_compile):
    ours, theirs = OPTIONS[option]
    value, gradient = value_and_gradient(SegmentationLoss(**ours), *batch, jit_compile)
    expected, expected_gradient = torch_loss(*batch, **theirs)
    assert value == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-8)


def test_plain_average_is_that_of_torch_cross_entropy(batch):
    logits, labels = batch
    resized = functional.interpolate(torch.tensor(logits).permute(0, 3, 1, 2), size=LABEL_SIZE, mode="bilinear")
    expected = functional.cross_entropy(resized, torch.tensor(labels), ignore_index=255)
    assert float(SegmentationLoss()(labels, logits)) == pytest.approx(float(expected), rel=1e-6)


def test_single_channel_is_binary_cross_entropy(batch):
    logits, labels = batch[0][..., :1], np.where(batch[1] == 255, 255, batch[1] % 2)
    leaf = torch.tensor(logits, requires_grad=True)
    resized = functional.interpolate(leaf.permute(0, 3, 1, 2), size=LABEL_SIZE, mode="bilinear")[:, 0]
    counts = torch.tensor(labels) != 255
    expected = functional.binary_cross_entropy_with_logits(resized[counts], torch.tensor(labels)[counts].float())
    expected.backward()
    value, gradient = value_and_gradient(SegmentationLoss(), logits, labels)
    assert value == pytest.approx(float(expected.detach()), rel=1e-6)
    np.testing.assert_allclose(gradient, leaf.grad.numpy(), atol=1e-8)


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


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_label_out_of_range_is_nan_in_a_graph_and_teaches_nothing(batch, jit_compile):
    logits, labels = batch
    value, gradient = value_and_gradient(SegmentationLoss(), logits, np.full_like(labels, 7), jit_compile)
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


def test_sample_weights_are_rejected(batch):
    with pytest.raises(ValueError, match="no sample weights"):
        SegmentationLoss()(batch[1], batch[0], sample_weight=np.ones(2))
