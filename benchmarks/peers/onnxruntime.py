"""onnxruntime on an ONNX file: Hugging Face's, whose images are channels first, or this project's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.harness.case import Case, Engine
from benchmarks.peers.ours import channels_first, channels_last

IMPORTS = ("onnxruntime",)


def inference(name: str) -> Callable[[Case], Engine]:
    """The network of the case's file of that name."""
    make = channels_last if name == "ours.onnx" else channels_first
    return lambda case: make(case, runner(case.export(name), case.threads))


def runner(path: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """A function from pixel values to logits."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda pixel_values: session.run(["logits"], {"pixel_values": pixel_values})[0]
