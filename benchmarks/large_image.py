"""Time and peak memory of segmenting one very large image in sliding windows.

Run: python benchmarks/large_image.py [--size 10000] [--classes 19] [--variant b0] [--window 1024] [--stride 768]
The weights are random: they cost what trained ones cost. The peak is that of the whole process, TensorFlow and the
decoded image included.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from tf_segformer import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor
from tf_segformer.inference.predictor import SegmentationPredictor


def main() -> None:
    arguments = _parse_arguments()
    config = SegformerConfig.from_variant(arguments.variant, num_labels=arguments.classes)
    model = SegformerForSemanticSegmentation(config)
    predictor = SegmentationPredictor(
        model, SegformerImageProcessor(), "slide", window=arguments.window, stride=arguments.stride
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.jpg"
        _write_image(path, arguments.size)
        print(f"before: {_peak_gigabytes():.2f} GB peak", flush=True)
        start = time.perf_counter()
        result = next(predictor(path))
        seconds = time.perf_counter() - start
    full_logits = arguments.size**2 * arguments.classes * 4 / 1e9
    print(
        f"{arguments.variant}, {arguments.size} x {arguments.size}, {arguments.classes} classes,"
        f" window {arguments.window}, stride {arguments.stride}: {seconds:.0f} s, {_peak_gigabytes():.2f} GB peak"
        f" (full-size float logits alone: {full_logits:.1f} GB), {len(result.class_fractions)} classes found"
    )


def _write_image(path: Path, size: int) -> None:
    """A JPEG of smooth random colors."""
    colors = np.random.default_rng(0).integers(0, 256, (size // 50, size // 50, 3), dtype=np.uint8)
    Image.fromarray(colors).resize((size, size), Image.Resampling.BICUBIC).save(path, quality=90)


def _peak_gigabytes() -> float:
    """Largest resident memory of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kibibytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=10_000, help="side of the image in pixels")
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--variant", default="b0")
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--stride", type=int, default=768)
    return parser.parse_args()


if __name__ == "__main__":
    main()
