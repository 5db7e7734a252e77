"""On a GPU: decoded images to class maps, and training steps, of this project on every backend, and of Hugging Face.

    python -m benchmarks.gpu                                                   # B0 to B5 at 512x512, batch 1 and 32
    python -m benchmarks.gpu --variants b0 --batches 1 --peers jax torch torch-compile --skip training
    python -m benchmarks.gpu --variants b0 --batches 1 --size 64 --runs 2      # small: also runs without a GPU

End to end means that uint8 images go to the device and class maps come back; resizing, network, upsampling and argmax
run there, for Hugging Face too. Engines have a process each and are asked in turns, in training one after the other,
as a GPU's memory does not hold all at once. What is not installed or does not fit is skipped, and nothing here needs
TensorFlow. Class maps, and in training logits, are compared with Hugging Face's. "float32" forbids TensorFloat32
everywhere, "tf32" allows it. The peak is that of the memory that the framework held on the GPU, or of the process
without one.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from benchmarks.harness import report
from benchmarks.harness.bench import Bench, Disagreement, bench_of, parser_of, timing_columns
from benchmarks.harness.case import Case, Peer, Skipped
from benchmarks.harness.worker import GivenUp
from benchmarks.peers import on_gpu
from benchmarks.peers.ours import WEIGHTS
from tf_segformer.benchmarking.turns import time_in_turns

_HUGGING_FACE, _FILES = ("torch", "transformers"), (WEIGHTS,)
_GRAPHS = "reduce-overhead"  # CUDA graphs
_TRAINING = "-training"
# Class maps of random weights have many near ties; of the logits these are the harness' own measure.
_OTHER_PIXELS = {"float32": 0.01, "tf32": 0.1, "bfloat16": 0.5}
_TOLERANCES = {"float32": 1e-3, "tf32": 2e-2, "bfloat16": 0.1}
PEERS = {
    "jax": Peer("this project, JAX", ("jax",), on_gpu.ours("jax"), _FILES),
    "keras-torch": Peer("this project, torch eager", ("torch",), on_gpu.ours("torch"), _FILES),
    "keras-torch-compile": Peer("this project, torch.compile", ("torch",), on_gpu.ours("torch", "default"), _FILES),
    "keras-torch-graphs": Peer("this project, torch CUDA graphs", ("torch",), on_gpu.ours("torch", _GRAPHS), _FILES),
    "tensorflow": Peer("this project, TensorFlow", ("tensorflow",), on_gpu.ours("tensorflow"), _FILES),
    "torch": Peer("HF PyTorch, eager", _HUGGING_FACE, on_gpu.transformers(), _FILES),
    "torch-compile": Peer("HF PyTorch, torch.compile", _HUGGING_FACE, on_gpu.transformers("default"), _FILES),
    "torch-graphs": Peer("HF PyTorch, CUDA graphs", _HUGGING_FACE, on_gpu.transformers(_GRAPHS), _FILES),
}
COMPARED = tuple(PEERS)  # by default
_TRAINERS = {
    "jax": on_gpu.ours_training("jax", jit_compile=True),
    "keras-torch": on_gpu.ours_training("torch", jit_compile=False),
    "keras-torch-compile": on_gpu.ours_training("torch", jit_compile=True),
    "tensorflow": on_gpu.ours_training("tensorflow", jit_compile=False),
    "torch": on_gpu.transformers_training(),
    "torch-compile": on_gpu.transformers_training("default"),
}
PEERS |= {key + _TRAINING: dataclasses.replace(PEERS[key], load=load) for key, load in _TRAINERS.items()}


def main() -> None:
    arguments = _parse_arguments()
    benches = {precision: _bench(arguments, precision) for precision in arguments.precisions}
    with tempfile.TemporaryDirectory() as folder:
        report.publish("gpu", _tables(arguments, benches, folder), arguments.output)


def _tables(arguments: argparse.Namespace, benches: Mapping[str, Bench], folder: str) -> Iterator[report.Table]:
    for variant in arguments.variants:
        for batch in arguments.batches:
            for precision, bench in benches.items():
                size = arguments.size, arguments.size
                case = Case(folder, variant, *size, arguments.classes, batch, arguments.threads, precision)
                if "inference" not in arguments.skip:
                    yield measure_inference(bench, arguments.peers, case, arguments.runs)
                trained = [key + _TRAINING for key in arguments.peers if key in _TRAINERS]
                if "training" not in arguments.skip and trained:
                    yield measure_training(bench, trained, case, arguments.runs)


def measure_inference(bench: Bench, keys: list[str], case: Case, rounds: int) -> report.Table:
    """From images to class maps: the table of one case."""
    uncompared = {key: dataclasses.replace(peer, tolerance=None) for key, peer in bench.peers.items()}
    with dataclasses.replace(bench, peers=uncompared).start_agreeing(keys, case) as team:
        fractions = _fractions_of_other_pixels({key: worker.output() for key, worker in team.workers.items()}, case)
        seconds = time_in_turns({key: worker.run for key, worker in team.workers.items()}, rounds, warmup=5)
    facts = _Facts(
        seconds,
        {key: worker.last["peak"] for key, worker in team.workers.items()},
        {key: {"other pixels": fraction} for key, fraction in fractions.items()},
        team.versions,
        team.skipped,
    )
    return _table(f"Images to class maps: {_describe(case)}", bench, case, facts)


def measure_training(bench: Bench, keys: list[str], case: Case, rounds: int) -> report.Table:
    """A training step: the table of one case. One engine after the other, since all at once fill a GPU's memory."""
    seconds: dict[str, list[float]] = {}
    columns: dict[str, dict[str, float]] = {}
    outputs: dict[str, np.ndarray] = {}
    peaks, versions, skipped = {}, [], {}
    for key in keys:
        print(f"  {bench.peers[key].title}, training", file=sys.stderr, flush=True)
        try:
            with contextlib.closing(bench.start(key, case)) as worker:
                outputs[key] = worker.output()
                worker.run()
                columns[key] = {"first loss": worker.last["result"]}
                seconds |= time_in_turns({key: worker.run}, rounds, warmup=3)
                peaks[key] = worker.last["peak"]
                versions.append(worker.facts["versions"])
        except (Skipped, GivenUp) as reason:
            skipped[bench.peers[key].title] = str(reason)
    if not seconds:
        raise SystemExit(f"none of the peers can run: {skipped}")
    for key, difference in bench.compare({key: outputs[key] for key in seconds}).items():
        columns[key]["difference"] = difference
    facts = _Facts(seconds, peaks, columns, versions, skipped)
    return _table(f"Training step: {_describe(case)}", bench, case, facts)


def _fractions_of_other_pixels(class_maps: Mapping[str, np.ndarray], case: Case) -> dict[str, float]:
    """The fraction of pixels whose class is not that of Hugging Face's eager model, or else of the first engine.

    Raises:
        Disagreement: An engine whose class maps are another network's, or a reference of one class.
    """
    reference = class_maps.get("torch", next(iter(class_maps.values())))
    if np.unique(reference).size < 2:
        raise Disagreement("the reference gives one class everywhere: agreement with it says nothing")
    fractions = {key: float((class_map != reference).mean()) for key, class_map in class_maps.items()}
    for key, fraction in fractions.items():
        if fraction > _OTHER_PIXELS[case.precision]:
            raise Disagreement(f"{key}: {fraction:.1%} of the pixels have another class: it computes something else")
    return fractions


@dataclasses.dataclass(frozen=True)
class _Facts:
    """What was measured, by key of the peer: seconds of the rounds, bytes at most, further columns."""

    seconds: Mapping[str, list[float]]
    peaks: Mapping[str, float]
    columns: Mapping[str, Mapping[str, float]]
    versions: Sequence[Mapping[str, str]]
    skipped: Mapping[str, str]


def _table(heading: str, bench: Bench, case: Case, facts: _Facts) -> report.Table:
    subject = next(iter(facts.seconds))
    rows = []
    for key in facts.seconds:
        timing = timing_columns(facts.seconds, key, subject, bench.peers[subject].title)
        throughput = {"images/s": 1000 * case.batch / timing["median ms"], "peak GB": facts.peaks[key] / 1e9}
        rows.append({"engine": bench.peers[key].title, **timing, **throughput, **facts.columns[key]})
    rounds = len(facts.seconds[subject])
    notes = f"{_device()}; {rounds} rounds; spread is between the quartiles. {report.machine(facts.versions)}"
    return report.Table(heading, rows, notes, facts.skipped)


def _describe(case: Case) -> str:
    return f"{case.describe()}, {case.precision}"


def _device() -> str:
    """The GPU by the name that its driver gives it."""
    if shutil.which("nvidia-smi") is None:
        return "no GPU"
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]


def _bench(arguments: argparse.Namespace, precision: str) -> Bench:
    """The bench of a precision, whose tolerance holds for all."""
    tolerance = _TOLERANCES[precision]
    peers = {key: dataclasses.replace(peer, tolerance=tolerance) for key, peer in PEERS.items()}
    return bench_of(arguments, "benchmarks.gpu", peers)


def _parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, COMPARED, runs=30)
    parser.set_defaults(hide=())  # JAX is wanted here
    parser.add_argument("--variants", nargs="+", default=[f"b{index}" for index in range(6)])
    parser.add_argument("--size", type=int, default=512, help="side of the square image")
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--precisions", nargs="+", choices=on_gpu.PRECISIONS, default=["float32", "bfloat16"])
    parser.add_argument("--skip", nargs="+", choices=["inference", "training"], default=[])
    return parser.parse_args()


if __name__ == "__main__":
    main()
