"""A process for each form of a model: a peak of memory belongs to a process, and no two forms share threads or caches.

    python -m tf_segformer.benchmarking.worker        (started by `Worker`)

Requests and answers are lines of JSON; the first request says what to load.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np


class WorkerError(Exception):
    """The process of a form ended, with the last line that it printed."""


class Worker:
    """The parent's side of a process that has loaded one form of a model.

    Args:
        folder: What `write_form` wrote.
        engine: The engine that runs it; empty for a checkpoint.
        size: (height, width) of the pixel values to time.
        batch_size: Their number.

    Raises:
        WorkerError: It could not load the form.
    """

    def __init__(self, folder: Path, engine: str, size: tuple[int, int], batch_size: int) -> None:
        self._printed = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed in `close`)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tf_segformer.benchmarking.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._printed,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            text=True,
        )
        self.facts = self.ask(folder=str(folder), engine=engine, size=size, batch_size=batch_size)

    def ask(self, **request: Any) -> dict[str, Any]:
        """Sends one request and waits for its answer."""
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(BrokenPipeError):  # the process has ended: reading its answer says so
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if answer:
            return json.loads(answer)
        self._process.wait()
        self._printed.seek(0)
        lines = self._printed.read().strip().splitlines()
        self.close()
        raise WorkerError(lines[-1] if lines else f"its process ended with {self._process.returncode}")

    def run(self) -> float:
        """Runs the network once; its seconds."""
        return self.ask(do="run")["seconds"]

    def close(self) -> None:
        """Ends the process; once more does nothing."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._printed):
            with contextlib.suppress(BrokenPipeError):
                stream.close()  # type: ignore[union-attr]


def main() -> None:
    """The process: answers until its input ends."""
    answers = os.fdopen(os.dup(1), "w")  # the pipe to the parent, which nothing that an engine prints can reach
    os.dup2(2, 1)
    order = json.loads(sys.stdin.readline())
    start = time.perf_counter()
    engine, processor = _load(Path(order["folder"]), order["engine"])
    shape = order["batch_size"], *order["size"], engine.num_channels  # the session is loaded here
    loaded = time.perf_counter() - start
    pixel_values = np.random.default_rng(0).standard_normal(shape, np.float32)
    print(json.dumps({"seconds": loaded, "engine": engine.name, "device": engine.device}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        start = time.perf_counter()
        if request["do"] == "run":
            engine(pixel_values)
        else:
            _segment(engine, processor, Path(request["images"]), Path(request["class_maps"]))
        answer = {"seconds": time.perf_counter() - start, "peak": peak_bytes()}
        print(json.dumps(answer), file=answers, flush=True)


def _load(folder: Path, engine: str) -> tuple[Any, Any]:
    """The engine of a form, and its processor."""
    from tf_segformer.imaging.processor import SegformerImageProcessor
    from tf_segformer.inference.engines import open_engine

    processors = [folder, *folder.glob("*/")]
    place = next(each for each in processors if (each / "preprocessor_config.json").is_file())
    processor = SegformerImageProcessor.from_pretrained(place)
    if engine:
        return open_engine(folder, engine), processor
    from tf_segformer.checkpoints.loading import open_checkpoint
    from tf_segformer.loading import load_model

    return open_engine(load_model(open_checkpoint(folder))), processor


def _segment(engine: Any, processor: Any, images: Path, class_maps: Path) -> None:
    """Writes the class map of every image of a folder under its name."""
    from tf_segformer.inference.predictor import SegmentationPredictor

    paths = sorted(images.glob("*.npy"))
    predictor = SegmentationPredictor(engine, processor, progress=False)
    for path, result in zip(paths, predictor(np.load(path) for path in paths), strict=True):
        np.save(class_maps / path.name, result.class_map.astype(np.uint16))


def peak_bytes() -> int | None:
    """The largest memory that this process held so far; None where the system does not say.

    Not `ru_maxrss` on Linux: that of a child starts at its parent's peak.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(each for each in status.read_text().splitlines() if each.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None


if __name__ == "__main__":
    main()
