"""Exported formats and bfloat16 against float32 on real images: size, time, logits, agreement of class maps.

    python -m benchmarks.edge --images camvid/val/images --calibration camvid/train/images
    python -m benchmarks.edge --images my-images --peers keras litert-float32 --frames 3

Needs the extras "litert" and "onnx". Class maps are compared at the images' own size with those of the Keras model.
The aims on 50 CamVid frames with camvid-b0: float16 >= 99.9 %, dynamic int8 >= 98 %, full int8 >= 95 % agreement, and
int8 files of at most 30 % of the float32 one. Sizes are those of the embedded model's processor.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.harness import report
from benchmarks.harness.bench import Bench, bench_of, parser_of, timing_columns
from benchmarks.harness.case import Case, Engine, File, Peer
from benchmarks.peers import onnxruntime, ours
from tf_segformer.benchmarking.turns import time_in_turns

_MODEL = "camvid-b0"
_CALIBRATION_FRAMES = 100
# Largest difference of logits from the Keras model's, as a fraction of its largest; a table says what it was.
_TOLERANCES = {"float32": 1e-4, "float16": 0.02, "dynamic-int8": 0.3, "int8": 0.6}
_BFLOAT16 = 0.1


def make_model(case: Case) -> None:
    """The embedded model with its processor, as a folder."""
    from tf_segformer import SegformerForSemanticSegmentation, SegformerImageProcessor

    SegformerForSemanticSegmentation.from_pretrained(_MODEL).save_pretrained(case.weights)
    SegformerImageProcessor.from_pretrained(_MODEL).save_pretrained(case.weights)


def make_exports(case: Case) -> None:
    """One file per format."""
    from tf_segformer import SegformerImageProcessor, export_litert, export_onnx

    model, processor = ours.load_model(case), SegformerImageProcessor.from_pretrained(_MODEL)
    calibration = [frame[None] for frame in np.load(case.export("calibration.npy"))]
    folder = case.export("formats")
    export_onnx(model, folder / "onnx", processor)
    for precision in _TOLERANCES:
        options = {"calibration": calibration} if precision == "int8" else {}
        export_litert(
            model, folder / precision, processor, precision=precision, size=(case.height, case.width), **options
        )


def _over_frames(load: Callable[[Case], Callable[[np.ndarray], np.ndarray]]) -> Callable[[Case], Engine]:
    """An engine that runs over all frames, one by one."""

    def engine(case: Case) -> Engine:
        run, frames = load(case), np.load(case.export("frames.npy"))[:, None]  # (N, 1, H, W, 3)

        def logits() -> np.ndarray:
            return np.concatenate([np.asarray(run(frame), np.float32) for frame in frames])

        return Engine(run=lambda: len(logits()), output=logits)

    return engine


def _keras(dtype: str | None) -> Callable[[Case], Engine]:
    def load(case: Case) -> Callable[[np.ndarray], np.ndarray]:
        from tf_segformer.inference.forward import forward_function

        return forward_function(ours.load_model(case, dtype))

    return _over_frames(load)


def _litert(precision: str) -> Callable[[Case], Engine]:
    def load(case: Case) -> Callable[[np.ndarray], np.ndarray]:
        from ai_edge_litert.interpreter import Interpreter

        runner = Interpreter(str(_file(case, precision)), num_threads=case.threads)
        signature = runner.get_signature_runner("serving_default")
        return lambda pixel_values: signature(pixel_values=pixel_values)["logits"]

    return _over_frames(load)


def _file(case: Case, name: str) -> Path:
    """The file of a format."""
    return next(path for path in case.export("formats").joinpath(name).iterdir() if path.suffix in (".tflite", ".onnx"))


_WEIGHTS = File(lambda case: case.weights, make_model)
_EXPORTS = File(lambda case: case.export("formats"), make_exports, (_WEIGHTS,))
_ONNX = _over_frames(lambda case: onnxruntime.runner(_file(case, "onnx"), case.threads))
PEERS = {
    "keras": Peer("Keras float32", ours.IMPORTS, _keras(None), (_WEIGHTS,)),
    "bfloat16": Peer("Keras mixed_bfloat16", ours.IMPORTS, _keras("mixed_bfloat16"), (_WEIGHTS,), _BFLOAT16),
    **{
        f"litert-{each}": Peer(f"LiteRT {each}", ("ai_edge_litert",), _litert(each), (_EXPORTS,), tolerance)
        for each, tolerance in _TOLERANCES.items()
    },
    "onnx": Peer("ONNX float32", onnxruntime.IMPORTS, _ONNX, (_EXPORTS,)),
}


def main() -> None:
    parser = parser_of(__doc__, list(PEERS), runs=5)
    parser.add_argument("--images", required=True, help="folder of images to compare on")
    parser.add_argument(
        "--calibration", help="folder of images whose ranges int8 is made for; default those of --images"
    )
    parser.add_argument("--frames", type=int, default=50)
    arguments = parser.parse_args()
    from tf_segformer import SegformerImageProcessor
    from tf_segformer.imaging.files import open_image

    processor = SegformerImageProcessor.from_pretrained(_MODEL)
    bench = bench_of(arguments, "benchmarks.edge", PEERS)
    with tempfile.TemporaryDirectory() as folder:
        size = processor.size["height"], processor.size["width"]
        case = Case(folder, _MODEL, *size, classes=0, threads=arguments.threads)
        images = [open_image(path) for path in _spread(arguments.images, arguments.frames)]
        calibration = [
            open_image(path) for path in _spread(arguments.calibration or arguments.images, _CALIBRATION_FRAMES)
        ]
        for name, each in (("frames", images), ("calibration", calibration)):
            np.save(case.export(f"{name}.npy"), np.concatenate([processor(image)["pixel_values"] for image in each]))
        sizes = [image.size[::-1] for image in images]
        table = measure(
            bench, ["keras", *(key for key in arguments.peers if key != "keras")], case, sizes, arguments.runs
        )
        report.publish("edge", [table], arguments.output)


def measure(bench: Bench, keys: list[str], case: Case, sizes: list[tuple[int, int]], rounds: int) -> report.Table:
    """The table of formats."""
    from tf_segformer.imaging.postprocess import class_map_from_logits

    with bench.start_agreeing(keys, case) as team:
        seconds = time_in_turns({key: worker.run for key, worker in team.workers.items()}, rounds, warmup=0)
        logits = {key: worker.output() for key, worker in team.workers.items()}
        files = {key: _bytes(case, key) for key in logits}
    per_frame = {key: [each / len(sizes) for each in taken] for key, taken in seconds.items()}
    expected = [class_map_from_logits(each, size) for each, size in zip(logits["keras"], sizes, strict=True)]
    rows = []
    for key, values in logits.items():
        maps = [class_map_from_logits(each, size) for each, size in zip(values, sizes, strict=True)]
        equal = [np.mean(one == other) for one, other in zip(maps, expected, strict=True)]
        difference = np.abs(values - logits["keras"])
        rows.append(
            {
                "format": PEERS[key].title,
                "MB": files[key] / 1e6,
                **timing_columns(per_frame, key, "keras", "Keras"),
                "largest logit difference": float(difference.max()),
                "mean": float(difference.mean()),
                "agreement, %": 100 * float(np.mean(equal)),
            }
        )
    notes = f"{len(sizes)} images, {rounds} rounds in turns; per image. {report.machine(team.versions, bench.hide)}"
    return report.Table(f"Formats: {case.describe()}", rows, notes, team.skipped)


def _bytes(case: Case, key: str) -> float:
    """Size of the format's file; NaN of a Keras model, which has none here."""
    name = key.removeprefix("litert-")
    return _file(case, name).stat().st_size if name in (*_TOLERANCES, "onnx") else float("nan")


def _spread(folder: str, count: int) -> list[Path]:
    """Some images of a folder, spread over all of them."""
    paths = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    return paths[:: max(1, len(paths) // count)][:count]


if __name__ == "__main__":
    main()
