"""From JPEG files to class maps: predictor, served SavedModel, Hugging Face; the parts of one image.

    python -m benchmarks.end_to_end                               # B0 at 512x512, 150 classes, 16 images
    python -m benchmarks.end_to_end --size 256 --runs 2 --peers ours parts

Every engine runs in a process of its own over the same folder of generated images; all are asked in turns, after
their logits of all images have been compared. "one part after the other" decodes, resizes, runs the network and
makes the class map of each image in turn: as far as the predictor is faster than that, it overlaps them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import report
from benchmarks.harness.bench import Bench, parser_of, publish_cases, timing_columns
from benchmarks.harness.case import Case, Engine, Peer
from benchmarks.peers import ours, transformers
from tf_segformer.benchmarking.turns import time_in_turns

_IMPORTS = (*transformers.IMPORTS, "PIL")


def _paths(case: Case) -> list[Path]:
    return sorted(case.export("images").glob("*.jpg"))


def _predictor(case: Case) -> Engine:
    """SegmentationPredictor over the folder."""
    from tf_segformer import SegmentationPredictor

    model, processor, paths = ours.load_model(case), ours.processor_of(case), _paths(case)
    predictor = SegmentationPredictor(model, processor)
    keeping = SegmentationPredictor(model, processor, return_logits=True)
    return Engine(
        run=lambda: sum(1 for _ in predictor(paths)),
        output=lambda: np.stack([np.asarray(result.logits) for result in keeping(paths)]),
    )


def _parts(case: Case) -> Engine:
    """The same work one image and one part after the other; a run reports the seconds of each part."""
    from tf_segformer.imaging.files import open_image
    from tf_segformer.imaging.postprocess import class_map_from_logits
    from tf_segformer.inference.forward import forward_function

    forward = forward_function(ours.load_model(case))
    processor, paths = ours.processor_of(case), _paths(case)

    def segment(path: Path, seconds: dict[str, float]) -> np.ndarray:
        def timed(name: str, work: Callable[[], Any]) -> Any:
            start = time.perf_counter()
            result = work()
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
            return result

        pixels = timed("decode", lambda: np.asarray(open_image(path)))
        batch = timed("resize and normalize", lambda: processor(pixels)["pixel_values"])
        logits = timed("network", lambda: forward(batch))
        timed("class map", lambda: class_map_from_logits(logits[0], pixels.shape[:2]))
        return logits

    def run() -> dict[str, float]:
        seconds: dict[str, float] = {}
        for path in paths:
            segment(path, seconds)
        return seconds

    return Engine(run=run, output=lambda: np.concatenate([segment(path, {}) for path in paths]))


def _served(case: Case) -> Engine:
    """What a server runs: the SavedModel from the bytes of a JPEG to those of a class map, image by image."""
    import tensorflow as tf

    ours.set_tensorflow_threads(case.threads)
    signatures = tf.saved_model.load(str(case.export("saved-model") / "1")).signatures
    requests = [tf.constant([path.read_bytes()]) for path in _paths(case)]

    def run(signature: str, name: str) -> list[np.ndarray]:
        return [signatures[signature](image_bytes=each)[name].numpy() for each in requests]

    return Engine(
        run=lambda: len(run("serving_default", "class_map_bytes")),
        output=lambda: np.concatenate(run("logits", "logits")),
    )


_FILES = (ours.WEIGHTS, ours.JPEG_FOLDER)
PEERS = {
    "ours": Peer("this project, SegmentationPredictor", ours.IMPORTS, _predictor, _FILES),
    "parts": Peer("this project, one part after the other", ours.IMPORTS, _parts, _FILES),
    "served": Peer(
        "this project's SavedModel, image by image", ("tensorflow",), _served, (ours.SAVED_MODEL, ours.JPEG_FOLDER)
    ),
    "torch": Peer("HF PyTorch, eager", _IMPORTS, transformers.end_to_end(False), _FILES),
    "torch-compile": Peer("HF PyTorch, torch.compile", _IMPORTS, transformers.end_to_end(True), _FILES),
}


def main() -> None:
    parser = parser_of(__doc__, list(PEERS), runs=10)
    parser.add_argument("--variants", nargs="+", default=["b0"])
    parser.add_argument("--size", type=int, default=512, help="side of the square that the network gets")
    parser.add_argument("--classes", type=int, default=150)
    arguments = parser.parse_args()
    settings = [(variant, arguments.size, arguments.size, arguments.classes, 1) for variant in arguments.variants]
    publish_cases("end_to_end", PEERS, arguments, settings, measure)


def measure(bench: Bench, keys: list[str], case: Case, rounds: int) -> list[report.Table]:
    """The table of engines, and that of the parts where they were measured."""
    parts: list[dict[str, float]] = []
    with bench.start_agreeing(keys, case) as team:
        workers = team.workers

        def run(key: str) -> float:
            seconds = workers[key].run()
            if key == "parts":
                parts.append(workers[key].last["result"])
            return seconds

        seconds = time_in_turns({key: lambda key=key: run(key) for key in workers}, rounds, warmup=1)
    per_image = {key: [each / ours.IMAGES for each in taken] for key, taken in seconds.items()}
    subject = next(iter(seconds))
    rows = [
        {
            "engine": PEERS[key].title,
            "load s": workers[key].facts["load_seconds"],
            "images/s": 1 / statistics.median(per_image[key]),
            **timing_columns(per_image, key, subject, PEERS[subject].title),
        }
        for key in workers
    ]
    notes = (
        f"{ours.IMAGES} JPEG files, {rounds} rounds in turns; milliseconds per image; spread is between the quartiles. "
        f"{report.machine(team.versions, bench.hide)}"
    )
    tables = [report.Table(f"End to end: {case.describe()}", rows, notes, team.skipped)]
    if parts:
        medians = {name: statistics.median(each[name] for each in parts[-rounds:]) for name in parts[0]}
        part_rows = [
            {
                "part": name,
                "median ms per image": 1000 * median / ours.IMAGES,
                "%": 100 * median / sum(medians.values()),
            }
            for name, median in medians.items()
        ]
        tables.append(report.Table(f"Parts of one image: {case.describe()}", part_rows))
    return tables


if __name__ == "__main__":
    main()
