"""Times in turns, for `tf-segformer benchmark` and the benchmarks of this repository; it imports no framework."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

# Thread pools spin after a call, in case another comes, and take cores from what is timed next: onnxruntime's for about
# 50 ms (measured: processor time after the answer), the others' for less than 10. A pause before each timed call lets
# them fall asleep.
PAUSE = 0.1


def time_in_turns(
    runs: Mapping[str, Callable[[], float]], rounds: int, warmup: int = 2, pause: float = PAUSE, calls: int = 1
) -> dict[str, list[float]]:
    """Runs all in turns, A B C A B C, so that what disturbs the machine disturbs all alike.

    Args:
        runs: What to time, by name; each does its work once and returns its own seconds, so that pipes do not count.
        rounds: Turns that count.
        warmup: Turns before them.
        pause: Seconds of rest before each turn of one.
        calls: How often a turn runs it without rest; the last counts. The first after others ran finds their data in
            the caches and its own threads asleep.

    Returns:
        Seconds of each round by name, in order: the i-th of all were taken one after the other.

    Example:
        >>> time_in_turns({"a": lambda: 2.0, "b": lambda: 3.0}, rounds=2, pause=0)
        {'a': [2.0, 2.0], 'b': [3.0, 3.0]}
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(warmup + rounds):
        for name, run in runs.items():
            time.sleep(pause)
            for _ in range(calls):
                taken = run()
            if turn >= warmup:
                seconds[name].append(taken)
    return seconds
