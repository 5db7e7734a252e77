"""Images a second from JPEG files to class maps: SegmentationPredictor, its parts, the command line, Hugging Face.

    python -m benchmarks.end_to_end                               # B0 at 512x512, 150 classes, 16 images
    python -m benchmarks.end_to_end --size 256 --runs 2 --peers ours parts

Every engine runs in a process of its own over the same folder of generated images; all are asked in turns, after
their logits of all images have been compared. "one part after the other" decodes, resizes, runs the network and
makes the class map of each image in turn: as far as the predictor is faster than that, it overlaps them.
"""

from __future__ import annotations

import contextlib
import statistics
from typing import Any

from benchmarks.harness import report
from benchmarks.harness.artifacts import IMAGES
from benchmarks.harness.case import Case
from benchmarks.harness.end_to_end_peers import PEERS
from benchmarks.harness.options import add_square_case, measure_square_cases, parser_of
from benchmarks.harness.pool import Bench, Worker
from benchmarks.harness.timing import interleave, ratio, summarize

TITLES = {key: peer.title for key, peer in PEERS.items()}


def main() -> None:
    parser = parser_of(__doc__, list(PEERS), runs=10)
    add_square_case(parser, ["b0"])
    measure_square_cases(parser.parse_args(), "benchmarks.harness.end_to_end_peers", PEERS, measure)


def measure(bench: Bench, keys: list[str], case: Case, rounds: int) -> str:
    """The tables of one case, with a heading and the machine."""
    compared = [key for key in keys if key != "command"]  # it writes class maps, no logits
    parts: list[dict[str, float]] = []
    with contextlib.ExitStack() as stack:
        team = stack.enter_context(bench.start_agreeing(compared, case))
        workers = dict(team.workers)
        if "command" in keys:
            workers["command"] = stack.enter_context(contextlib.closing(bench.start("command", case)))
        runs: dict[str, Any] = {key: worker.run for key, worker in workers.items()}
        if "parts" in runs:
            runs["parts"] = lambda: _run_parts(workers["parts"], parts)
        seconds = interleave(runs, rounds, warmup=1)
    subject = next(iter(seconds))
    rows = []
    for key, taken in seconds.items():
        summary = summarize(taken)
        milliseconds = [f"{1000 * each / IMAGES:.1f}" for each in (summary.median, summary.minimum, summary.spread)]
        rate = f"{IMAGES / summary.median:.1f}"
        rows.append([TITLES[key], rate, *milliseconds, f"{ratio(seconds[subject], taken):.2f}"])
    header = ["engine", "images/s", "median ms an image", "min", "spread", f"{TITLES[subject]} / peer"]
    return "\n".join(
        [
            f"\n### End to end: {case.describe()}\n",
            report.table(header, rows),
            report.skipped_lines(team.skipped, TITLES),
            _parts_table(parts[-rounds:]),
            f"\n{IMAGES} JPEG files, {rounds} rounds in turns; spread is between the quartiles. "
            f"{report.machine(team.versions, bench.hide)}\n",
        ]
    )


def _run_parts(worker: Worker, parts: list[dict[str, float]]) -> float:
    """A run of the worker that tells its parts: they are kept."""
    seconds = worker.run()
    parts.append(worker.last["result"])
    return seconds


def _parts_table(parts: list[dict[str, float]]) -> str:
    """Milliseconds an image of each part, and its share; empty where it was not measured."""
    if not parts:
        return ""
    medians = {name: statistics.median(each[name] for each in parts) for name in parts[0]}
    rows = [
        [name, f"{1000 * median / IMAGES:.1f}", f"{100 * median / sum(medians.values()):.0f}"]
        for name, median in medians.items()
    ]
    return "\n" + report.table(["part", "median ms an image", "%"], rows)


if __name__ == "__main__":
    main()
