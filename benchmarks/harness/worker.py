"""A process of its own for one engine: loads it, then answers one request a line on a pipe.

    python -m benchmarks.harness.worker        (started by `pool.py`)

The first line names the task, the peer and the case. Engines live apart because some cannot share a process (Keras 2
and 3), because a peak of memory belongs to a process, and so that no allocator or thread pool serves two of them.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, TextIO

import numpy as np

from benchmarks.harness.case import Case, Engine, Peer

# Distributions whose versions a table names, by the module that a peer imports.
_DISTRIBUTIONS = {"ai_edge_litert": "ai-edge-litert", "keras_hub": "keras-hub", "PIL": "pillow", "tf_keras": "tf-keras"}


def main() -> None:
    answers = _private_stdout()
    order = json.loads(sys.stdin.readline())
    try:
        engine, facts = _start(order)
    except ModuleNotFoundError as error:
        _answer(answers, {"skipped": f"{error.name} is not installed"})
        return
    _answer(answers, {**facts, "versions": _versions(facts["import_seconds"])})
    requests: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        "run": lambda request: _run(engine),
        "output": lambda request: _output(engine, request["path"]),
    }
    for line in sys.stdin:
        request = json.loads(line)
        _answer(answers, requests[request["do"]](request))


def _start(order: dict[str, Any]) -> tuple[Engine, dict[str, Any]]:
    """Imports and loads what the order names; what that took."""
    sys.modules.update(dict.fromkeys(order["hide"]))  # an import of None fails as if it were not installed
    # The tables are imported by name: those of training and inference load nothing heavy by themselves.
    peer: Peer = importlib.import_module(order["module"]).PEERS[order["peer"]]
    imports = {}
    for module in peer.imports:
        start = time.perf_counter()
        importlib.import_module(module)
        imports[module] = time.perf_counter() - start
    imported_peak = peak_bytes()
    start = time.perf_counter()
    engine = peer.load(Case(**order["case"]))
    return engine, {
        "import_seconds": imports,
        "import_peak": imported_peak,
        "load_seconds": time.perf_counter() - start,
        "load_peak": peak_bytes(),
    }


def _run(engine: Engine) -> dict[str, Any]:
    start = time.perf_counter()
    result = engine.run()
    seconds = time.perf_counter() - start
    told = result if isinstance(result, (float, dict)) else None  # a training step's loss, the times of parts
    return {"seconds": seconds, "result": told, "peak": peak_bytes()}


def _output(engine: Engine, path: str) -> dict[str, Any]:
    np.save(path, engine.output())
    return {"path": path}


def peak_bytes() -> int:
    """Largest resident memory of this process so far.

    Read from the status of the process where there is one: `ru_maxrss` of a child starts at its parent's peak.
    """
    if os.path.exists("/proc/self/status"):
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts bytes


def _versions(modules: Iterable[str]) -> dict[str, str]:
    """Versions of the distributions that the modules belong to."""
    versions = {}
    for module in modules:
        name = _DISTRIBUTIONS.get(module, module.partition(".")[0])
        if name != "tf_segformer":
            versions[name] = importlib.metadata.version(name)
    return versions


def _private_stdout() -> TextIO:
    """The pipe to the parent, which nothing that an engine prints can reach any more."""
    private = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return private


def _answer(answers: TextIO, content: dict[str, Any]) -> None:
    print(json.dumps(content), file=answers, flush=True)


if __name__ == "__main__":
    main()
