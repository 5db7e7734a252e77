"""One engine measured in a fresh process, from its imports to a few inferences: times and peaks of memory."""

from __future__ import annotations

import contextlib
import statistics
from dataclasses import dataclass

import numpy as np

from benchmarks.harness.case import Case
from benchmarks.harness.pool import Bench


@dataclass(frozen=True)
class Alone:
    """What a fresh process took; seconds, and bytes of its largest resident memory so far.

    Args:
        import_seconds: Of each module, in the order of their import.
        load_seconds: From the weights or an exported file on disk to an engine.
        first_seconds: First inference, with whatever is compiled on it.
        later_seconds: Median of the inferences after it.
        import_peak: After the imports.
        load_peak: After loading.
        peak: After all inferences.
        versions: Versions by name.
        logits: Output of the network (B, h, w, K), where asked for.
    """

    import_seconds: dict[str, float]
    load_seconds: float
    first_seconds: float
    later_seconds: float
    import_peak: int
    load_peak: int
    peak: int
    versions: dict[str, str]
    logits: np.ndarray | None


def measure_alone(bench: Bench, key: str, case: Case, later_runs: int = 3, with_logits: bool = False) -> Alone:
    """Starts a process, runs the network once and then a few times more, and ends it.

    Args:
        bench: Where workers come from.
        key: The peer.
        case: The network and its size.
        later_runs: Inferences after the first.
        with_logits: Whether to ask for the logits at the end, once the peak is known.

    Raises:
        Skipped: The peer cannot run here.
        GivenUp: It took more than the bench's limits.
    """
    with contextlib.closing(bench.start(key, case)) as worker:
        first = worker.run()
        later = [worker.run() for _ in range(later_runs)]
        peak = worker.last["peak"]
        logits = worker.output() if with_logits else None
        facts = worker.facts
    return Alone(
        import_seconds=facts["import_seconds"],
        load_seconds=facts["load_seconds"],
        first_seconds=first,
        later_seconds=statistics.median(later) if later else first,
        import_peak=facts["import_peak"],
        load_peak=facts["load_peak"],
        peak=peak,
        versions=facts["versions"],
        logits=logits,
    )
