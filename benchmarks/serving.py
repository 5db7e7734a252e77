"""What serving costs next to the network: size of the SavedModel, its start, and the parts of one request.

    python -m benchmarks.serving                                     # B0, 19 classes, a JPEG of 1024x512
    python -m benchmarks.serving --width 512 --height 256 --runs 3

A fresh process loads the SavedModel and answers; each run does every part once, one after the other. The aims for B0
on two cores: under 17 MB, load and first request under 5 s, and a request at most 1.15 times the bare network plus
decoding and encoding.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.harness import report
from benchmarks.harness.bench import Bench, bench_of, parser_of
from benchmarks.harness.case import Case, Engine, Peer
from benchmarks.peers import ours


def _load(case: Case) -> Engine:
    """The SavedModel; a run reports the seconds of a request ("serving_default") and of its parts."""
    import tensorflow as tf

    ours.set_tensorflow_threads(case.threads)
    signatures = tf.saved_model.load(str(case.export("saved-model") / "1")).signatures
    encoded = tf.constant([ours.jpeg_bytes(case.width, case.height)])
    parts: dict[str, Callable[[], Any]] = {}  # traced after the first request, which is timed alone

    def run() -> dict[str, float]:
        seconds = {"serving_default": _seconds(lambda: signatures["serving_default"](image_bytes=encoded))}
        if not parts:
            parts.update(_parts(case, signatures, encoded))
            for part in parts.values():
                part()
        return seconds | {name: _seconds(part) for name, part in parts.items()}

    return Engine(run=run, output=lambda: np.empty(0))


def _parts(case: Case, signatures: Any, encoded: Any) -> dict[str, Callable[[], Any]]:
    """The steps of a request, each on the result of the one before."""
    import tensorflow as tf

    from tf_segformer.imaging.graph.class_map import class_map_from_logits, encode_png
    from tf_segformer.imaging.graph.decode import decode_image
    from tf_segformer.imaging.graph.preprocess import preprocess

    processor, size = ours.processor_of(case), tf.constant([case.height, case.width])
    prepare = tf.function(lambda image: preprocess(image, processor)[None])
    to_class_map = tf.function(lambda logits: class_map_from_logits(logits, size))
    decode, encode = tf.function(decode_image), tf.function(encode_png)
    image = decode(encoded[0])
    pixel_values = prepare(image)
    logits = signatures["tensor"](pixel_values=pixel_values)["logits"]
    class_map = to_class_map(logits[0])
    return {
        "decode": lambda: decode(encoded[0]),
        "resize and normalize": lambda: prepare(image),
        "network": lambda: signatures["tensor"](pixel_values=pixel_values)["logits"],
        "class map": lambda: to_class_map(logits[0]),
        "encode": lambda: encode(class_map),
    }


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    result = work()
    for tensor in result.values() if isinstance(result, dict) else [result]:
        tensor.numpy()
    return time.perf_counter() - start


PEERS = {"saved-model": Peer("this project's SavedModel", ("tensorflow",), _load, (ours.SAVED_MODEL,), tolerance=None)}


def main() -> None:
    parser = parser_of(__doc__, list(PEERS), runs=30)
    parser.add_argument("--variant", default="b0")
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--height", type=int, default=512)
    arguments = parser.parse_args()
    bench = bench_of(arguments, "benchmarks.serving", PEERS)
    with tempfile.TemporaryDirectory() as folder:
        size = arguments.height, arguments.width
        case = Case(folder, arguments.variant, *size, arguments.classes, threads=arguments.threads)
        report.publish("serving", [measure(bench, case, arguments.runs)], arguments.output)


def measure(bench: Bench, case: Case, rounds: int) -> report.Table:
    """Start and parts of a request."""
    with bench.start_agreeing(["saved-model"], case) as team:
        worker = team.workers["saved-model"]
        warm_up = worker.last["result"]["serving_default"]
        runs = []
        for _ in range(rounds):
            worker.run()
            runs.append(worker.last["result"])
        size = sum(path.stat().st_size for path in case.export("saved-model").rglob("*") if path.is_file())
        medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    factor = (medians["serving_default"] - medians["decode"] - medians["encode"]) / medians["network"]
    rows: list[report.Row] = [
        {"quantity": "size, MB", "value": size / 1e6},
        {"quantity": "load, s", "value": worker.facts["load_seconds"]},
        {"quantity": "warm-up request, s", "value": warm_up},
        {"quantity": "first request after it, s", "value": runs[0]["serving_default"]},
        *({"quantity": f"{name}, ms", "value": 1000 * median} for name, median in medians.items()),
        {"quantity": "request without decoding and encoding / network", "value": factor},
        {"quantity": "peak, GB", "value": worker.last["peak"] / 1e9},
    ]
    notes = f"Medians of {rounds} runs. {report.machine(team.versions, bench.hide)}"
    return report.Table(f"Serving: {case.describe()}", rows, notes)


if __name__ == "__main__":
    main()
