"""Comparison of engines: the same outputs first, then times taken in turns, then their statistics."""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.harness import report
from benchmarks.harness.case import TOLERANCE, Case, Peer, Skipped
from benchmarks.harness.worker import GivenUp, Limits, Worker, make_file

REFERENCES = ("torch", "onnxruntime", "openvino")  # the first that runs here gives the logits to compare with
# TensorFlow and transformers import these where they are installed, 0.2 GB and seconds of it, and no engine needs them.
HIDDEN = ("jax", "sklearn", "matplotlib")


class Disagreement(Exception):
    """An engine whose outputs are not those of the reference."""


@dataclass(frozen=True)
class Bench:
    """Where workers of one table come from.

    Args:
        module: Module of the table of peers.
        peers: That table.
        limits: What any answer of a worker may take.
        hide: Modules that no worker may find.
    """

    module: str
    peers: Mapping[str, Peer]
    limits: Limits = field(default_factory=Limits)
    hide: Sequence[str] = ()

    def start(self, key: str, case: Case) -> Worker:
        """A worker of the peer, once its files exist.

        Raises:
            Skipped: It cannot run here.
            GivenUp: It did not load within the limits.
        """
        peer = self.peers[key]
        if peer.square_only and case.height != case.width:
            raise Skipped("it takes square images only")
        for file in peer.files:
            make_file(file, case)
        return Worker({"module": self.module, "peer": key}, case, self.limits, self.hide)

    @contextlib.contextmanager
    def start_agreeing(self, keys: Sequence[str], case: Case) -> Iterator[Team]:
        """Workers of all peers that can run here, once their outputs have been compared; ended at the end.

        Each has done its work once, so that whatever it compiles on its first call is done.

        Raises:
            Disagreement: One computes something else.
        """
        workers: dict[str, Worker] = {}
        skipped: dict[str, str] = {}
        outputs: dict[str, np.ndarray] = {}
        try:
            for key in keys:
                print(f"  loading {self.peers[key].title}", file=sys.stderr, flush=True)
                try:
                    workers[key] = self.start(key, case)
                    if self.peers[key].tolerance is not None:
                        outputs[key] = workers[key].output()
                    workers[key].run()
                except (Skipped, GivenUp) as reason:
                    skipped[key] = str(reason)
            running = {key: worker for key, worker in workers.items() if key not in skipped}
            if not running:
                raise SystemExit(f"none of the peers can run: {skipped}")
            differences = self.compare({key: each for key, each in outputs.items() if key in running})
            yield Team(running, {self.peers[key].title: why for key, why in skipped.items()}, differences)
        finally:
            for worker in workers.values():
                worker.close()

    def compare(self, outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Compares the outputs of peers with those of the first of REFERENCES, or else the first of all."""
        if not outputs:
            return {}
        reference = next((key for key in REFERENCES if key in outputs), next(iter(outputs)))
        tolerances = {key: self.peers[key].tolerance or TOLERANCE for key in outputs}
        return check_agreement(outputs, reference, tolerances)


@dataclass(frozen=True)
class Team:
    """Workers that compute the same.

    Args:
        workers: Worker by key of its peer.
        skipped: Why others cannot run here, by title.
        differences: Largest difference of each one's output, as a fraction of the reference's largest value.
    """

    workers: dict[str, Worker]
    skipped: dict[str, str]
    differences: dict[str, float]

    @property
    def versions(self) -> list[dict[str, str]]:
        """Versions by name, of each worker."""
        return [worker.facts["versions"] for worker in self.workers.values()]


def check_agreement(
    outputs: Mapping[str, np.ndarray], reference: str, tolerances: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Compares the outputs of all engines with those of one.

    Args:
        outputs: Logits (B, h, w, K), or anything else of one shape, by name.
        reference: Name of the engine to compare with.
        tolerances: Largest difference by name, as a fraction of the reference's largest value; TOLERANCE if missing.

    Returns:
        The largest difference by name, as a fraction of the reference's largest value.

    Raises:
        Disagreement: A shape that differs, a difference that is too large or not a number, or a reference whose
            values are so alike that agreement would say nothing.
    """
    expected = outputs[reference]
    values = expected.argmax(-1) if expected.ndim == 4 else expected
    if np.unique(values).size < 2:
        raise Disagreement(f"{reference} gives one class or value everywhere: agreement with it says nothing")
    scale = np.abs(expected).max()
    differences = {}
    for name, output in outputs.items():
        if output.shape != expected.shape:
            raise Disagreement(f"{name}: output of shape {output.shape}, but {expected.shape} of {reference}")
        difference = float(np.abs(output - expected).max() / scale)
        tolerance = (tolerances or {}).get(name, TOLERANCE)
        if not difference <= tolerance:
            raise Disagreement(
                f"{name}: its output differs from that of {reference} by {difference:.1e} of the largest value "
                f"(at most {tolerance:.0e}): it computes something else"
            )
        differences[name] = difference
    return differences


@dataclass(frozen=True)
class Alone:
    """What a fresh process took: facts of its start (`worker._load`), seconds of its runs, its peak and output."""

    facts: dict[str, Any]
    first_seconds: float
    later_seconds: float  # the median
    peak: float
    output: np.ndarray | None


def measure_alone(bench: Bench, key: str, case: Case, later_runs: int = 3, with_output: bool = False) -> Alone:
    """Starts a process, runs the peer once and then a few times more, asks for its output last, and ends it.

    Raises:
        Skipped: The peer cannot run here.
        GivenUp: It took more than the bench's limits.
    """
    print(f"  {bench.peers[key].title}, {case.describe()}", file=sys.stderr, flush=True)
    with contextlib.closing(bench.start(key, case)) as worker:
        first = worker.run()
        later = [worker.run() for _ in range(later_runs)] or [first]
        peak = worker.last["peak"]
        return Alone(worker.facts, first, statistics.median(later), peak, worker.output() if with_output else None)


def timing_columns(seconds: Mapping[str, Sequence[float]], key: str, subject: str, title: str) -> dict[str, float]:
    """Columns of one engine: milliseconds, and how much longer the subject takes (the median ratio of the rounds)."""
    taken = seconds[key]
    first, _, third = statistics.quantiles(taken, n=4, method="inclusive") if len(taken) > 1 else (0.0, 0.0, 0.0)
    return {
        "median ms": 1000 * statistics.median(taken),
        "min": 1000 * min(taken),
        "spread": 1000 * (third - first),
        f"{title} / peer": ratio(seconds[subject], taken),
    }


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """How much longer ours takes: the median of the ratios of rounds, in which both met the same disturbance."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


def parser_of(description: str | None, peers: Sequence[str], runs: int) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks have: the module's docstring, default peers and rounds."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="+", default=list(peers), metavar="PEER", help=", ".join(peers))
    parser.add_argument("--runs", type=int, default=runs, help=f"rounds that count, {runs} by default")
    parser.add_argument("--threads", type=int, default=2, help="threads of every engine, 2 by default")
    parser.add_argument("--time-limit", type=float, default=1800, help="seconds after which a peer is given up")
    parser.add_argument("--memory-limit", type=float, default=float("inf"), help="gigabytes of one process, likewise")
    parser.add_argument("--hide", nargs="*", default=HIDDEN, help="modules that no engine may find")
    parser.add_argument("--output", metavar="PATH", help="file to add the tables to")
    return parser


def publish_cases(
    name: str,
    peers: Mapping[str, Peer],
    arguments: argparse.Namespace,
    settings: Sequence[tuple[str, int, int, int, int]],
    measure: Callable[[Bench, list[str], Case, int], list[report.Table]],
) -> None:
    """Measures one case after the other and publishes its tables.

    Args:
        name: The script, a module of `benchmarks`, whose `PEERS` are `peers`.
        peers: That table.
        arguments: With the options of `parser_of`.
        settings: Variant, height, width, classes and batch of each case.
        measure: Tables of a case, from where workers come from, the peers' keys, the case and the rounds.
    """
    bench = bench_of(arguments, f"benchmarks.{name}", peers)
    with tempfile.TemporaryDirectory() as folder:
        cases = [Case(folder, *each, threads=arguments.threads) for each in settings]
        tables = (table for case in cases for table in measure(bench, arguments.peers, case, arguments.runs))
        report.publish(name, tables, arguments.output)


def bench_of(arguments: argparse.Namespace, module: str, peers: Mapping[str, Peer]) -> Bench:
    """Where workers of a table of peers come from, as the options say."""
    if unknown := set(arguments.peers) - set(peers):
        raise SystemExit(f"unknown peers: {', '.join(sorted(unknown))}; known: {', '.join(peers)}")
    limits = Limits(arguments.time_limit, arguments.memory_limit)
    return Bench(module, peers, limits, arguments.hide)
