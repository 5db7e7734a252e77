"""Time of one inference of this project and its peers: same weights, images and threads, in turns.

    python -m benchmarks.inference --variants b0 b2 --sizes 512 1024 --classes 150 19 --tf-port-python PATH
    python -m benchmarks.inference --peers ours openvino --runs 50

Every engine runs in a process of its own; all are asked in turns. Before that their logits are compared. "/ peer" is
the time of this project over the peer's, the median of the rounds' ratios; "x floor" is the time over that of the
arithmetic of this project's form of the network at the speed of a large matrix product, measured in the same turns.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile

from benchmarks.harness import report
from benchmarks.harness.case import Case
from benchmarks.harness.inference_peers import INFERENCE, PEERS, matmul_flop
from benchmarks.harness.options import bench_of, parser_of
from benchmarks.harness.pool import Bench
from benchmarks.harness.timing import interleave, ratio, summarize

TITLES = {key: peer.title for key, peer in PEERS.items()}


def main() -> None:
    arguments = _parse_arguments()
    bench = bench_of(arguments, "benchmarks.harness.inference_peers", PEERS)
    with tempfile.TemporaryDirectory() as folder:
        for variant in arguments.variants:
            for size in arguments.sizes:
                for classes in arguments.classes:
                    case = Case(folder, variant, size, size, classes, arguments.batch, arguments.threads)
                    text = measure(bench, arguments.peers, case, arguments.runs)
                    report.write(text, arguments.output)


def measure(bench: Bench, keys: list[str], case: Case, rounds: int) -> str:
    """The table of one case, with a heading and the machine."""
    with bench.start_agreeing(keys, case) as team, contextlib.closing(bench.start("matmul", case)) as matmul:
        runs = {key: worker.run for key, worker in team.workers.items()}
        seconds = interleave({**runs, "matmul": matmul.run}, rounds)
    peak = matmul_flop() / min(seconds.pop("matmul"))
    floor = 2 * _macs(case) / peak
    rows = []
    for key, taken in seconds.items():
        summary = summarize(taken)
        cells = [f"{1000 * each:.1f}" for each in (summary.median, summary.minimum, summary.spread)]
        ratios = [f"{ratio(seconds[ours], taken):.2f}" for ours in _ours(seconds)]
        rows.append([TITLES[key], *cells, *ratios, f"{summary.median / floor:.1f}", f"{team.differences[key]:.0e}"])
    header = ["engine", "median ms", "min", "spread", *(f"{TITLES[ours]} / peer" for ours in _ours(seconds))]
    return "\n".join(
        [
            f"\n### Inference: {case.describe()}\n",
            report.table([*header, "x floor", "difference"], rows),
            report.skipped_lines(team.skipped, TITLES),
            f"\n{rounds} rounds in turns; spread is between the quartiles; difference is that of the logits from "
            f"{TITLES[team.reference]}'s, over the largest logit. Floor: {_macs(case) / 1e9:.1f} GMAC at "
            f"{peak / 1e9:.0f} GFLOP/s take {1000 * floor:.1f} ms. {report.machine(team.versions, bench.hide)}\n",
        ]
    )


def _ours(seconds: dict[str, list[float]]) -> list[str]:
    """The forms of this project that ratios are given of."""
    return [key for key in ("ours", "ours-fixed") if key in seconds]


def _macs(case: Case) -> int:
    """Multiply-accumulates of this project's form of the network."""
    from tf_segformer.configuration import SegformerConfig
    from tf_segformer.modeling.macs import segmentation_macs

    config = SegformerConfig.from_variant(case.variant, num_labels=case.classes)
    return case.batch * segmentation_macs(config, (case.height, case.width))


def _parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, INFERENCE, runs=20)
    parser.add_argument("--variants", nargs="+", default=["b0", "b2"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[512, 1024], help="sides of the square image")
    parser.add_argument("--classes", nargs="+", type=int, default=[150, 19])
    parser.add_argument("--batch", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
