"""Peak memory and start-up of a fresh process that loads a network and runs it: this project and its peers.

    python -m benchmarks.memory                                          # B0 and B5 at 1024x2048, 19 classes
    python -m benchmarks.memory --variants b0 --size 512 1024 --peers ours torch
    python -m benchmarks.memory --size 512 512 --classes 150 --peers ours ours-eager torch --processes 5   # start-up
    python -m benchmarks.memory --growth --peers ours openvino torch     # sides and batches instead of one size

Each engine gets fresh processes of its own, in turns; figures are medians over them. The peak is the largest resident
memory of the whole process: Python, the engine's libraries ("imports"), the weights ("loaded"), and what inference
needs. A file that an engine loads, such as an ONNX export, is made before, in another process. The logits are compared
at the end. With more than one process the first is not counted: it fills the file cache.
"""

from __future__ import annotations

import argparse
import functools
import statistics

from benchmarks.harness import report
from benchmarks.harness.bench import Alone, Bench, measure_alone, parser_of, publish_cases
from benchmarks.harness.case import Case, Skipped
from benchmarks.harness.worker import GivenUp
from benchmarks.inference import COMPARED, PEERS

_GROWTH = [(side, side, 1) for side in (256, 512, 1024, 1536, 2048)] + [(512, 512, batch) for batch in (2, 4, 8)]


def main() -> None:
    arguments = _parse_arguments()
    sizes = _GROWTH if arguments.growth else [(*arguments.size, 1)]
    settings = [
        (variant, height, width, arguments.classes, batch)
        for variant in arguments.variants
        for height, width, batch in sizes
    ]
    publish_cases("memory", PEERS, arguments, settings, functools.partial(measure, processes=arguments.processes))


def measure(bench: Bench, keys: list[str], case: Case, later_runs: int, processes: int) -> list[report.Table]:
    """The table of one case."""
    results: dict[str, list[Alone]] = {key: [] for key in keys}
    skipped: dict[str, str] = {}
    for turn in range(processes + (processes > 1)):
        for key in [each for each in keys if each in results]:
            try:
                results[key].append(measure_alone(bench, key, case, later_runs, with_output=turn == 0))
            except (Skipped, GivenUp) as reason:
                skipped[PEERS[key].title] = str(reason)
                del results[key]
    if not results:
        raise SystemExit(f"none of the peers can run: {skipped}")
    bench.compare({key: each[0].output for key, each in results.items() if each[0].output is not None})
    columns = {key: [_columns(each) for each in measured[processes > 1 :]] for key, measured in results.items()}
    medians = {
        key: {name: statistics.median(row[name] for row in rows) for name in rows[0]} for key, rows in columns.items()
    }
    subject = next(iter(results))
    rows = []
    for key, values in medians.items():
        relative = {f"peak {PEERS[subject].title} / peer": medians[subject]["peak"] / values["peak"]}
        rows.append({"engine": PEERS[key].title, **values, **relative})
    versions = [each[0].facts["versions"] for each in results.values()]
    notes = (
        f"Largest resident memory and seconds, medians of {processes} processes; {later_runs} inferences after the "
        f"first. {report.machine(versions, bench.hide)}"
    )
    return [report.Table(f"Memory and start-up: {case.describe()}", rows, notes, skipped)]


def _columns(result: Alone) -> dict[str, float]:
    facts = result.facts
    return {
        "imports, GB": facts["import_peak"] / 1e9,
        "loaded": facts["load_peak"] / 1e9,
        "peak": result.peak / 1e9,
        "imports, s": sum(facts["import_seconds"].values()),
        "load": facts["load_seconds"],
        "first": result.first_seconds,
        "later": result.later_seconds,
    }


def _parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, COMPARED, runs=3)
    parser.add_argument("--processes", type=int, default=1, help="fresh processes of each engine")
    parser.add_argument("--variants", nargs="+", default=["b0", "b5"])
    parser.add_argument("--size", nargs=2, type=int, default=[1024, 2048], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--growth", action="store_true", help="squares of 256 to 2048, batches of 1 to 8 at 512")
    parser.add_argument("--classes", type=int, default=19)
    return parser.parse_args()


if __name__ == "__main__":
    main()
