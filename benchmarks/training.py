"""Time and peak memory of a training step of this project and its peers: same weights, batch and threads, in turns.

    python -m benchmarks.training                                    # B0 with batch 4 and B2 with batch 2 at 512x512
    python -m benchmarks.training --cases b0:4 --size 256 --runs 3

A step is forward, loss at the size of the labels, backward, AdamW, with dropout and drop path as configured. Every
engine runs in a process of its own, whose peak is reported; all are asked for a step in turns. Before the first step
the logits are compared. Losses of a step differ a little because dropout is random: they are reported, not compared.
"""

from __future__ import annotations

import argparse

from benchmarks.harness import report
from benchmarks.harness.bench import Bench, parser_of, publish_cases, timing_columns
from benchmarks.harness.case import Case, Peer
from benchmarks.peers import keras_hub, ours, transformers
from tf_segformer.benchmarking.turns import time_in_turns

_WEIGHTS = (ours.WEIGHTS,)
PEERS = {
    "ours": Peer("this project", ("tensorflow", "keras"), ours.training, _WEIGHTS),
    "keras-hub": Peer("keras-hub", keras_hub.IMPORTS, keras_hub.training, _WEIGHTS, square_only=True),
    "torch-compile": Peer(
        "HF PyTorch, torch.compile", transformers.IMPORTS, transformers.training(compile_model=True), _WEIGHTS
    ),
    "torch": Peer("HF PyTorch, eager", transformers.IMPORTS, transformers.training(compile_model=False), _WEIGHTS),
}


def main() -> None:
    arguments = _parse_arguments()
    named = [name.partition(":") for name in arguments.cases]
    side = arguments.size
    settings = [(variant, side, side, arguments.classes, int(batch or 1)) for variant, _, batch in named]
    publish_cases("training", PEERS, arguments, settings, measure)


def measure(bench: Bench, keys: list[str], case: Case, rounds: int) -> list[report.Table]:
    """The table of one case."""
    with bench.start_agreeing(keys, case) as team:
        workers = team.workers
        losses = {key: worker.last["result"] for key, worker in workers.items()}
        seconds = time_in_turns({key: worker.run for key, worker in workers.items()}, rounds, warmup=1)
    subject = next(iter(workers))
    title, peak = PEERS[subject].title, workers[subject].last["peak"]
    rows = [
        {
            "engine": PEERS[key].title,
            **timing_columns(seconds, key, subject, title),
            "peak GB": worker.last["peak"] / 1e9,
            "of it imports": worker.facts["import_peak"] / 1e9,
            f"peak {title} / peer": peak / worker.last["peak"],
            "first loss": losses[key],
        }
        for key, worker in workers.items()
    ]
    notes = (
        f"{rounds} rounds in turns; spread is between the quartiles; peak of the whole process. "
        f"{report.machine(team.versions, bench.hide)}"
    )
    return [report.Table(f"Training step: {case.describe()}", rows, notes, team.skipped)]


def _parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, list(PEERS), runs=10)
    parser.add_argument("--cases", nargs="+", default=["b0:4", "b2:2"], metavar="VARIANT:BATCH")
    parser.add_argument("--size", type=int, default=512, help="side of the square image")
    parser.add_argument("--classes", type=int, default=150)
    return parser.parse_args()


if __name__ == "__main__":
    main()
