"""The model trains on every backend of Keras, with the losses that it has on TensorFlow."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest

from tests.modeling.make_golden import FOLDER, SIZES, image
from tests.other_backends import output_on
from tf_segformer import SegformerForSemanticSegmentation
from tf_segformer.ops import chunked_head
from tf_segformer.training.losses import SegmentationLoss

SCRIPT = """
import json, sys
sys.modules["tensorflow"] = None  # neither the model nor its loss needs it
import keras
from tests.training.test_backends import losses_of_three_steps
assert keras.backend.backend() == sys.argv[1]
print(json.dumps(losses_of_three_steps()))
"""


def losses_of_three_steps():
    """Without dropout and drop path, whose draws differ between backends; the hidden map in several blocks."""
    chunked_head.CHANNELS_AT_ONCE = 10  # of 24
    still = {"drop_path_rate": 0.0, "classifier_dropout_prob": 0.0}
    model = SegformerForSemanticSegmentation.from_pretrained(FOLDER / "segmentation", **still)
    model.compile(keras.optimizers.AdamW(1e-3), loss=SegmentationLoss())
    pixel_values = image(SIZES[0], 3)
    labels = np.random.default_rng(0).integers(0, model.config.num_labels, (1, *SIZES[0]))
    losses = [float(model.train_on_batch(pixel_values, labels)) for _ in range(3)]
    return [*losses, float(np.abs(model.predict_on_batch(pixel_values)).mean())]  # shows the batch norm's statistics


@pytest.fixture(scope="module")
def losses_on_tensorflow():
    before = chunked_head.CHANNELS_AT_ONCE
    losses = losses_of_three_steps()
    chunked_head.CHANNELS_AT_ONCE = before
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_three_steps_have_the_losses_of_tensorflow(losses_on_tensorflow, backend):
    losses = json.loads(output_on(backend, SCRIPT).splitlines()[-1])
    # AdamW divides by the size of gradients, some of which are mere roundings
    np.testing.assert_allclose(losses, losses_on_tensorflow, rtol=1e-4)
