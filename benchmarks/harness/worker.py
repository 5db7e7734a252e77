"""A process of its own for one engine: the parent's side of it, and what runs within.

    python -m benchmarks.harness.worker        (started by `Worker`)

Requests and answers are lines of JSON; the first names the module, the peer and the case. Engines live apart because
a peak of memory belongs to a process, and so that no allocator or thread pool serves two of them.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.case import Case, Engine, File, Peer, Skipped
from benchmarks.harness.memory import peak_bytes, resident_bytes

_ROOT = Path(__file__).parents[2]
_WATCH_INTERVAL = 0.2  # seconds between looks at the clock and the memory of a worker that computes
_BACKENDS = ("tensorflow", "jax", "torch")  # of Keras: the first that is installed runs what names no other
_OUT_OF_MEMORY = ("CUDA out of memory", "RESOURCE_EXHAUSTED")  # as torch and XLA say it
# Distributions whose versions a table names, by the module that a peer imports.
_DISTRIBUTIONS = {"ai_edge_litert": "ai-edge-litert", "keras_hub": "keras-hub", "PIL": "pillow"}


class GivenUp(Exception):
    """A worker that took too long or too much memory, and was ended."""


@dataclass(frozen=True)
class Limits:
    """What an answer may take: seconds, and resident gigabytes of the process."""

    seconds: float = 1800
    gigabytes: float = float("inf")


class Worker:
    """One engine in a process of its own.

    Args:
        order: What the process loads: "module" and "peer", or "module" and "make" for a file.
        case: The network and its size.
        limits: What any answer may take.
        hide: Modules that it must not find.

    Raises:
        Skipped: The engine is not installed.
        GivenUp: It did not load within the limits, or the memory of a GPU.
        RuntimeError: It failed; with the end of what it printed.
    """

    def __init__(
        self,
        order: dict[str, str],
        case: Case,
        limits: Limits | None = None,
        hide: Sequence[str] = (),
    ) -> None:
        self.order, self.limits = order, limits or Limits()
        self._printed = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed in `close`)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.harness.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._printed,
            cwd=_ROOT,
            env=_environment(case.threads),
            text=True,
        )
        assert self._process.stdin and self._process.stdout
        self._requests, self._answers = self._process.stdin, self._process.stdout
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._answers, selectors.EVENT_READ)
        self.facts = self.ask(**order, case=asdict(case), hide=list(hide))
        if "skipped" in self.facts:
            self.close()
            raise Skipped(self.facts["skipped"])

    def ask(self, **request: Any) -> dict[str, Any]:
        """Sends one request and waits for its answer."""
        with contextlib.suppress(BrokenPipeError):  # the process has died: reading its answer raises
            self._requests.write(json.dumps(request) + "\n")
            self._requests.flush()
        deadline = time.monotonic() + self.limits.seconds
        while not self._selector.select(_WATCH_INTERVAL):
            if time.monotonic() > deadline:
                self.close()
                raise GivenUp(f"no answer within {self.limits.seconds:g} s")
            if resident_bytes(self._process.pid) > self.limits.gigabytes * 1e9:
                self.close()
                raise GivenUp(f"took more than {self.limits.gigabytes:g} GB")
        answer = self._answers.readline()
        if not answer:
            self._printed.seek(0)
            printed = self._printed.read()[-3000:]
            self.close()
            if any(sign in printed for sign in _OUT_OF_MEMORY):
                raise GivenUp("the device's memory is too small")
            raise RuntimeError(f"{self.order} failed:\n{printed}")
        return json.loads(answer)

    def run(self) -> float:
        """Does the measured work once; its seconds, measured where it runs. The whole answer is in `last`."""
        self.last = self.ask(do="run")
        return self.last["seconds"]

    def output(self) -> np.ndarray:
        """What engines must agree in."""
        with tempfile.TemporaryDirectory() as folder:
            return np.load(self.ask(do="output", path=f"{folder}/output.npy")["path"])

    def close(self) -> None:
        """Ends the process and waits for it; once more does nothing."""
        self._process.kill()
        self._process.wait()
        self._selector.close()
        for stream in (self._requests, self._answers, self._printed):
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def make_file(file: File, case: Case) -> None:
    """Makes a file and what it needs, each in a process of its own, unless it exists."""
    for needed in file.needs:
        make_file(needed, case)
    if not file.path(case).exists():
        Path(case.folder).mkdir(parents=True, exist_ok=True)
        module = inspect.getmodule(file.make).__spec__.name  # not "__main__", which it is where a script makes it
        Worker({"module": module, "make": file.make.__name__}, case).close()


def _environment(threads: int) -> dict[str, str]:
    """The environment of a worker: the thread count where it must be set before the start, and silence."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "TF_NUM_INTRAOP_THREADS": str(threads),
        "TF_NUM_INTEROP_THREADS": str(threads),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",  # or it keeps processes of its own that disturb the others
        "KERAS_BACKEND": next(name for name in _BACKENDS if importlib.util.find_spec(name)),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # JAX and TensorFlow would take most of a GPU's memory each
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_OFFLINE": "1",
    }


def main() -> None:
    """The process: answers requests until its input ends."""
    # The pipe to the parent, which nothing that an engine prints can reach any more.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(content: dict[str, Any]) -> None:
        print(json.dumps(content), file=answers, flush=True)

    order = json.loads(sys.stdin.readline())
    sys.modules.update(dict.fromkeys(order["hide"]))  # an import of None fails as if it were not installed
    module, case = importlib.import_module(order["module"]), Case(**order["case"])
    try:
        if "make" in order:
            getattr(module, order["make"])(case)
            answer({})
            return
        engine, facts = _load(module.PEERS[order["peer"]], case)
    except ModuleNotFoundError as error:
        answer({"skipped": f"{error.name} is not installed"})
        return
    except Skipped as reason:
        answer({"skipped": str(reason)})
        return
    answer(facts)
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "run":
            answer(_run(engine))
        else:
            np.save(request["path"], engine.output())
            answer({"path": request["path"]})


def _load(peer: Peer, case: Case) -> tuple[Engine, dict[str, Any]]:
    """Imports and loads a peer; what that took."""
    imports = {}
    for module in peer.imports:
        start = time.perf_counter()
        importlib.import_module(module)
        imports[module] = time.perf_counter() - start
    import_peak = peak_bytes()
    start = time.perf_counter()
    engine = peer.load(case)
    return engine, {
        "import_seconds": imports,
        "import_peak": import_peak,
        "load_seconds": time.perf_counter() - start,
        "load_peak": peak_bytes(),
        "versions": _versions(peer.imports),
    }


def _run(engine: Engine) -> dict[str, Any]:
    start = time.perf_counter()
    result = engine.run()
    seconds = time.perf_counter() - start
    reported = result if isinstance(result, (float, dict)) else None  # a training step's loss, seconds by part
    return {"seconds": seconds, "result": reported, "peak": engine.peak()}


def _versions(modules: Iterable[str]) -> dict[str, str]:
    """Versions of the distributions that the modules belong to."""
    names = {_DISTRIBUTIONS.get(module, module.partition(".")[0]) for module in modules}
    return {name: importlib.metadata.version(name) for name in sorted(names - {"tf_segformer"})}


if __name__ == "__main__":
    main()
