"""Edge formats against float32 on real images: size, latency, difference of logits, agreement of class maps.

Run: python benchmarks/edge.py --images camvid/val/images --calibration camvid/train/images
         [--model camvid-b0] [--frames 50] [--size 360,480] [--threads 2]
Needs the extras "litert" and "onnx". Class maps are compared at the images' own size with those of the Keras model.
The aims on 50 CamVid frames with camvid-b0: float16 >= 99.9 %, dynamic int8 >= 98 %, full int8 >= 95 % agreement, and
int8 files of at most 30 % of the float32 one.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tf_segformer import SegformerForSemanticSegmentation, SegformerImageProcessor
from tf_segformer.deploy.formats import PRECISIONS
from tf_segformer.deploy.litert import export_litert
from tf_segformer.deploy.onnx.export import export_onnx
from tf_segformer.imaging.files import open_image
from tf_segformer.imaging.postprocess import class_map_from_logits
from tf_segformer.inference.forward import forward_function

AIMS = {"litert float16": 0.999, "litert dynamic-int8": 0.98, "litert int8": 0.95}
_CALIBRATION_FRAMES = 100

Run = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    arguments = _parse_arguments()
    model = SegformerForSemanticSegmentation.from_pretrained(arguments.model)
    processor = SegformerImageProcessor.from_pretrained(arguments.model)
    if arguments.size:
        height, width = (int(side) for side in arguments.size.split(","))
        processor = SegformerImageProcessor.from_dict(
            {**processor.to_dict(), "size": {"height": height, "width": width}}
        )
    frames = _spread(arguments.images, arguments.frames)
    reference = forward_function(model)
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for name, path, run in _formats(model, processor, arguments, Path(folder)):
            rows.append((name, path.stat().st_size, *_compare(run, reference, processor, frames)))
            print(f"{name}: done", flush=True)
    full = next(row[1] for row in rows if row[0] == "litert float32")
    size = f"{processor.size['height']}x{processor.size['width']}"
    print(f"\n{arguments.model}, input {size}, {len(frames)} images, {arguments.threads} threads\n")
    print("| format | MB | of float32 | ms (median) | largest logit difference | mean | agreement | aim |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, file_size, milliseconds, largest, mean, agreement in rows:
        aim = f"{AIMS[name]:.1%}" if name in AIMS else ""
        print(
            f"| {name} | {file_size / 1e6:.2f} | {file_size / full:.0%} | {milliseconds:.0f} | {largest:.2g} "
            f"| {mean:.2g} | {agreement:.3%} | {aim} |"
        )


def _formats(
    model: SegformerForSemanticSegmentation,
    processor: SegformerImageProcessor,
    arguments: argparse.Namespace,
    folder: Path,
) -> Iterator[tuple[str, Path, Run]]:
    """Exports one format after another: its name, its file, and a function that runs it."""
    size = processor.size["height"], processor.size["width"]
    for precision in PRECISIONS["litert"]:
        calibration = None
        if precision == "int8":
            photos = _spread(arguments.calibration, _CALIBRATION_FRAMES)
            calibration = [processor(open_image(path))["pixel_values"] for path in photos]
        path = export_litert(
            model, folder / precision, processor, precision=precision, size=size, calibration=calibration
        )
        yield f"litert {precision}", path, _litert_runner(path, arguments.threads)
    path = export_onnx(model, folder / "onnx", processor)
    yield "onnx float32", path, _onnx_runner(path, arguments.threads)


def _compare(
    run: Run, reference: Run, processor: SegformerImageProcessor, frames: list[Path]
) -> tuple[float, float, float, float]:
    """Median milliseconds, largest and mean difference of logits, and the share of equal pixels."""
    times, largest, differences, agreements = [], 0.0, [], []
    for path in frames:
        image = open_image(path)
        pixel_values = processor(image)["pixel_values"]
        expected = reference(pixel_values)
        start = time.perf_counter()
        logits = run(pixel_values)
        times.append((time.perf_counter() - start) * 1000)
        difference = np.abs(logits - expected)
        largest = max(largest, float(difference.max()))
        differences.append(float(difference.mean()))
        ours, theirs = (class_map_from_logits(each[0], image.size[::-1]) for each in (logits, expected))
        agreements.append(float((ours == theirs).mean()))
    return statistics.median(times), largest, statistics.mean(differences), statistics.mean(agreements)


def _litert_runner(path: Path, threads: int) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(path), num_threads=threads).get_signature_runner("serving_default")
    return lambda pixel_values: runner(pixel_values=pixel_values)["logits"]


def _onnx_runner(path: Path, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options)
    return lambda pixel_values: session.run(["logits"], {"pixel_values": pixel_values})[0]


def _spread(folder: str, count: int) -> list[Path]:
    """Some images of a folder, spread over all of them."""
    paths = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    return paths[:: max(1, len(paths) // count)][:count]


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help="folder of images to compare on")
    parser.add_argument("--calibration", required=True, help="folder of images whose ranges int8 is made for")
    parser.add_argument("--model", default="camvid-b0")
    parser.add_argument("--frames", type=int, default=50)
    parser.add_argument("--size", help="HEIGHT,WIDTH of the input; default the processor's")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
