"""The benchmark for GPUs: class maps that agree, and engines with a tolerance for every precision."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import gpu
from benchmarks.harness.bench import Disagreement
from benchmarks.harness.case import Case
from benchmarks.peers import on_gpu


def _class_maps(fraction: float) -> dict[str, np.ndarray]:
    """Two class maps of 100 x 100 pixels that differ in a fraction of them; the first is not the reference."""
    one = np.random.default_rng(0).integers(0, 5, (1, 100, 100))
    other = one.copy()
    other.ravel()[: round(fraction * one.size)] += 1
    return {"jax": other, "torch": one}


@pytest.mark.parametrize(("precision", "fraction"), [("float32", 0.005), ("tf32", 0.05), ("bfloat16", 0.3)])
def test_class_maps_are_compared_with_those_of_hugging_face(precision, fraction):
    fractions = gpu._fractions_of_other_pixels(_class_maps(fraction), Case("unused", precision=precision))
    assert fractions == {"jax": fraction, "torch": 0.0}


@pytest.mark.parametrize(("precision", "fraction"), [("float32", 0.02), ("tf32", 0.2), ("bfloat16", 0.6)])
def test_an_engine_with_other_class_maps_stops_the_benchmark(precision, fraction):
    with pytest.raises(Disagreement, match=r"jax: .*another class"):
        gpu._fractions_of_other_pixels(_class_maps(fraction), Case("unused", precision=precision))


def test_class_maps_of_one_class_are_no_reference():
    with pytest.raises(Disagreement, match="one class everywhere"):
        gpu._fractions_of_other_pixels({"torch": np.zeros((1, 4, 4), int)}, Case("unused"))


def test_every_precision_has_its_tolerances():
    assert set(gpu._TOLERANCES) == set(gpu._OTHER_PIXELS) == set(on_gpu.PRECISIONS)
