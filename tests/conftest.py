"""What all tests share: few threads and little memory for each process, fixed seeds, small models."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from pathlib import Path

import pytest  # keras and numpy later: the process that starts the workers needs neither

from benchmarks.harness.memory import resident_bytes

# One worker of pytest-xdist for each of two cores. These variables are read when a process starts TensorFlow or
# allocates for the first time, so they are set here, in the process that starts the workers.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MALLOC_ARENA_MAX", "2")
for variable in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
# XLA, of TensorFlow and of JAX, compiles these small networks in half the time.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false --xla_backend_optimization_level=0")


def pytest_xdist_auto_num_workers(config) -> int:
    """Two processes for folders and for the whole suite; none but this one where single files are asked for."""
    return 2 if all(Path(argument).is_dir() for argument in config.args) else 0


@pytest.fixture(autouse=True)
def fixed_seed():
    """Every test samples the same random numbers, whatever ran before it."""
    import keras

    keras.utils.set_random_seed(0)


GROWTH = 100e6  # bytes; to look for what is no longer used takes most of a second
kept = {"bytes": 0}  # what this process had after it gave memory back


@pytest.fixture(autouse=True)
def memory_is_given_back():
    """Models and graphs of earlier tests are freed whenever the process has grown; Linux alone says how large it is."""
    yield
    if resident_bytes(os.getpid()) < kept["bytes"] + GROWTH:
        return
    if keras := sys.modules.get("keras"):
        keras.backend.clear_session()
    if registry := sys.modules.get("tensorflow.python.framework.ops"):
        # TensorFlow keeps each function with a gradient of its own for ever, and the graph of a training step with it
        gradients = registry.gradient_registry._registry
        for name in [name for name in gradients if name.startswith("CustomGradient")]:
            del gradients[name]
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    kept["bytes"] = resident_bytes(os.getpid())


@pytest.fixture
def small_config():
    """An architecture that builds and runs in a moment: four stages, every kind of layer."""
    from tf_segformer import SegformerConfig

    return SegformerConfig(
        depths=(1, 2, 1, 1),
        hidden_sizes=(8, 16, 24, 32),
        num_attention_heads=(1, 2, 3, 4),
        decoder_hidden_size=24,
        num_labels=5,
    )


@pytest.fixture
def pixel_values():
    """Two normalized images, neither square nor divisible by 32: (2, 65, 97, 3) float32."""
    import numpy as np

    return np.random.default_rng(0).standard_normal((2, 65, 97, 3)).astype("float32")
