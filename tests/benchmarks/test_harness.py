"""The harness of all benchmarks: agreement, turns, tables, and workers that skip, answer, fail and end."""

from __future__ import annotations

import contextlib
import json
import time

import numpy as np
import pytest

from benchmarks.harness import report
from benchmarks.harness.bench import Bench, Disagreement, check_agreement, measure_alone, ratio, timing_columns
from benchmarks.harness.case import Case, Engine, File, Peer, Skipped
from benchmarks.harness.worker import GivenUp, Limits
from tf_segformer.benchmarking.turns import time_in_turns

CASE = Case("unused", height=64, width=96, classes=5, batch=2)


def _stand_in(case: Case) -> Engine:
    return Engine(run=lambda: 2.5, output=case.pixel_values)


def _wrong(case: Case) -> Engine:
    return Engine(run=lambda: None, output=lambda: 1.01 * case.pixel_values())


def _failing(case: Case) -> Engine:
    raise ValueError(f"no engine for {case.variant}")


def _unfit(case: Case) -> Engine:
    raise Skipped("this processor does not compute in bf16")


def _too_large(case: Case) -> Engine:
    raise RuntimeError("CUDA out of memory. Tried to allocate 80 GiB")


def _on_a_device(case: Case) -> Engine:
    return Engine(run=lambda: None, output=case.images, peak=lambda: 7.0)


def _slow(case: Case) -> Engine:
    return Engine(run=lambda: time.sleep(60), output=lambda: np.empty(0))


def _filed(case: Case) -> Engine:
    length = len(case.export("file.txt").read_text())
    return Engine(run=lambda: float(length), output=case.pixel_values)


def _labels(case: Case) -> Engine:
    return Engine(run=lambda: None, output=case.labels)


def make_file_of_case(case: Case) -> None:
    case.export("file.txt").write_text("seven b")


# The table that the workers of these tests read.
PEERS = {
    "stand-in": Peer("a stand-in", ("numpy",), _stand_in),
    "wrong": Peer("a wrong one", ("numpy",), _wrong),
    "missing": Peer("a missing one", ("nowhere_to_be_found",), _stand_in),
    "failing": Peer("a failing one", (), _failing),
    "unfit": Peer("an unfit one", (), _unfit),
    "too large": Peer("one too large", (), _too_large),
    "on a device": Peer("one with memory of its own", (), _on_a_device),
    "slow": Peer("a slow one", (), _slow),
    "wave": Peer("one that needs a module of Python's own", ("wave",), _stand_in),
    "square": Peer("a square one", (), _stand_in, square_only=True),
    "filed": Peer("one with a file", (), _filed, (File(lambda case: case.export("file.txt"), make_file_of_case),)),
    "uncompared": Peer("one without logits", (), _wrong, tolerance=None),
    "labels": Peer("labels", (), _labels),
}


@pytest.fixture
def bench() -> Bench:
    return Bench("tests.benchmarks.test_harness", PEERS, limits=Limits(seconds=60))


def test_a_worker_answers_with_seconds_peak_and_output(bench):
    with contextlib.closing(bench.start("stand-in", CASE)) as worker:
        assert 0 <= worker.run() < 1
        assert worker.last["result"] == 2.5
        assert worker.last["peak"] > 10e6, "a Python with NumPy takes more than ten megabytes"
        assert worker.facts["versions"] == {"numpy": np.__version__}
        np.testing.assert_array_equal(worker.output(), CASE.pixel_values())


def test_what_cannot_run_is_skipped_with_its_reason(bench):
    with bench.start_agreeing(["missing", "stand-in", "square", "unfit"], CASE) as team:
        assert list(team.workers) == ["stand-in"]
        worker = team.workers["stand-in"]
    assert worker._process.poll() is not None, "the process outlives its table"
    assert team.skipped == {
        "a missing one": "nowhere_to_be_found is not installed",
        "a square one": "it takes square images only",
        "an unfit one": "this processor does not compute in bf16",
    }


def test_a_wrong_peer_among_workers_stops_before_anything_is_timed(bench):
    with (
        pytest.raises(Disagreement, match=r"wrong: its output differs from that of stand-in"),
        bench.start_agreeing(["stand-in", "wrong"], CASE),
    ):
        pytest.fail("a table of different networks")


def test_a_missing_peer_leaves_no_process(bench):
    with pytest.raises(Skipped):
        bench.start("missing", CASE)


def test_an_engine_that_fails_stops_the_benchmark_with_what_it_said(bench):
    with pytest.raises(RuntimeError, match="no engine for b0"):
        bench.start("failing", CASE)


@pytest.mark.parametrize("limits", [Limits(seconds=0.2), Limits(gigabytes=0.001)])
def test_a_peer_that_takes_too_much_is_given_up(bench, limits):
    worker = bench.start("slow", CASE)
    worker.limits = limits
    with pytest.raises(GivenUp):
        worker.run()
    assert worker._process.poll() is not None


def test_a_peer_that_a_device_cannot_hold_is_given_up(bench):
    with pytest.raises(GivenUp, match="memory is too small"):
        bench.start("too large", CASE)


def test_the_peak_is_that_of_the_device_where_the_engine_says_so(bench):
    alone = measure_alone(bench, "on a device", CASE, later_runs=0, with_output=True)
    assert alone.peak == 7.0
    assert alone.output.dtype == np.uint8 and len(np.unique(alone.output)) > 200


def test_hidden_modules_are_not_found():
    with pytest.raises(Skipped, match="wave is not installed"):
        Bench("tests.benchmarks.test_harness", PEERS, hide=["wave"]).start("wave", CASE)


def _logits() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(1, 4, 6, 3)).astype("float32")


def test_equal_engines_agree_and_say_by_how_much():
    one = _logits()
    other = one + 1e-5 * np.abs(one).max()
    differences = check_agreement({"one": one, "other": other}, reference="one")
    assert differences["one"] == 0
    assert differences["other"] == pytest.approx(1e-5, rel=0.1)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda logits: logits + 0.01 * np.abs(logits).max(), "something else"),
        (lambda logits: logits[..., ::-1], "something else"),
        (lambda logits: np.where(logits == logits.max(), np.nan, logits), "something else"),
        (lambda logits: logits[:, :2], "shape"),
        (lambda logits: logits.transpose(0, 3, 1, 2), "shape"),
    ],
)
def test_a_wrong_peer_stops_the_comparison(spoil, message):
    with pytest.raises(Disagreement, match=f"wrong.*{message}"):
        check_agreement({"right": _logits(), "wrong": spoil(_logits())}, reference="right")


def test_a_reference_of_one_class_is_rejected():
    with pytest.raises(Disagreement, match="one class or value"):
        check_agreement({"one": np.zeros((1, 4, 6, 3), "float32")}, reference="one")


def test_turns_are_taken_one_after_the_other():
    calls: list[str] = []

    def run(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    seconds = time_in_turns({name: lambda name=name: run(name) for name in "abc"}, rounds=2, warmup=1, pause=0)
    assert "".join(calls) == "abcabcabc"
    assert seconds == {"a": [4, 7], "b": [5, 8], "c": [6, 9]}
    calls.clear()
    seconds = time_in_turns({name: lambda name=name: run(name) for name in "ab"}, 2, warmup=0, pause=0, calls=3)
    assert "".join(calls) == "aaabbbaaabbb"
    assert seconds == {"a": [3, 9], "b": [6, 12]}, "the last call of a turn counts"


def test_statistics():
    columns = timing_columns({"a": [4.0, 1.0, 2.0, 3.0, 5.0], "b": [4.0]}, "a", "a", "A")
    assert columns == {"median ms": 3000.0, "min": 1000.0, "spread": 2000.0, "A / peer": 1.0}
    assert timing_columns({"b": [4.0]}, "b", "b", "B")["spread"] == 0
    assert ratio([1.0, 10.0, 3.0], [2.0, 20.0, 4.0]) == 0.5, "the ratio of a round, not of the medians"


def test_a_table_is_markdown_that_reads_as_text():
    text = report.table(["engine", "ms"], [["this project", 41], ["a peer", "105.5"]])
    assert text.splitlines() == [
        "| engine       |    ms |",
        "| :----------- | ----: |",
        "| this project |    41 |",
        "| a peer       | 105.5 |",
    ]


def test_the_machine_is_described_without_its_name():
    import socket

    described = report.machine([{"numpy": "2.0", "torch": "2.1"}, {"numpy": "1.9"}], ["jax"])
    assert "numpy 1.9 and 2.0, torch 2.1. Hidden from all: jax." in described
    assert "cores" in described and "GiB" in described
    assert socket.gethostname() not in described.split()


def test_the_last_line_is_json_and_the_file_gets_the_tables(tmp_path, capsys):
    rows = [{"engine": "a", "ms": 12345.678901, "peak": float("nan")}, {"engine": "b", "ms": 2.0}]
    table = report.Table("Times", rows, "Two rounds.", {"a missing one": "not installed"})
    report.publish("example", [table, table], str(tmp_path / "results.md"))
    printed = capsys.readouterr().out
    result = json.loads(printed.splitlines()[-1])
    assert result["benchmark"] == "example" and len(result["results"]) == 2
    assert result["results"][0]["rows"] == [{"engine": "a", "ms": 12345.7, "peak": None}, {"engine": "b", "ms": 2.0}]
    written = (tmp_path / "results.md").read_text()
    assert written.count("### Times") == 2
    assert "- skipped: a missing one: not installed" in written
    assert "NaN" not in printed and "nan" not in written


def test_a_file_is_made_once_before_its_engine_loads(bench, tmp_path):
    case = Case(str(tmp_path))
    with contextlib.closing(bench.start("filed", case)) as worker:
        worker.run()
        assert worker.last["result"] == 7.0
    case.export("file.txt").write_text("kept")
    with contextlib.closing(bench.start("filed", case)) as worker:
        worker.run()
        assert worker.last["result"] == 4.0


def test_a_peer_without_a_tolerance_is_not_compared(bench):
    with bench.start_agreeing(["stand-in", "uncompared"], CASE) as team:
        assert list(team.workers) == ["stand-in", "uncompared"]
        assert list(team.differences) == ["stand-in"]


def test_a_fresh_process_reports_its_start_and_its_peaks(bench):
    alone = measure_alone(bench, "stand-in", CASE, later_runs=2, with_output=True)
    assert list(alone.facts["import_seconds"]) == ["numpy"]
    assert 10e6 < alone.facts["import_peak"] <= alone.facts["load_peak"] <= alone.peak
    np.testing.assert_array_equal(alone.output, CASE.pixel_values())


def test_inputs_are_the_same_in_every_process(bench):
    for key in ("stand-in", "labels"):
        one, other = (measure_alone(bench, key, CASE, 0, with_output=True).output for _ in range(2))
        np.testing.assert_array_equal(one, other)
        assert one.shape[:3] == (2, 64, 96)


def test_labels_have_every_class_and_the_size_of_the_image():
    assert set(np.unique(CASE.labels())) == set(range(5))
    assert Case("x", height=50, width=70).labels().shape == (1, 50, 70)
