"""Options that all benchmarks share."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence

from benchmarks.harness import report
from benchmarks.harness.case import Case, Peer
from benchmarks.harness.pool import Bench, Limits

# TensorFlow and transformers import these where they are installed, 0.2 GB and seconds of it, and no engine needs them.
HIDDEN = ("jax", "sklearn", "matplotlib")


def parser_of(description: str, peers: Sequence[str], runs: int) -> argparse.ArgumentParser:
    """A parser with the shared options.

    Args:
        description: The module's docstring.
        peers: Keys of the peers, all measured by default.
        runs: Default number of rounds.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="+", choices=peers, default=list(peers), metavar="PEER", help=", ".join(peers))
    parser.add_argument("--runs", type=int, default=runs, help=f"rounds that count, {runs} by default")
    parser.add_argument("--threads", type=int, default=2, help="threads of every engine, 2 by default")
    parser.add_argument("--tf-port-python", metavar="PATH", help="interpreter that has transformers' TensorFlow port")
    parser.add_argument("--time-limit", type=float, default=1800, help="seconds after which a peer is given up")
    parser.add_argument("--memory-limit", type=float, default=float("inf"), help="gigabytes of one process, likewise")
    parser.add_argument("--hide", nargs="*", default=HIDDEN, help="modules that no engine may find")
    parser.add_argument("--output", metavar="PATH", help="file to add the result to")
    return parser


def bench_of(arguments: argparse.Namespace, module: str, peers: dict[str, Peer]) -> Bench:
    """Where workers of a table of peers come from, as the options say."""
    limits = Limits(arguments.time_limit, arguments.memory_limit)
    return Bench(module, peers, arguments.tf_port_python, limits, arguments.hide)


def add_square_case(parser: argparse.ArgumentParser, variants: Sequence[str]) -> None:
    """Adds the options of `measure_square_cases`.

    Args:
        parser: From `parser_of`.
        variants: Variants that are measured by default.
    """
    parser.add_argument("--variants", nargs="+", default=variants)
    parser.add_argument("--size", type=int, default=512, help="side of the square that the network sees")
    parser.add_argument("--classes", type=int, default=150)


def measure_square_cases(
    arguments: argparse.Namespace,
    module: str,
    peers: dict[str, Peer],
    measure: Callable[[Bench, list[str], Case, int], str],
) -> None:
    """Measures each variant at one size and writes the tables.

    Args:
        arguments: With the options of `add_square_case`.
        module: Module whose `PEERS` the workers load.
        peers: That table.
        measure: Takes where workers come from, the keys of the peers, the case and the rounds; returns the table.
    """
    bench = bench_of(arguments, module, peers)
    with tempfile.TemporaryDirectory() as folder:
        for variant in arguments.variants:
            case = Case(folder, variant, arguments.size, arguments.size, arguments.classes, threads=arguments.threads)
            report.write(measure(bench, arguments.peers, case, arguments.runs), arguments.output)
