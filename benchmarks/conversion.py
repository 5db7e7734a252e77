"""Memory and time of converting a checkpoint, against just reading it with the safetensors library.

    python benchmarks/conversion.py [--variant b5] [--runs 3]

Every line is a process of its own, whose peak memory and wall time are taken as a whole; the least of the runs counts.
The checkpoint is random and written to a temporary folder first, so that it is read from the system's cache.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

READ = (
    "import sys; from safetensors.numpy import load_file; print(sum(a.nbytes for a in load_file(sys.argv[1]).values()))"
)
CONVERT = (
    "import sys; from pathlib import Path; from tf_segformer.checkpoints.file_conversion import convert_checkpoint; "
    "from tf_segformer.checkpoints.loading import open_checkpoint; "
    "convert_checkpoint(open_checkpoint(sys.argv[1]), Path(sys.argv[2]), to=sys.argv[3])"
)


def main() -> None:
    """Prints one line a way of reading or converting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", default="b5", help="b0 to b5 (default: b5)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each line (default: 3)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "huggingface"
        # A process of its own here, too: the peak of a child counts from what its parent has.
        with ProcessPoolExecutor(1) as pool:
            pool.submit(write_checkpoint, source, arguments.variant).result()
        size = (source / "model.safetensors").stat().st_size
        print(f"{arguments.variant}: {size / 1e6:.0f} MB")
        lines = {
            "read with safetensors": (READ, source / "model.safetensors"),
            "huggingface -> huggingface": (CONVERT, source, folder / "copy", "huggingface"),
            "huggingface -> nvlabs": (CONVERT, source, folder / "nvlabs", "nvlabs"),
            "nvlabs -> huggingface": (CONVERT, folder / "nvlabs", folder / "back", "huggingface"),
            "huggingface -> .keras": (CONVERT, source, folder / "model.keras", "keras"),
            "huggingface -> .weights.h5": (CONVERT, source, folder / "bare" / "model.weights.h5", "keras"),
        }
        reference = None
        for title, (code, *rest) in lines.items():
            runs = [measure([sys.executable, "-c", code, *map(str, rest)]) for _ in range(arguments.runs)]
            seconds, peak = (min(values) for values in zip(*runs, strict=True))
            reference = reference or seconds
            print(
                f"{title:28}{seconds:7.2f} s ({seconds / reference:4.1f} x reading)"
                f"{peak / 1e6:8.0f} MB peak ({peak / size:4.2f} x file)"
            )


def write_checkpoint(folder: Path, variant: str) -> None:
    """A random checkpoint of a variant in Hugging Face's format."""
    from tf_segformer.checkpoints.architecture import variable_shapes
    from tf_segformer.checkpoints.saving import write_pretrained
    from tf_segformer.checkpoints.tensors import LazyTensor
    from tf_segformer.configuration import SegformerConfig

    config = SegformerConfig.from_variant(variant, num_labels=150)
    generator = np.random.default_rng(0)
    tensors = {
        name: LazyTensor.of(generator.standard_normal(shape, dtype=np.float32))
        for name, shape in variable_shapes(config, "segmentation").items()
    }
    write_pretrained(folder, config, tensors, family="huggingface")


def measure(command: list[str]) -> tuple[float, int]:
    """Wall time in seconds and peak resident memory in bytes of a process."""
    began = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"ended with status {status}: {' '.join(command)}")
    return time.perf_counter() - began, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
