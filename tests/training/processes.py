"""Starts the command line as several processes that train one small network together, and reads what they leave."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from tests.training.runs import TINY
from tests.training.scenes import NAMES

REPOSITORY = Path(__file__).resolve().parents[2]
TIMEOUT = 900
RECIPE_FILE = f"""
from tf_segformer.data.augmentation import Augmentation
from tf_segformer.training.recipes import Phase, Recipe
RECIPE = Recipe("together", "b0", "folder", (Phase(20, 6, Augmentation((32, 32))),), learning_rate=1e-4,
    warmup_steps=4, ema_momentum=0.9, clip_norm=1.0, validate_every=2, model={TINY!r})
"""


def environment(folder: Path, devices: int) -> dict[str, str]:
    """Variables of a process on one thread, with so many devices; what XLA compiled is kept for the next."""
    places = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "SLURM_", "KERAS_"))},
        "PYTHONPATH": places,
        "PYTHONUNBUFFERED": "1",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def free_port() -> int:
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        return each.getsockname()[1]


def start(
    scenes: Path, output: Path, count: int, *options: str, devices=1, address: str = "127.0.0.1", prefixes=()
) -> list:
    """The processes of one run; `prefixes` are commands that each of them is started by."""
    recipe = scenes.parent / "recipe.py"
    recipe.write_text(RECIPE_FILE)
    command = [sys.executable, "-m", "tf_segformer", "train", "--backend", "jax", "--recipe", str(recipe)]
    command += ["--data", str(scenes), "--output", str(output), "--class-names", ",".join(NAMES), "--threads", "1"]
    command += [*options]
    if count > 1:
        command += ["--coordinator", f"{address}:{free_port()}", "--num-processes", str(count), "--process-id"]
    variables, processes = environment(scenes.parent, devices), []
    for index in range(count):
        prefix = prefixes[index] if prefixes else []
        arguments = [*prefix, *command, *([str(index)] if count > 1 else [])]
        with (output.parent / f"{output.name}-{index}.log").open("w") as log:
            streams = {"stdout": log, "stderr": subprocess.STDOUT}
            processes.append(subprocess.Popen(arguments, cwd=REPOSITORY, env=variables, **streams))
    return processes


def text_of(output: Path, index: int) -> str:
    """What process number `index` of a run printed."""
    return (output.parent / f"{output.name}-{index}.log").read_text()


def finish(processes: list, output: Path) -> Path:
    """Waits for processes that are to succeed; the folder of the run."""
    try:
        for index, process in enumerate(processes):
            assert process.wait(timeout=TIMEOUT) == 0, text_of(output, index)[-3000:]
    finally:
        end(processes)
    return output


def end(processes: list) -> None:
    """Ends what still runs."""
    for process in processes:
        process.kill()
        process.wait()


def wait_for(path: Path, processes: list, output: Path) -> None:
    """Until a file is there; the processes must go on running."""
    deadline = time.monotonic() + TIMEOUT
    while not path.exists():
        assert time.monotonic() < deadline
        for index, process in enumerate(processes):
            assert process.poll() is None, text_of(output, index)[-3000:]
        time.sleep(0.02)


def state_of(output: Path) -> dict[str, np.ndarray]:
    """Every array of the training state."""
    with np.load(output / "state.npz") as state:
        return {name: state[name] for name in state.files}
