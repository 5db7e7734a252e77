"""Peak memory of a whole process that loads a network and runs it, this project and its peers, and the time it takes.

    python -m benchmarks.memory --tf-port-python PATH                    # B0 and B5 at 1024x2048, 19 classes
    python -m benchmarks.memory --variants b0 --size 512 1024 --peers ours torch

Each engine gets a fresh process of its own, one after the other; the peak is the largest resident memory of all of it:
Python, the engine's libraries ("imports"), the weights ("loaded"), and what inference needs. A file that an engine
loads, such as an ONNX export, is made before, elsewhere. The logits are compared at the end.
"""

from __future__ import annotations

import argparse
import sys
import tempfile

from benchmarks.harness import report
from benchmarks.harness.agreement import check_agreement
from benchmarks.harness.alone import Alone, measure_alone
from benchmarks.harness.case import Case
from benchmarks.harness.inference_peers import INFERENCE, PEERS
from benchmarks.harness.options import bench_of, parser_of
from benchmarks.harness.pool import REFERENCES, Bench, GivenUp, Skipped

TITLES = {key: peer.title for key, peer in PEERS.items()}


def main() -> None:
    arguments = _parse_arguments()
    bench = bench_of(arguments, "benchmarks.harness.inference_peers", PEERS)
    with tempfile.TemporaryDirectory() as folder:
        for variant in arguments.variants:
            height, width = arguments.size
            case = Case(folder, variant, height, width, arguments.classes, threads=arguments.threads)
            report.write(measure(bench, arguments.peers, case, arguments.runs), arguments.output)


def measure(bench: Bench, keys: list[str], case: Case, later_runs: int) -> str:
    """The table of one case, with a heading and the machine."""
    results: dict[str, Alone] = {}
    skipped: dict[str, str] = {}
    for key in keys:
        print(f"  {TITLES[key]}", file=sys.stderr, flush=True)
        try:
            results[key] = measure_alone(bench, key, case, later_runs, with_logits=True)
        except (Skipped, GivenUp) as reason:
            skipped[key] = str(reason)
    if not results:
        raise SystemExit(f"none of the peers can run: {skipped}")
    reference = next((key for key in REFERENCES if key in results), next(iter(results)))
    check_agreement({key: result.logits for key, result in results.items() if result.logits is not None}, reference)
    subject = next(iter(results))
    rows = []
    for key, result in results.items():
        peaks = [f"{each / 1e9:.2f}" for each in (result.import_peak, result.load_peak, result.peak)]
        ratio = f"{results[subject].peak / result.peak:.2f}"
        rows.append([TITLES[key], *peaks, ratio, f"{result.first_seconds:.2f}", f"{result.later_seconds:.2f}"])
    header = ["engine", "imports, GB", "loaded", "peak", f"peak {TITLES[subject]} / peer", "first, s", "median later"]
    return "\n".join(
        [
            f"\n### Memory: {case.describe()}\n",
            report.table(header, rows),
            report.skipped_lines(skipped, TITLES),
            f"\nLargest resident memory of a fresh process; {later_runs} inferences after the first. "
            f"{report.machine([result.versions for result in results.values()], bench.hide)}\n",
        ]
    )


def _parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, INFERENCE, runs=3)
    parser.add_argument("--variants", nargs="+", default=["b0", "b5"])
    parser.add_argument("--size", nargs=2, type=int, default=[1024, 2048], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--classes", type=int, default=19)
    return parser.parse_args()


if __name__ == "__main__":
    main()
