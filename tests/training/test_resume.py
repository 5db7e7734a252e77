"""A run that is killed at any time and resumed ends bit for bit with the weights of one that nobody interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.training.runs import TINY
from tests.training.scenes import NAMES, write_dataset

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
RECIPE_FILE = f"""
from tf_segformer.data.augmentation import Augmentation
from tf_segformer.training.recipes import Phase, Recipe
CROPS = Augmentation((32, 32))
RECIPE = Recipe("killed", "b0", "folder", (Phase(10, 2, CROPS), Phase(14, 2, Augmentation((48, 48)))),
    learning_rate=1e-3, warmup_steps=4, ema_momentum=0.9, clip_norm=1.0, accumulation_steps=2, validate_every=7,
    model={TINY!r})
"""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "scenes", train=6, val=2)


def start_command(folder, scenes, *options):
    (folder / "recipe.py").write_text(RECIPE_FILE)
    command = [sys.executable, "-m", "tf_segformer", "train", "--recipe", str(folder / "recipe.py"), "--data"]
    command += [str(scenes), "--output", str(folder / "run"), "--class-names", ",".join(NAMES), "--threads", "1"]
    return subprocess.Popen(
        [*command, *options], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(path, process):
    """Until the file is there and the process still runs."""
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@pytest.fixture(scope="module")
def uninterrupted(scenes, tmp_path_factory):
    """The folder of a run that nobody interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    process = start_command(folder, scenes)
    _, message = process.communicate(timeout=900)
    assert process.returncode == 0, message
    return folder / "run"


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM], ids=["kill -9", "SIGTERM"])
def test_killed_and_resumed_run_ends_bit_equal_to_an_uninterrupted_one(scenes, tmp_path, uninterrupted, kill):
    killed = start_command(tmp_path, scenes)
    wait_for(tmp_path / "run/state.npz", killed)
    os.kill(killed.pid, kill)
    _, message = killed.communicate(timeout=900)
    if kill == signal.SIGKILL:
        assert killed.returncode == -signal.SIGKILL
    else:
        assert killed.returncode == 2
        assert "continue with --resume" in message
    meta = json.loads(str(np.load(tmp_path / "run/state.npz")["__meta__"]))
    assert 0 < meta["step"] < 24, "the run was not interrupted"
    resumed = start_command(tmp_path, scenes, "--resume")
    _, message = resumed.communicate(timeout=900)
    assert resumed.returncode == 0, message
    one, other = np.load(uninterrupted / "state.npz"), np.load(tmp_path / "run/state.npz")
    assert set(one.files) == set(other.files)
    for name in set(one.files) - {"__meta__"}:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    weights = [(folder / "last/model.safetensors").read_bytes() for folder in (uninterrupted, tmp_path / "run")]
    assert weights[0] == weights[1]
    steps, resumed_steps = ([row["step"] for row in json.loads(str(each["__meta__"]))["rows"]] for each in (one, other))
    assert steps == resumed_steps == [7, 14, 21, 24]
