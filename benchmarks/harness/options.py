"""Options that all benchmarks share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


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
    parser.add_argument("--output", metavar="PATH", help="file to add the result to")
    return parser
