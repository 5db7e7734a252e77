"""Parts of this project next to their plain form: time in turns, and peak memory of a process of its own.

    python -m benchmarks.parts loss             # a training step's loss: SegmentationLoss, or resize and cross-entropy
    python -m benchmarks.parts class-map        # from logits to a class map: in chunks, or all logits resized first
    python -m benchmarks.parts large-image      # one image of 10,000x10,000 in sliding windows

"extra" is the peak above what the process held once it was ready. Outputs are compared first.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.harness import report
from benchmarks.harness.bench import Bench, parser_of, publish_cases, timing_columns
from benchmarks.harness.case import Case, Engine, File, Peer
from benchmarks.peers import ours
from tf_segformer.benchmarking.turns import time_in_turns

_WINDOW, _STRIDE = 1024, 768


def _loss_engine(plain: bool) -> Callable[[Case], Engine]:
    def load(case: Case) -> Engine:
        import keras

        from tf_segformer.training.losses import SegmentationLoss

        def plain_loss(labels: Any, logits: Any) -> Any:
            logits = keras.ops.image.resize(keras.ops.cast(logits, "float32"), (case.height, case.width))
            return keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True, ignore_class=255)

        model = ours.load_model(case)
        loss = plain_loss if plain else SegmentationLoss()
        model.compile("sgd", loss=loss, jit_compile=False)
        images, labels = case.pixel_values(), case.labels()
        shape = 2, case.height // 4, case.width // 4, case.classes
        logits = np.random.default_rng(1).standard_normal(shape, dtype=np.float32)

        def output() -> np.ndarray:
            return np.array([np.mean(np.asarray(loss(labels[:1], each[None]))) for each in logits])

        return Engine(run=lambda: float(model.train_on_batch(images, labels)), output=output)

    return load


def _class_map_engine(make: Callable[[], Callable[[np.ndarray, tuple[int, int]], np.ndarray]]) -> Any:
    def load(case: Case) -> Engine:
        ours.set_tensorflow_threads(case.threads)
        method, logits = make(), _smooth_logits(case.height // 16, case.classes)
        method(logits, (64, 64))  # what it compiles belongs to what the process holds before
        return Engine(
            run=lambda: method(logits, (case.height, case.width)).shape,
            output=lambda: method(logits, (256, 256)).astype(np.float32),
        )

    return load


def _smooth_logits(side: int, classes: int) -> np.ndarray:
    """Coarse noise enlarged to smooth segments, with some classes far more frequent than others: (side, side, K)."""
    coarse = np.random.default_rng(0).standard_normal((12, 12, classes)) - np.linspace(0, 3, classes)
    position = np.linspace(0, 11, side)[:, None]
    weights = np.maximum(0, 1 - np.abs(position - np.arange(12)))  # (side, 12)
    return np.einsum("yi,xj,ijk->yxk", weights, weights, coarse, optimize=True).astype(np.float32)


def _in_chunks() -> Any:
    from tf_segformer.imaging.postprocess import class_map_from_logits

    return class_map_from_logits


def _graph(plain: bool) -> Callable[[], Any]:
    def make() -> Any:
        import tensorflow as tf

        from tf_segformer.imaging.graph.class_map import class_map_from_logits

        def all_at_once(logits: Any, size: Any) -> Any:
            return tf.argmax(tf.image.resize(logits, size), axis=-1, output_type=tf.int32)

        signature = [tf.TensorSpec([None, None, None], tf.float32), tf.TensorSpec([2], tf.int32)]
        function = tf.function(all_at_once if plain else class_map_from_logits, input_signature=signature)
        return lambda logits, size: function(logits, size).numpy()

    return make


def _torch() -> Any:
    import torch

    def function(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        channels_first = torch.from_numpy(logits).permute(2, 0, 1)[None].contiguous()
        resized = torch.nn.functional.interpolate(channels_first, size, mode="bilinear", align_corners=False)
        return resized.argmax(dim=1)[0].numpy()

    return function


def _large_image(case: Case) -> Engine:
    """An image of the case's size through the predictor, whose weights cost what trained ones cost."""
    from tf_segformer import SegformerImageProcessor, SegmentationPredictor

    processor = SegformerImageProcessor()
    predictor = SegmentationPredictor(ours.load_model(case), processor, "slide", window=_WINDOW, stride=_STRIDE)
    path = case.export("large.jpg")
    return Engine(run=lambda: float(len(next(predictor(path)).class_fractions)), output=lambda: np.empty(0))


def make_large_image(case: Case) -> None:
    """One JPEG of the case's size."""
    case.export("large.jpg").write_bytes(ours.jpeg_bytes(case.width, case.height))


_TENSORFLOW, _WEIGHTS = ("tensorflow",), (ours.WEIGHTS,)
_LARGE = File(lambda case: case.export("large.jpg"), make_large_image)


PARTS: dict[str, dict[str, Peer]] = {
    "loss": {
        "loss": Peer("SegmentationLoss", _TENSORFLOW, _loss_engine(plain=False), _WEIGHTS),
        "loss-plain": Peer("resize + cross-entropy", _TENSORFLOW, _loss_engine(plain=True), _WEIGHTS),
    },
    "class-map": {
        "numpy": Peer("NumPy, in chunks (this project)", _TENSORFLOW, _class_map_engine(_in_chunks)),
        "graph": Peer("graph, by blocks (this project)", _TENSORFLOW, _class_map_engine(_graph(plain=False))),
        "graph-plain": Peer("TensorFlow, all at once", _TENSORFLOW, _class_map_engine(_graph(plain=True))),
        "class-map-torch": Peer("PyTorch, all at once", ("tensorflow", "torch"), _class_map_engine(_torch)),
    },
    "large-image": {
        "large-image": Peer("sliding windows", _TENSORFLOW, _large_image, (ours.WEIGHTS, _LARGE), tolerance=None)
    },
}
PEERS = {key: peer for peers in PARTS.values() for key, peer in peers.items()}
# Side, classes and batch that each part is measured at.
_DEFAULTS = {
    "loss": (512, 150, 8),
    "class-map": (2048, 150, 1),
    "large-image": (10_000, 19, 1),
}


def main() -> None:
    arguments = _parse_arguments()
    side, classes, batch = _DEFAULTS[arguments.part]
    arguments.peers = [key for key in arguments.peers if key in PARTS[arguments.part]]
    side = arguments.size or side
    settings = [(arguments.variant, side, side, classes, arguments.batch or batch)]
    publish_cases("parts", PEERS, arguments, settings, measure)


def measure(bench: Bench, keys: list[str], case: Case, rounds: int) -> list[report.Table]:
    """The table of one part."""
    with bench.start_agreeing(keys, case) as team:
        workers = team.workers
        seconds = time_in_turns({key: worker.run for key, worker in workers.items()}, rounds, warmup=0)
    subject = next(iter(workers))
    rows = [
        {
            "form": PEERS[key].title,
            **timing_columns(seconds, key, subject, PEERS[subject].title),
            "peak GB": worker.last["peak"] / 1e9,
            "extra": (worker.last["peak"] - worker.facts["load_peak"]) / 1e9,
        }
        for key, worker in workers.items()
    ]
    notes = f"{rounds} rounds in turns after one that is not counted. {report.machine(team.versions, bench.hide)}"
    return [report.Table(f"{PEERS[subject].title} and its plain form: {case.describe()}", rows, notes, team.skipped)]


def _parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, list(PEERS), runs=3)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--variant", default="b0")
    parser.add_argument("--size", type=int, help="side of the square image or class map")
    parser.add_argument("--batch", type=int)
    return parser.parse_args()


if __name__ == "__main__":
    main()
