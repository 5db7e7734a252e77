"""The parent's side of the workers: starts them, asks them, ends them."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.agreement import check_agreement
from benchmarks.harness.artifacts import PEERS as ARTIFACTS
from benchmarks.harness.case import Case, Peer

ROOT = Path(__file__).parents[2]
REFERENCES = ("torch", "onnxruntime", "openvino")  # the first that runs here says what the logits should be

_WATCH_INTERVAL = 0.2  # seconds between looks at the clock and the memory of a worker that computes


class Skipped(Exception):
    """A peer that cannot run here, and why."""


class GivenUp(Exception):
    """A worker that took too long or too much memory, and was ended."""


@dataclass(frozen=True)
class Limits:
    """What an answer may take.

    Args:
        seconds: Time of one answer.
        gigabytes: Resident memory of the process.
    """

    seconds: float = 1800
    gigabytes: float = float("inf")


class Worker:
    """One engine in a process of its own.

    Args:
        peer: Key of the peer.
        module: Module whose `PEERS` has that key.
        case: The network and its size.
        python: Interpreter to run it in.
        limits: What any answer may take.
        hide: Modules that it must not find.

    Raises:
        Skipped: The engine is not installed.
        GivenUp: It did not load within the limits.
        RuntimeError: It failed; with the end of what it printed.
    """

    def __init__(
        self,
        peer: str,
        module: str,
        case: Case,
        python: str = sys.executable,
        limits: Limits | None = None,
        hide: Sequence[str] = (),
    ) -> None:
        self.peer, self.limits = peer, limits or Limits()
        self._printed = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed in `close`)
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.harness.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._printed,
            cwd=ROOT,
            env=_environment(case.threads),
            text=True,
        )
        assert self._process.stdin and self._process.stdout
        self._requests, self._answers = self._process.stdin, self._process.stdout
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._answers, selectors.EVENT_READ)
        self.facts = self.ask(peer=peer, module=module, case=asdict(case), hide=list(hide))
        if "skipped" in self.facts:
            self.close()
            raise Skipped(self.facts["skipped"])

    def ask(self, **request: Any) -> dict[str, Any]:
        """Sends one request and waits for its answer."""
        with contextlib.suppress(BrokenPipeError):  # it has died: reading tells
            self._requests.write(json.dumps(request) + "\n")
            self._requests.flush()
        deadline = time.monotonic() + self.limits.seconds
        while not self._selector.select(_WATCH_INTERVAL):
            if time.monotonic() > deadline:
                self.close()
                raise GivenUp(f"no answer within {self.limits.seconds:g} s")
            if _resident_bytes(self._process.pid) > self.limits.gigabytes * 1e9:
                self.close()
                raise GivenUp(f"took more than {self.limits.gigabytes:g} GB")
        answer = self._answers.readline()
        if not answer:
            self._printed.seek(0)
            printed = self._printed.read()[-3000:]
            self.close()
            raise RuntimeError(f"{self.peer} failed:\n{printed}")
        return json.loads(answer)

    def run(self) -> float:
        """Does the measured work once; its seconds, measured where it runs."""
        self.last = self.ask(do="run")
        return self.last["seconds"]

    def output(self) -> np.ndarray:
        """The logits (B, h, w, K) of the case's images."""
        with tempfile.TemporaryDirectory() as folder:
            return np.load(self.ask(do="output", path=f"{folder}/output.npy")["path"])

    def close(self) -> None:
        """Ends the process and waits for it; once more does nothing."""
        self._process.kill()
        self._process.wait()
        self._selector.close()
        for file in (self._requests, self._answers, self._printed):
            with contextlib.suppress(BrokenPipeError):
                file.close()


@dataclass(frozen=True)
class Bench:
    """Where workers of one table come from.

    Args:
        module: Module of the table of peers.
        peers: That table.
        tf_port_python: Interpreter of the environment of transformers' TensorFlow port, where there is one.
        limits: What any answer of a worker may take.
        hide: Modules that no worker may find.
    """

    module: str
    peers: dict[str, Peer]
    tf_port_python: str | None = None
    limits: Limits = field(default_factory=Limits)
    hide: Sequence[str] = ()

    def start(self, key: str, case: Case) -> Worker:
        """A worker of the peer, once what it needs has been made from the weights.

        Raises:
            Skipped: It cannot run here.
            GivenUp: It did not load within the limits.
        """
        peer = self.peers[key]
        if peer.needs_tf_port and not self.tf_port_python:
            raise Skipped("its environment is not given (--tf-port-python)")
        if peer.square_only and case.height != case.width:
            raise Skipped("it takes square images only")
        for artifact in peer.artifacts:
            self._make(artifact, case)
        python = self.tf_port_python if peer.needs_tf_port else None
        return Worker(key, self.module, case, python or sys.executable, self.limits, self.hide)

    def _make(self, artifact: str, case: Case) -> None:
        """Makes a file from the weights, in a process of its own, unless it is there."""
        made = ARTIFACTS[artifact]
        for needed in made.artifacts:
            self._make(needed, case)
        done = case.weights if artifact == "weights" else case.export(artifact)
        if not done.exists():
            Worker(artifact, "benchmarks.harness.artifacts", case).close()

    @contextlib.contextmanager
    def start_agreeing(self, keys: Sequence[str], case: Case) -> Iterator[Team]:
        """Workers of all peers that can run here, once their logits have been compared; ended at the end.

        Each has done its work once, so that whatever it compiles on its first call is done.

        Raises:
            Disagreement: One computes something else.
        """
        workers: dict[str, Worker] = {}
        skipped: dict[str, str] = {}
        logits: dict[str, np.ndarray] = {}
        try:
            for key in keys:
                print(f"  loading {self.peers[key].title}", file=sys.stderr, flush=True)
                try:
                    workers[key] = worker = self.start(key, case)
                    logits[key] = worker.output()
                    worker.run()
                except (Skipped, GivenUp) as reason:
                    skipped[key] = str(reason)
            running = {key: worker for key, worker in workers.items() if key not in skipped}
            if not running:
                raise SystemExit(f"none of the peers can run: {skipped}")
            reference = next((key for key in REFERENCES if key in running), next(iter(running)))
            differences = check_agreement({key: logits.pop(key) for key in running}, reference)
            yield Team(running, skipped, differences, reference)
        finally:
            for worker in workers.values():
                worker.close()


@dataclass(frozen=True)
class Team:
    """Workers that compute the same.

    Args:
        workers: Worker by key of its peer.
        skipped: Why the others cannot run here.
        differences: Largest difference of each one's logits, as a share of the reference's largest logit.
        reference: Key of the peer that they were compared with.
    """

    workers: dict[str, Worker]
    skipped: dict[str, str]
    differences: dict[str, float]
    reference: str

    @property
    def versions(self) -> list[dict[str, str]]:
        """Versions by name, of each worker."""
        return [worker.facts["versions"] for worker in self.workers.values()]


def _environment(threads: int) -> dict[str, str]:
    """The environment of a worker: the thread count where it must be set before the start, and silence."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "TF_NUM_INTRAOP_THREADS": str(threads),
        "TF_NUM_INTEROP_THREADS": str(threads),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",  # or it keeps processes of its own that disturb the others
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_OFFLINE": "1",
    }


def _resident_bytes(process: int) -> int:
    """Memory that a process holds now; 0 where the system does not say."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
