"""Runs a program with another backend of Keras, which is chosen before the first import."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


def output_on(backend: str, program: str) -> str:
    """What a program prints that gets the backend's name as its argument; skips the test where there is no such."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    places = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    finished = subprocess.run(
        [sys.executable, "-c", program, backend],
        env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": places},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout
