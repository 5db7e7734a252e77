"""The golden networks of transformers 4.49, with their weights as Keras 2 wrote them."""

from __future__ import annotations

import math
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.transformers import cases
from tf_segformer import transformers

GOLDEN = Path(__file__).parent / "golden.npz"


@pytest.fixture(scope="session")
def golden():
    """case -> name -> array."""
    numbers: dict[str, dict[str, np.ndarray]] = {case: {} for case in cases.CASES}
    with np.load(GOLDEN) as stored:
        for name in stored:
            case, _, rest = name.partition("/")
            numbers[case][rest] = stored[name]
    return numbers


@pytest.fixture(scope="session")
def keras_2_file(golden, tmp_path_factory):
    """A function that writes the weights of a case as `save_weights("x.h5")` of Keras 2 does."""
    folder = tmp_path_factory.mktemp("keras_2")

    def write(case: str) -> Path:
        path = folder / f"{case}.h5"
        if not path.exists():
            start = 0
            with h5py.File(path, "w") as file:
                for line in str(golden[case]["names"]).splitlines():
                    name, _, sizes = line.partition(" ")
                    shape = tuple(map(int, sizes.split(",")))
                    end = start + math.prod(shape)
                    file[f"{name.split('/')[1]}/{name}"] = golden[case]["weights"][start:end].reshape(shape)
                    start = end
        return path

    return write


@pytest.fixture(scope="session")
def model_of(keras_2_file):
    """A function that makes the model of a case with the golden weights."""

    def make(case: str, **fields):
        kind = getattr(transformers, f"TFSegformer{cases.CASES[case][0]}")
        model = kind(transformers.SegformerConfig(**{**cases.fields(case), **fields}))
        model.load_weights(keras_2_file(case))
        return model

    return make
