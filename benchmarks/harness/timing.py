"""Times taken in turns, A B C A B C, so that what disturbs the machine disturbs all alike, and their statistics."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

# Thread pools spin after a call, in case another comes, and take cores from the engine whose turn is next:
# onnxruntime's for about 50 ms (measured: processor time after the answer), the others' for less than 10. A pause
# before each timed call lets them fall asleep.
PAUSE = 0.1


def interleave(
    runs: Mapping[str, Callable[[], float]], rounds: int, warmup: int = 2, pause: float = PAUSE
) -> dict[str, list[float]]:
    """Runs all in turns.

    Args:
        runs: What to time, by name; each does its work and gives its own seconds, so that pipes do not count.
        rounds: Turns that count.
        warmup: Turns before them.
        pause: Seconds of rest before each call.

    Returns:
        Seconds of each round by name, in order: the i-th of all were taken one after the other.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(warmup + rounds):
        for name, run in runs.items():
            time.sleep(pause)
            taken = run()
            if turn >= warmup:
                seconds[name].append(taken)
    return seconds


@dataclass(frozen=True)
class Summary:
    """Median, minimum and spread (between the quartiles) of some measurements."""

    median: float
    minimum: float
    spread: float


def summarize(values: Sequence[float]) -> Summary:
    """Statistics of the rounds of one engine."""
    if len(values) < 2:
        return Summary(values[0], values[0], 0.0)
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return Summary(statistics.median(values), min(values), third - first)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """How much longer ours takes: the median of the ratios of rounds, in which both met the same disturbance."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))
