"""The page on scale shows the tables that the script computes."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import scale

PAGE = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["model_table", "training_table", "inference_table", "bytes_table"])
def test_the_page_holds_the_table(name):
    assert getattr(scale, name)() in PAGE


def test_what_each_device_sends_is_that_of_a_ring():
    assert scale.ring_bytes("b0", 1) == 0
    assert scale.ring_bytes("b0", 2) == 4 * scale.parameters("b0")
    assert scale.ring_seconds("b0", 2, 1e9) == pytest.approx(4 * scale.parameters("b0") / 1e9 + 2 * 20e-6)
