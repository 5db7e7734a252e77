"""What serving costs beside the network: size, start, and the parts of one request.

Run: python benchmarks/serving.py [--model camvid-b0 | --variant b0 --classes 19] [--width 1024 --height 512]
A fresh process loads the SavedModel and answers; medians of interleaved runs. The aims for B0 on two cores: under
17 MB, load and first request under 5 s, and a request at most 1.15 times the bare network plus decoding and encoding.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

NETWORK_FACTOR = 1.15


def main() -> None:
    arguments = _parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.measure is None:
            version = _export(arguments, folder)
            size = sum(path.stat().st_size for path in version.rglob("*") if path.is_file())
            print(f"SavedModel: {size / 1e6:.2f} MB", flush=True)
            command = [sys.executable, __file__, *sys.argv[1:], "--measure", str(version)]
            subprocess.run(command, check=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})
        else:
            _measure(arguments)


def _export(arguments: argparse.Namespace, folder: str) -> Path:
    """Exports the model with its own processor, or a random one of a variant."""
    from tf_segformer import (
        SegformerConfig,
        SegformerForSemanticSegmentation,
        SegformerImageProcessor,
        export_saved_model,
    )

    if arguments.model:
        model = SegformerForSemanticSegmentation.from_pretrained(arguments.model)
        processor = SegformerImageProcessor.from_pretrained(arguments.model)
    else:
        config = SegformerConfig.from_variant(arguments.variant, num_labels=arguments.classes, initializer_range=0.1)
        model, processor = SegformerForSemanticSegmentation(config), SegformerImageProcessor()
    Path(folder, "processor.json").write_text(json.dumps(processor.to_dict()))
    return export_saved_model(model, folder, processor)


def _measure(arguments: argparse.Namespace) -> None:
    """Loads the SavedModel and times a request and its parts."""
    import tensorflow as tf

    from tf_segformer.imaging.graph.class_map import class_map_from_logits, encode_png
    from tf_segformer.imaging.graph.decode import decode_image
    from tf_segformer.imaging.graph.preprocess import preprocess
    from tf_segformer.imaging.processor import SegformerImageProcessor

    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    tf.config.threading.set_inter_op_parallelism_threads(arguments.threads)
    version = Path(arguments.measure)
    processor = SegformerImageProcessor.from_dict(json.loads((version.parent / "processor.json").read_text()))
    encoded = tf.constant([_photograph(arguments.image, arguments.width, arguments.height)])
    start = time.perf_counter()
    signatures = tf.saved_model.load(str(version)).signatures
    loaded = time.perf_counter()
    signatures["serving_default"](image_bytes=encoded)
    warm = time.perf_counter()
    signatures["serving_default"](image_bytes=encoded)
    answered = time.perf_counter()
    print(
        f"start: load {loaded - start:.2f} s, warm-up request {warm - loaded:.2f} s, first request after it "
        f"{answered - warm:.2f} s: {answered - start:.2f} s"
    )

    size = tf.constant([arguments.height, arguments.width])
    prepare = tf.function(lambda image: preprocess(image, processor)[None])
    settle = tf.function(lambda logits: class_map_from_logits(logits, size))
    decode, encode = tf.function(decode_image), tf.function(encode_png)
    image = decode(encoded[0])
    pixel_values = prepare(image)
    logits = signatures["tensor"](pixel_values=pixel_values)["logits"]
    class_map = settle(logits[0])
    parts = {
        "decode": lambda: decode(encoded[0]),
        "resize and normalize": lambda: prepare(image),
        "network (tensor)": lambda: signatures["tensor"](pixel_values=pixel_values)["logits"],
        "class map": lambda: settle(logits[0]),
        "encode": lambda: encode(class_map),
        "serving_default": lambda: signatures["serving_default"](image_bytes=encoded)["class_map_bytes"],
    }
    times: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(arguments.runs):
        for name, run in parts.items():
            start = time.perf_counter()
            run().numpy()
            times[name].append((time.perf_counter() - start) * 1000)
    medians = {name: statistics.median(each) for name, each in times.items()}
    print(f"medians of {arguments.runs} on {arguments.threads} threads, {arguments.width}x{arguments.height}:")
    for name, median in medians.items():
        print(f"  {name:22} {median:8.1f} ms")
    network = medians["network (tensor)"]
    factor = (medians["serving_default"] - medians["decode"] - medians["encode"]) / network
    print(f"serving_default without decoding and encoding is {factor:.2f} x the network (aim: {NETWORK_FACTOR})")


def _photograph(path: str | None, width: int, height: int) -> bytes:
    """A JPEG of the size: of an image, or of smooth random colors."""
    if path:
        image = Image.open(path).convert("RGB")
    else:
        colors = np.random.default_rng(0).integers(0, 256, (height // 40, width // 40, 3), dtype=np.uint8)
        image = Image.fromarray(colors)
    encoded = io.BytesIO()
    image.resize((width, height), Image.Resampling.BICUBIC).save(encoded, "JPEG", quality=90)
    return encoded.getvalue()


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder, embedded name or Hub id; otherwise a random model")
    parser.add_argument("--variant", default="b0")
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--image", help="an image to serve; otherwise random colors")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # the fresh process: a version to measure
    return parser.parse_args()


if __name__ == "__main__":
    main()
