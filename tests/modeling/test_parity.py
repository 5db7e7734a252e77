"""Full-size networks against transformers' PyTorch models: outputs and gradients, all weights random."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.modeling.make_golden import image, random_reference, reference_outputs
from tf_segformer import SegformerForImageClassification, SegformerForSemanticSegmentation
from tf_segformer.checkpoints.mapping import map_names, model_variables
from tf_segformer.checkpoints.tensors import Checkpoint, LazyTensor
from tf_segformer.configuration import VARIANTS

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = [pytest.mark.parity, pytest.mark.slow]

TOLERANCE = 2e-5  # max |difference| / max |reference|
# Softmax does not see what a key's bias adds to all scores of a query, nor batch norm what is added to all positions:
# these gradients are zero, and both sides give rounding noise.
WITHOUT_EFFECT = re.compile(r"attention/key/bias|decode_head/linear_c_\d/bias|stage_norm_3/beta")
SIZES = [(512, 512), (97, 131), (64, 160)]


def reference_fields(variant: str, **fields) -> dict:
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in VARIANTS[variant].items()
    } | fields


def assert_outputs_agree(model, reference, sizes) -> None:
    for size in sizes:
        pixel_values = image(size, model.config.num_channels)
        expected = reference_outputs(reference, pixel_values)
        outputs = model(pixel_values)
        ours = {"logits": outputs["logits"]}
        for kind in ("hidden_states", "attentions"):
            ours.update({f"{kind}.{index}": array for index, array in enumerate(outputs[kind])})
        assert set(ours) == set(expected)
        for name, array in expected.items():
            difference = np.abs(np.asarray(ours[name]) - array).max() / np.abs(array).max()
            assert difference < TOLERANCE, (name, size, difference)


def converted(model_class, reference, folder):
    reference.save_pretrained(folder)
    return model_class.from_pretrained(folder, output_hidden_states=True, output_attentions=True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_segmenters_agree_in_every_output(variant, tmp_path):
    reference = random_reference("SegformerForSemanticSegmentation", reference_fields(variant, num_labels=150))
    model = converted(SegformerForSemanticSegmentation, reference, tmp_path)
    assert_outputs_agree(model, reference, SIZES)


@pytest.mark.parametrize("variant", VARIANTS)
def test_classifiers_agree_in_every_output(variant, tmp_path):
    reference = random_reference("SegformerForImageClassification", reference_fields(variant, num_labels=1000))
    model = converted(SegformerForImageClassification, reference, tmp_path)
    assert_outputs_agree(model, reference, SIZES[1:])


@pytest.mark.parametrize("variant", VARIANTS)
def test_four_channels_agree(variant, tmp_path):
    fields = reference_fields(variant, num_labels=19, num_channels=4)
    reference = random_reference("SegformerForSemanticSegmentation", fields)
    assert_outputs_agree(converted(SegformerForSemanticSegmentation, reference, tmp_path), reference, SIZES[1:2])


def test_gradients_of_every_weight_agree(tmp_path):
    """Cross-entropy on B0, dropout off, batch norm on the batch's statistics: through the composed head too."""
    import tensorflow as tf

    fields = reference_fields("b0", num_labels=19, drop_path_rate=0.0, classifier_dropout_prob=0.0)
    reference = random_reference("SegformerForSemanticSegmentation", fields).train()
    # Far from the kink of the ReLU: within rounding of it, torch's own float32 and float64 differ by 6e-3.
    reference.decode_head.batch_norm.bias.data += 4
    reference.save_pretrained(tmp_path)
    model = SegformerForSemanticSegmentation.from_pretrained(tmp_path)

    pixel_values = np.concatenate([image((96, 128), 3), image((96, 128), 3)[:, ::-1]])
    labels = np.random.default_rng(0).integers(0, 19, (2, 96, 128))
    loss = reference(torch.from_numpy(pixel_values.transpose(0, 3, 1, 2).copy()), labels=torch.from_numpy(labels)).loss
    loss.backward()
    expected = reference_gradients(reference)

    with tf.GradientTape() as tape:
        logits = tf.image.resize(model(pixel_values, training=True), (96, 128))
        ours = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
    assert abs(float(ours) - loss.item()) < 1e-5
    variables = {name: each for name, each in model_variables(model).items() if each.trainable}
    gradients = dict(zip(variables, tape.gradient(ours, [each.value for each in variables.values()]), strict=True))
    assert set(gradients) == set(expected)
    scale = max(np.abs(gradient).max() for gradient in expected.values())
    for name, theirs in expected.items():
        ours = gradients[name].numpy()
        if WITHOUT_EFFECT.search(name):
            assert max(np.abs(ours).max(), np.abs(theirs).max()) < 1e-6 * scale, name
        else:
            assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max(), name


def reference_gradients(reference) -> dict[str, np.ndarray]:
    """The gradients of a transformers model under the names and in the layouts of ours."""
    gradients = {name: LazyTensor.of(each.grad.numpy()) for name, each in reference.named_parameters()}
    return {name: each.read() for name, each in map_names(Checkpoint(Path("gradients"), gradients)).tensors.items()}
