"""Images per second of `predict_dataset` against the plain loop over a predictor: what shards, rows and workers cost.

    python -m benchmarks.predict_dataset --images 200 --workers 0 2

The images are generated JPEG files of several sizes. Each way runs as a whole, model loading left out of the plain loop
and given as a column of its own for the others. Masks must be equal, or nothing is printed.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from PIL import Image

from benchmarks.harness import report

SIZES = ((640, 480), (480, 640), (512, 512))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="camvid-b0")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--images-per-shard", type=int, default=25)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="0 is this process")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photos = write_photos(Path(folder, "photos"), arguments.images)
        rows, expected = [], plain_loop(arguments.model, photos)
        rows.append({"way": "plain loop", "images/s": len(photos) / expected["seconds"], "whole, s": expected["all"]})
        for workers in arguments.workers:
            rows.append(sharded(arguments, Path(folder), workers, expected["masks"]))
    for row in rows:
        row["of the plain loop"] = row["images/s"] / rows[0]["images/s"]
    notes = f"{arguments.images} images, {arguments.images_per_shard} per shard. {report.machine([])}"
    report.publish("predict_dataset", [report.Table(f"Images per second: {arguments.model}", rows, notes)])


def write_photos(folder: Path, count: int) -> list[Path]:
    folder.mkdir()
    for number in range(count):
        colors = np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        image = Image.fromarray(colors).resize(SIZES[number % len(SIZES)], Image.Resampling.BICUBIC)
        image.save(folder / f"{number:06d}.jpg")
    return sorted(folder.iterdir())


def plain_loop(model: str, photos: list[Path]) -> dict[str, Any]:
    """One predictor over the paths, masks encoded as `predict_dataset` does."""
    from tf_segformer import SegformerForSemanticSegmentation, SegformerImageProcessor, SegmentationPredictor
    from tf_segformer.imaging.visualize import mask_image

    began = time.perf_counter()
    network = SegformerForSemanticSegmentation.from_pretrained(model)
    predictor = SegmentationPredictor(network, SegformerImageProcessor.from_pretrained(model), progress=False)
    list(predictor(photos[0]))
    loaded = time.perf_counter()
    masks = []
    for result in predictor(photos):
        buffer = io.BytesIO()
        mask_image(result.class_map, list(result.labels.values()), result.palette).save(buffer, "PNG")
        masks.append(np.asarray(Image.open(buffer)))
    return {"masks": masks, "seconds": time.perf_counter() - loaded, "all": time.perf_counter() - began}


def sharded(arguments: argparse.Namespace, folder: Path, workers: int, expected: list[np.ndarray]) -> dict[str, Any]:
    """`predict_dataset`: the rate between the first finished shard of all workers and the last."""
    from tf_segformer import predict_dataset

    output, times = folder / f"out-{workers}", []
    began = time.perf_counter()
    predict_dataset(
        folder / "photos", output, arguments.model, masks=True, workers=workers,
        images_per_shard=arguments.images_per_shard, progress=lambda state: times.append((time.perf_counter(), state)),
    )  # fmt: skip
    differing = sum(np.mean(mask != other) for mask, other in zip(masks_of(output), expected, strict=True)) / len(
        expected
    )
    if differing > 1e-3:  # batches of another size differ in the last bits
        raise SystemExit(f"{differing:.2%} of the pixels have another class than in the plain loop")
    (start, first), (end, last) = times[max(1, workers)], times[-1]
    rate = (last.images - first.images) / (end - start)
    return {
        "way": f"{workers} workers" if workers else "shards in this process",
        "images/s": rate,
        "whole, s": end - began,
    }


def masks_of(output: Path) -> Iterator[np.ndarray]:
    import pyarrow.parquet

    for path in sorted(output.glob("*.parquet")):
        for mask in pyarrow.parquet.read_table(path, columns=["mask"]).column("mask").to_pylist():
            yield np.asarray(Image.open(io.BytesIO(mask)))


if __name__ == "__main__":
    main()
