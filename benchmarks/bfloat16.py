"""What computing in bfloat16 saves on a CPU that has it, and how many pixels change their class.

Run: python -m benchmarks.bfloat16 [--variants b0 b2] [--size 512] [--classes 150] [--runs 20]
         [--images camvid/val/images --frames 50]
Times are of random weights, in turns, beside a bare matrix product; agreement is that of camvid-b0's class maps.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from benchmarks.harness import report
from benchmarks.harness.inference_peers import set_tensorflow_threads
from benchmarks.harness.timing import interleave, ratio, summarize
from tf_segformer import (
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    SegmentationPredictor,
)
from tf_segformer.inference.forward import forward_function

POLICIES = ("float32", "mixed_bfloat16", "bfloat16")
_MATMUL_SIDE = 3072


def main() -> None:
    arguments = _parse_arguments()
    set_tensorflow_threads(arguments.threads)
    rows = [_row("matrix product", {name: _matmul(name) for name in ("float32", "bfloat16")}, arguments.runs)]
    for variant in arguments.variants:
        runs = {policy: _network(variant, policy, arguments) for policy in POLICIES}
        rows.append(_row(f"{variant.upper()}, {arguments.size}x{arguments.size}", runs, arguments.runs))
    print(
        report.table(
            ["", *(f"{policy}, ms" for policy in POLICIES), *(f"{name} / float32" for name in POLICIES[1:])], rows
        )
    )
    print(f"\n{report.machine([{'tensorflow': tf.__version__}])}")
    if arguments.images:
        agreement = _agreement(sorted(arguments.images.iterdir()), arguments.frames)
        print(f"camvid-b0, mixed_bfloat16: {agreement:.2%} of the pixels keep their class")


def _row(name: str, runs: dict[str, Callable[[], float]], rounds: int) -> list[str]:
    """Medians, and ratios of rounds to float32; a dash where a policy was not run."""
    seconds = interleave(runs, rounds)
    medians = [f"{summarize(seconds[each]).median * 1e3:.1f}" if each in seconds else "-" for each in POLICIES]
    ratios = [f"{ratio(seconds[each], seconds['float32']):.2f}" if each in seconds else "-" for each in POLICIES[1:]]
    return [name, *medians, *ratios]


def _timed(run: Callable[[], object]) -> Callable[[], float]:
    def seconds() -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    return seconds


def _matmul(dtype: str) -> Callable[[], float]:
    square = tf.cast(tf.random.stateless_normal((_MATMUL_SIDE, _MATMUL_SIDE), (0, 0)), dtype)
    multiply = tf.function(lambda one: tf.linalg.matmul(one, one)[:1, :1])
    return _timed(lambda: multiply(square).numpy())


def _network(variant: str, policy: str, arguments: argparse.Namespace) -> Callable[[], float]:
    config = SegformerConfig.from_variant(variant, num_labels=arguments.classes)
    forward = forward_function(SegformerForSemanticSegmentation(config, dtype=policy))
    shape = 1, arguments.size, arguments.size, 3
    pixel_values = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    return _timed(lambda: forward(pixel_values))


def _agreement(paths: list[Path], count: int) -> float:
    """Share of the pixels of some images whose class is the same in both precisions."""
    chosen = paths[:: max(1, len(paths) // count)][:count]
    processor = SegformerImageProcessor.from_pretrained("camvid-b0")
    predictors = [
        SegmentationPredictor(SegformerForSemanticSegmentation.from_pretrained("camvid-b0", dtype=policy), processor)
        for policy in ("float32", "mixed_bfloat16")
    ]
    maps = zip(*(predictor(chosen) for predictor in predictors), strict=True)
    return float(np.mean([np.mean(wide.class_map == narrow.class_map) for wide, narrow in maps]))


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=["b0", "b2"])
    parser.add_argument("--size", type=int, default=512, help="side of the square image")
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--runs", type=int, default=20, help="rounds that count")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--images", type=Path, help="folder of images for the agreement")
    parser.add_argument("--frames", type=int, default=50, help="how many of them")
    return parser.parse_args()


if __name__ == "__main__":
    main()
