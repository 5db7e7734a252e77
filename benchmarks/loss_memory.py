"""Peak memory and time of a B0 training step (batch 8, 512x512, 150 classes) with SegmentationLoss and a plain loss.

    python -m benchmarks.loss_memory

The plain one resizes the logits with `keras.ops.image.resize` and takes Keras' SparseCategoricalCrossentropy. Each runs
in a process of its own, since a peak never goes down.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

LOSSES = ("plain", "SegmentationLoss")


def measure(kind: str, batch_size: int, size: int, num_labels: int, steps: int) -> None:
    """Trains a few steps; prints the peak of this process in MB and the fastest step in seconds."""
    import keras
    import numpy as np

    from tf_segformer import SegformerConfig, SegformerForSemanticSegmentation
    from tf_segformer.training.losses import SegmentationLoss

    def plain(labels, logits):
        logits = keras.ops.image.resize(keras.ops.cast(logits, "float32"), (size, size))
        return keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True, ignore_class=255)

    model = SegformerForSemanticSegmentation(SegformerConfig.from_variant("b0", num_labels=num_labels))
    model.compile("sgd", loss=plain if kind == "plain" else SegmentationLoss(), jit_compile=False)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch_size, size, size, 3)).astype("float32")
    labels = rng.integers(0, num_labels, (batch_size, size, size))
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        model.train_on_batch(images, labels)
        seconds.append(time.perf_counter() - start)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, min(seconds[1:]))


def main() -> None:
    """Runs both kinds and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--num-labels", type=int, default=150)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--kind", choices=LOSSES, help="measure one in this process")
    arguments = parser.parse_args()
    if arguments.kind:
        measure(arguments.kind, arguments.batch_size, arguments.size, arguments.num_labels, arguments.steps)
        return
    print(f"{'loss':<20}{'peak memory, MB':>18}{'seconds a step':>16}")
    for kind in LOSSES:
        command = [sys.executable, "-m", "benchmarks.loss_memory", *sys.argv[1:], "--kind", kind]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        print(f"{kind:<20}{output[-2]:>18}{float(output[-1]):>16.2f}", flush=True)


if __name__ == "__main__":
    main()
