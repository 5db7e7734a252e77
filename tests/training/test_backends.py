"""The model trains on every backend of Keras, with the losses that it has on TensorFlow."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import keras
import numpy as np
import pytest

from tests.modeling.make_golden import FOLDER, SIZES, image
from tests.other_backends import output_on
from tests.training.runs import CROPS, DETERMINISTIC, PROCESSOR, make_model, splits
from tests.training.scenes import write_dataset
from tf_segformer import SegformerForSemanticSegmentation
from tf_segformer.ops import chunked_head
from tf_segformer.training import trainer
from tf_segformer.training.losses import SegmentationLoss
from tf_segformer.training.recipes import Phase

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


ALL_OPTIONS = replace(
    DETERMINISTIC,
    phases=(Phase(4, 2, CROPS),),
    accumulation_steps=2,
    ema_momentum=0.5,
    clip_norm=1.0,
    validate_every=2,
)
RUNS = """
import json, os
from pathlib import Path
from tests.training.processes import XLA_FLAGS
os.environ["XLA_FLAGS"] = XLA_FLAGS
from tests.training.test_backends import losses_of_run
from tf_segformer.errors import SegformerError
folder = Path({folder!r})
try:
    losses_of_run(folder, "float16")
except SegformerError as error:
    assert "--precision bfloat16" in str(error), error
else:
    raise AssertionError("float16 on a CPU was not rejected")
print(json.dumps([losses_of_run(folder, precision) for precision in ("float32", "bfloat16")]))
"""


def losses_of_run(folder, precision):
    """Training and validation losses of a recipe with everything that the trainer can."""
    output = folder / f"{keras.backend.backend()}-{precision}"
    options = {"precision": precision, "rematerialize": True, "check": False, "parallel_calls": 1}
    data = splits(folder / "scenes")
    trainer.train(ALL_OPTIONS, data, output, model=folder / "start", processor=PROCESSOR, **options)
    with (output / "log.csv").open() as file:
        return [[float(row["loss"]), float(row["val_loss"])] for row in csv.DictReader(file)]


@pytest.mark.slow
def test_a_run_on_jax_has_the_losses_of_tensorflow_in_every_precision(tmp_path):
    """Averaged weights, accumulated and clipped gradients, and activations that are computed again, all at once."""
    write_dataset(tmp_path / "scenes", train=4, val=1)
    make_model(ALL_OPTIONS).save_pretrained(tmp_path / "start")
    float32, bfloat16 = json.loads(output_on("jax", RUNS.format(folder=str(tmp_path))).splitlines()[-1])
    np.testing.assert_allclose(float32, losses_of_run(tmp_path, "float32"), rtol=1e-4)
    np.testing.assert_allclose(bfloat16, float32, rtol=3e-2)
