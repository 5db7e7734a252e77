"""A training run on the JAX backend has the losses of one on TensorFlow, with everything that the trainer can."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import keras
import numpy as np
import pytest

from tests.other_backends import output_on
from tests.training.runs import CROPS, DETERMINISTIC, PROCESSOR, make_model, splits
from tests.training.scenes import write_dataset
from tf_segformer.training import trainer
from tf_segformer.training.recipes import Phase

ALL_OPTIONS = replace(
    DETERMINISTIC,
    phases=(Phase(4, 2, CROPS),),
    accumulation_steps=2,
    ema_momentum=0.5,
    clip_norm=1.0,
    validate_every=2,
)
RUNS = """
import json
from pathlib import Path
from tests.training.test_runs_on_jax import losses_of_run
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
