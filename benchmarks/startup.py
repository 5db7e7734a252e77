"""From a fresh Python to the first logits of weights on disk: this project and Hugging Face PyTorch.

    python -m benchmarks.startup                                     # B0 and B5 at 512x512
    python -m benchmarks.startup --variants b0 --size 256 --runs 3

Every figure is the median over fresh processes, started in turns after one round that fills the file cache. "framework"
is `import tensorflow` or `import torch`; "package" what `import tf_segformer` or `import transformers` adds to it;
"model class" the import of what `from_pretrained` needs. The start of Python itself is not counted.
"""

from __future__ import annotations

import statistics
import sys

from benchmarks.harness import report
from benchmarks.harness.alone import Alone, measure_alone
from benchmarks.harness.case import Case
from benchmarks.harness.inference_peers import PEERS
from benchmarks.harness.options import add_square_case, measure_square_cases, parser_of
from benchmarks.harness.pool import Bench, GivenUp, Skipped

STARTED = ["ours", "ours-eager", "torch"]
TITLES = {key: PEERS[key].title for key in STARTED}


def main() -> None:
    parser = parser_of(__doc__, STARTED, runs=5)
    add_square_case(parser, ["b0", "b5"])
    measure_square_cases(parser.parse_args(), "benchmarks.harness.inference_peers", PEERS, measure)


def measure(bench: Bench, keys: list[str], case: Case, rounds: int) -> str:
    """The table of one case, with a heading and the machine."""
    results: dict[str, list[Alone]] = {}
    skipped: dict[str, str] = {}
    for turn in range(rounds + 1):
        for key in keys:
            if key in skipped:
                continue
            print(f"  round {turn}: {TITLES[key]}", file=sys.stderr, flush=True)
            try:
                result = measure_alone(bench, key, case, later_runs=0)
            except (Skipped, GivenUp) as reason:
                skipped[key] = str(reason)
                continue
            if turn:  # the first fills the file cache
                results.setdefault(key, []).append(result)
    rows = []
    for key, measured in results.items():
        medians = [statistics.median(times) for times in zip(*map(_phases, measured), strict=True)]
        rows.append([TITLES[key], *(f"{each:.2f}" for each in medians)])
    header = ["engine", "framework, s", "package", "model class", "from_pretrained", "first logits", "disk to logits"]
    return "\n".join(
        [
            f"\n### Start-up: {case.describe()}\n",
            report.table([*header, "all"], rows),
            report.skipped_lines(skipped, TITLES),
            f"\nMedians of {rounds} fresh processes. "
            f"{report.machine([each[0].versions for each in results.values()], bench.hide)}\n",
        ]
    )


def _phases(result: Alone) -> list[float]:
    """Seconds of each column, in order."""
    framework, package, *others = result.import_seconds.values()
    answer = result.load_seconds + result.first_seconds
    return [
        framework,
        package,
        sum(others),
        result.load_seconds,
        result.first_seconds,
        answer,
        framework + package + sum(others) + answer,
    ]


if __name__ == "__main__":
    main()
