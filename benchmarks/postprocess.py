"""Time and extra memory of logits to class map: in chunks (this package) against resize-then-argmax in one piece.

Run: python -m benchmarks.postprocess [--logits 128] [--size 2048] [--classes 150] [--rounds 5]
Times are medians of rounds in which all methods take turns. Memory is the peak above what the process held before, each
method in a process of its own (Linux only). "segments" are logits with few winners, as of a photograph; "noise" has
another winner in every logit and is the worst case. PyTorch is measured where it is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

Method = Callable[[np.ndarray, tuple[int, int]], np.ndarray]


def main() -> None:
    arguments = _parse_arguments()
    if arguments.measure:
        print(_extra_megabytes(METHODS[arguments.measure](), arguments))
        return
    print(
        f"{arguments.classes} classes, {arguments.logits}x{arguments.logits} to {arguments.size}x{arguments.size}; ",
        end="",
    )
    print(f"full-size logits: {arguments.classes * arguments.size**2 * 4 / 1e6:.0f} MB")
    print(f"{'':34}{'segments':>10}{'noise':>10}{'memory':>10}")
    methods = {name: make() for name, make in METHODS.items() if name != "torch, one piece" or _has_torch()}
    times = {kind: _median_times(methods, kind, arguments) for kind in ("segments", "noise")}
    for name in methods:
        milliseconds = "".join(f"{times[kind][name] * 1000:7.0f} ms" for kind in times)
        print(f"{name:34}{milliseconds}{_memory_in_fresh_process(name, arguments):>7} MB")


def _numpy_in_chunks() -> Method:
    from tf_segformer.imaging.postprocess import class_map_from_logits

    return class_map_from_logits


def _graph_by_blocks() -> Method:
    import tensorflow as tf

    from tf_segformer.imaging.graph.class_map import class_map_from_logits

    signature = [tf.TensorSpec([None, None, None], tf.float32), tf.TensorSpec([2], tf.int32)]
    function = tf.function(class_map_from_logits, input_signature=signature)
    return lambda logits, size: function(logits, size).numpy()


def _tensorflow_in_one_piece() -> Method:
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([None, None, None], tf.float32), tf.TensorSpec([2], tf.int32)])
    def function(logits: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
        return tf.argmax(tf.image.resize(logits, size), axis=-1, output_type=tf.int32)

    return lambda logits, size: function(logits, size).numpy()


def _torch_in_one_piece() -> Method:
    import torch

    def function(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        channels_first = torch.from_numpy(logits).permute(2, 0, 1)[None].contiguous()
        resized = torch.nn.functional.interpolate(channels_first, size, mode="bilinear", align_corners=False)
        return resized.argmax(dim=1)[0].numpy()

    return function


METHODS: dict[str, Callable[[], Method]] = {
    "NumPy, in chunks (this package)": _numpy_in_chunks,
    "graph, by blocks (this package)": _graph_by_blocks,
    "TensorFlow, one piece": _tensorflow_in_one_piece,
    "torch, one piece": _torch_in_one_piece,
}


def _make_logits(kind: str, arguments: argparse.Namespace) -> np.ndarray:
    """Noise, or coarse noise enlarged to smooth segments with some classes far more frequent than others."""
    random = np.random.default_rng(0)
    shape = (arguments.logits, arguments.logits, arguments.classes)
    if kind == "noise":
        return random.standard_normal(shape).astype(np.float32)
    coarse = random.standard_normal((12, 12, arguments.classes)) - np.linspace(0, 3, arguments.classes)
    place = np.linspace(0, 11, arguments.logits)[:, None]
    weights = np.maximum(0, 1 - np.abs(place - np.arange(12)))  # (logits, 12)
    return np.einsum("yi,xj,ijk->yxk", weights, weights, coarse, optimize=True).astype(np.float32)


def _median_times(methods: dict[str, Method], kind: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Median seconds of each method; all take turns, after one turn that does not count."""
    logits, size = _make_logits(kind, arguments), (arguments.size, arguments.size)
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(arguments.rounds + 1):
        for name, method in methods.items():
            start = time.perf_counter()
            method(logits, size)
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(each[1:]) for name, each in seconds.items()}


def _memory_in_fresh_process(name: str, arguments: argparse.Namespace) -> str:
    """Runs this file for one method and returns what it printed."""
    if not sys.platform.startswith("linux"):
        return "n/a"
    sizes = [f"--{option}={getattr(arguments, option)}" for option in ("logits", "size", "classes")]
    command = [sys.executable, "-m", "benchmarks.postprocess", "--measure", name, *sizes]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]


def _extra_megabytes(method: Method, arguments: argparse.Namespace) -> int:
    """Peak of resident memory during a second call, above what was resident before it."""
    logits = _make_logits("noise", arguments)
    method(logits, (64, 64))
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _status("VmRSS")
    method(logits, (arguments.size, arguments.size))
    return round((_status("VmHWM") - before) * 1024 / 1e6)


def _status(field: str) -> int:
    """A line of this process's memory status, in kibibytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def _has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--logits", type=int, default=128, help="side of the logits")
    parser.add_argument("--size", type=int, default=2048, help="side of the class map")
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measure", choices=METHODS, help="print the extra megabytes of one method only")
    return parser.parse_args()


if __name__ == "__main__":
    main()
