"""A training state from elsewhere is checked before it is read."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tf_segformer.errors import CheckpointError
from tf_segformer.training import state


def npz(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    path = Path("state.npz")
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(f"{name}.npy", data)
    return path


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def claim(shape: tuple[int, ...]) -> bytes:
    """The header of an array that is not there."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return stream.getvalue()


class NoModel:
    """What `load_state` asks of a model, with one variable."""

    class Variable:
        path, shape, dtype = "layer/weight", (2, 3), "float32"

    variables = (Variable(),)
    optimizer = type("Optimizer", (), {"variables": ()})


@pytest.mark.parametrize(
    ("content", "compression", "message"),
    [
        ({"x": npy(np.array([{"a": 1}], object))}, zipfile.ZIP_STORED, "Python objects"),
        ({"model/0000/weight": claim((10**6, 10**6))}, zipfile.ZIP_STORED, "claims another size"),
        ({"x": npy(np.zeros(10**7, "uint8"))}, zipfile.ZIP_DEFLATED, "compressed"),
        ({"model/0000/weight": npy(np.zeros(3, "float32"))}, zipfile.ZIP_STORED, "another model"),
        ({"x": b"\x93NUMPY\x01\x00\xff\xff{"}, zipfile.ZIP_STORED, "not a readable"),
    ],
    ids=["pickled objects", "a claim of terabytes", "a bomb", "another shape", "half a header"],
)
def test_a_training_state_is_checked_before_it_is_read(trace, content, compression, message):
    content = {**content, "__meta__": npy(np.array("{}"))}
    with pytest.raises(CheckpointError, match=message):
        state.load_state(npz(content, compression), NoModel())
