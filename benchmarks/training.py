"""Time and peak memory of a training step of this project and its peers: same weights, batch and threads, in turns.

    python -m benchmarks.training --tf-port-python PATH              # B0 with batch 4 and B2 with batch 2 at 512x512
    python -m benchmarks.training --cases b0:4 --size 256 --runs 3

A step is forward, loss at the size of the labels, backward, AdamW, with dropout and drop path as configured. Every
engine runs in a process of its own, whose peak is told; all are asked for a step in turns. Before the first step the
logits are compared. Random dropout makes the losses of a step differ a little: they are told, not compared.
"""

from __future__ import annotations

import argparse
import tempfile

from benchmarks.harness import report
from benchmarks.harness.case import Case
from benchmarks.harness.options import bench_of, parser_of
from benchmarks.harness.pool import Bench
from benchmarks.harness.timing import interleave, ratio, summarize
from benchmarks.harness.training_peers import PEERS

TITLES = {key: peer.title for key, peer in PEERS.items()}


def main() -> None:
    arguments = _parse_arguments()
    bench = bench_of(arguments, "benchmarks.harness.training_peers", PEERS)
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.cases:
            variant, _, batch = name.partition(":")
            side, batch_size = arguments.size, int(batch or 1)
            case = Case(folder, variant, side, side, arguments.classes, batch_size, arguments.threads)
            report.write(measure(bench, arguments.peers, case, arguments.runs), arguments.output)


def measure(bench: Bench, keys: list[str], case: Case, rounds: int) -> str:
    """The table of one case, with a heading and the machine."""
    with bench.start_agreeing(keys, case) as team:
        losses = {key: worker.last["result"] for key, worker in team.workers.items()}
        seconds = interleave({key: worker.run for key, worker in team.workers.items()}, rounds, warmup=1)
        peaks = {key: worker.last["peak"] for key, worker in team.workers.items()}
        imports = {key: worker.facts["import_peak"] for key, worker in team.workers.items()}
    subject = next(iter(seconds))
    rows = []
    for key, taken in seconds.items():
        summary = summarize(taken)
        times = [f"{1000 * each:.0f}" for each in (summary.median, summary.minimum, summary.spread)]
        memory = [f"{each / 1e9:.2f}" for each in (peaks[key], imports[key])]
        ratios = [f"{ratio(seconds[subject], taken):.2f}", f"{peaks[subject] / peaks[key]:.2f}"]
        rows.append([TITLES[key], *times, ratios[0], *memory, ratios[1], f"{losses[key]:.3f}"])
    first = TITLES[subject]
    header = ["engine", "median ms", "min", "spread", f"{first} / peer", "peak GB", "of it imports"]
    return "\n".join(
        [
            f"\n### Training step: {case.describe()}\n",
            report.table([*header, f"peak {first} / peer", "first loss"], rows),
            report.skipped_lines(team.skipped, TITLES),
            f"\n{rounds} rounds in turns; spread is between the quartiles; peak of the whole process. "
            f"{report.machine(team.versions, bench.hide)}\n",
        ]
    )


def _parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, list(PEERS), runs=10)
    parser.add_argument("--cases", nargs="+", default=["b0:4", "b2:2"], metavar="VARIANT:BATCH")
    parser.add_argument("--size", type=int, default=512, help="side of the square image")
    parser.add_argument("--classes", type=int, default=150)
    return parser.parse_args()


if __name__ == "__main__":
    main()
