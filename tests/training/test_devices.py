"""Two devices train like one, and batch norms see the batches of both."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tf_segformer import SegformerForSemanticSegmentation
from tf_segformer.errors import SegformerError
from tf_segformer.training.devices import device_scope, synchronize_batch_norm

REPOSITORY = Path(__file__).resolve().parents[2]


def test_one_device_needs_no_strategy_and_missing_ones_are_named():
    with device_scope(1) as count:
        assert count == 1
    with pytest.raises(SegformerError, match="devices=3"):
        device_scope(3)


@pytest.mark.parametrize("decode_head_type", ["segformer", "mmseg"])
def test_every_batch_norm_of_the_head_is_synchronized(small_config, decode_head_type):
    import keras

    model = SegformerForSemanticSegmentation(small_config.replace(decode_head_type=decode_head_type))
    synchronize_batch_norm(model)
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    assert norms
    assert all(layer.synchronized for layer in norms)


SCRIPT = """
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from tests.training import runs
from tf_segformer.ops import chunked_head
from tf_segformer.training.devices import synchronize_batch_norm
chunked_head.CHANNELS_AT_ONCE = 4  # four chunks, each with moments of both devices
one = runs.losses_of_fit(runs.make_model(runs.DETERMINISTIC))
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    model = runs.make_model(runs.DETERMINISTIC)
    synchronize_batch_norm(model)
two = runs.losses_of_fit(model)
print(one, two)
np.testing.assert_allclose(two, one, rtol=1e-5)
"""


@pytest.mark.slow
def test_two_devices_give_the_losses_of_one():
    """In a process of its own: the logical devices must exist before TensorFlow is used."""
    result = subprocess.run([sys.executable, "-c", SCRIPT], cwd=REPOSITORY, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr[-3000:]


RUN_SCRIPT = """
import sys, tensorflow as tf
from dataclasses import replace
from pathlib import Path
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from tests.training import runs
from tests.training.scenes import write_dataset
from tf_segformer.training import trainer
scenes = write_dataset(Path(sys.argv[1]) / "scenes", train=4, val=1)
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    model = runs.make_model()
_, best = runs.run(scenes, Path(sys.argv[1]) / "run", model=model)
print(best)
"""


@pytest.mark.slow
def test_a_run_with_phases_and_averages_works_on_two_devices(tmp_path):
    command = [sys.executable, "-c", RUN_SCRIPT, str(tmp_path)]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr[-3000:]
    assert (tmp_path / "run/last/model.safetensors").is_file()
