"""The growth benchmark: which points a peer is asked for, the table, and the image."""

from __future__ import annotations

import pytest
from PIL import Image

from benchmarks import growth
from benchmarks.harness.alone import Alone
from benchmarks.harness.case import Case
from benchmarks.harness.pool import Bench, GivenUp, Skipped


@pytest.fixture
def result(monkeypatch):
    """Points of made-up peers: torch gives up at 1024x1024, openvino is not there."""

    def measure_alone(bench, key, case, later_runs):
        if key == "openvino":
            raise Skipped("openvino is not installed")
        pixels = case.batch * case.height * case.width
        if key == "torch" and pixels >= 1024**2:
            raise GivenUp("no answer within 1 s")
        return Alone({}, 1.0, 1.0, pixels / 1e6, 10**8, 2 * 10**8, 3 * 10**8, {"torch": "2"}, None)

    monkeypatch.setattr(growth, "measure_alone", measure_alone)
    places = [(512, 1), (1024, 1), (2048, 1), (512, 2), (512, 8)]
    cases = [Case("unused", height=side, width=side, batch=batch) for side, batch in places]
    return growth.measure(Bench("unused", growth.PEERS), ["ours", "openvino", "torch"], cases, later_runs=1)


def test_a_peer_that_gave_up_is_asked_only_for_less(result):
    asked = {(point["peer"], point["side"], point["batch"]) for point in result["points"]}
    assert {each for each in asked if each[0] == "torch"} == {("torch", 512, 1), ("torch", 512, 2)}
    assert len({each for each in asked if each[0] == "ours"}) == 5
    assert result["given_up"] == {
        "openvino": "openvino is not installed (at 512x512, batch 1)",
        "torch": "no answer within 1 s (at 1024x1024, batch 1)",
    }


def test_the_table_leaves_missing_points_empty(result):
    lines = growth.as_table(result).splitlines()
    row = next(line for line in lines if line.startswith("| 2048x2048"))
    assert [cell.strip() for cell in row.split("|")[2:-1]] == ["4.194 s, 0.30 GB", ""]
    assert any(line.startswith("- skipped: OpenVINO") for line in lines)


def test_the_image_is_drawn(result, tmp_path):
    growth.draw(result, tmp_path / "growth.png", side_of_batches=512)
    with Image.open(tmp_path / "growth.png") as image:
        assert image.width > 800
        assert len(image.convert("RGB").getcolors(10**6)) > 20
