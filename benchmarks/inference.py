"""Time of one inference of this project and its peers: same weights, images and threads, in turns.

    python -m benchmarks.inference --variants b0 b2 --sizes 512 1024 --classes 150 19
    python -m benchmarks.inference --peers ours ours-mixed-bfloat16 ours-bfloat16     # on a CPU with avx512_bf16
    python -m benchmarks.inference --peers ours openvino --runs 50
    python -m benchmarks.inference --variants b5 --sizes 1024x2048 --peers ours ours-merging-0.5 ours-merging-0.65

Every engine runs in a process of its own; all are asked in turns, a few times each, as over a folder of images: the
last call of a turn counts, since the first finds the caches filled by the others (`--calls 1` times it). Before that
their logits are compared. "/ peer" is the time of the first engine over the peer's, the median of the rounds' ratios;
"x floor" is the time over that of the arithmetic of this project's form of the network at the speed of a large matrix
product, measured in the same turns.
"""

from __future__ import annotations

import argparse
import contextlib
import functools

from benchmarks.harness import report
from benchmarks.harness.bench import Bench, parser_of, publish_cases, timing_columns
from benchmarks.harness.case import Case, Peer
from benchmarks.peers import keras_hub, onnxruntime, openvino, ours, transformers
from tf_segformer.benchmarking.turns import time_in_turns

_WEIGHTS, _ONNX, _HF_ONNX = (ours.WEIGHTS,), (ours.ONNX,), (transformers.ONNX,)
_INT8 = None  # not compared: how 8 bits agree on random weights says nothing; RESULTS.md has them on CamVid
_BFLOAT16 = 0.1  # tolerance: a bfloat16 has three significant digits, and the network fifty layers
PEERS = {
    "ours": Peer("this project", ours.IMPORTS, ours.predictor_graph(), _WEIGHTS),
    "ours-fixed": Peer("this project, fixed size", ours.IMPORTS, ours.fixed_size, _WEIGHTS),
    "ours-saved-model": Peer("this project's SavedModel", ("tensorflow",), ours.saved_model, (ours.SAVED_MODEL,)),
    "openvino": Peer("OpenVINO, HF ONNX", openvino.IMPORTS, openvino.inference("hugging-face.onnx"), _HF_ONNX),
    "openvino-ours": Peer("OpenVINO, this project's ONNX", openvino.IMPORTS, openvino.inference("ours.onnx"), _ONNX),
    "onnxruntime": Peer(
        "onnxruntime, HF ONNX", onnxruntime.IMPORTS, onnxruntime.inference("hugging-face.onnx"), _HF_ONNX
    ),
    "onnxruntime-ours": Peer(
        "onnxruntime, this project's ONNX", onnxruntime.IMPORTS, onnxruntime.inference("ours.onnx"), _ONNX
    ),
    "torch-compile": Peer(
        "HF PyTorch, torch.compile", transformers.IMPORTS, transformers.inference(compile_model=True), _WEIGHTS
    ),
    "torch": Peer("HF PyTorch, eager", transformers.IMPORTS, transformers.inference(compile_model=False), _WEIGHTS),
    "keras-hub": Peer(
        "keras-hub (with its resize)", keras_hub.IMPORTS, keras_hub.inference(True), _WEIGHTS, square_only=True
    ),
    "keras-hub-logits": Peer(
        "keras-hub, to the logits", keras_hub.IMPORTS, keras_hub.inference(False), _WEIGHTS, square_only=True
    ),
}
COMPARED = tuple(PEERS)  # by default
PEERS |= {
    "ours-eager": Peer("this project, not compiled", ours.IMPORTS, ours.eager, _WEIGHTS),
    "ours-mixed-bfloat16": Peer(
        "this project, mixed_bfloat16", ours.IMPORTS, ours.predictor_graph("mixed_bfloat16"), _WEIGHTS, _BFLOAT16
    ),
    "ours-bfloat16": Peer(
        "this project, bfloat16", ours.IMPORTS, ours.predictor_graph("bfloat16"), _WEIGHTS, _BFLOAT16
    ),
    **{
        f"ours-merging-{fraction}": Peer(
            f"this project, token_merging={fraction}",
            ours.IMPORTS,
            ours.predictor_graph(token_merging=fraction),
            _WEIGHTS,
            tolerance=None,  # other numbers, as asked for: RESULTS.md has their mIoU on CamVid
        )
        for fraction in (0.5, 0.65)
    },
    "openvino-ours-bfloat16": Peer(
        "OpenVINO, this project's ONNX, bfloat16",
        openvino.IMPORTS,
        openvino.inference("ours.onnx", "bf16"),
        _ONNX,
        _BFLOAT16,
    ),
    "openvino-ours-int8": Peer(
        "OpenVINO, this project's int8", openvino.IMPORTS, openvino.inference("int8/model.xml"), (ours.INT8,), _INT8
    ),
    "openvino-ours-int8-bfloat16": Peer(
        "OpenVINO, this project's int8, the rest bfloat16",
        openvino.IMPORTS,
        openvino.inference("int8/model.xml", "bf16"),
        (ours.INT8,),
        _INT8,
    ),
    "matmul": Peer("matrix product", ("tensorflow",), ours.matmul, tolerance=None),
}


def main() -> None:
    arguments = _parse_arguments()
    settings = [
        (variant, *size, classes, arguments.batch)
        for variant in arguments.variants
        for size in arguments.sizes
        for classes in arguments.classes
    ]
    publish_cases("inference", PEERS, arguments, settings, functools.partial(measure, calls=arguments.calls))


def measure(bench: Bench, keys: list[str], case: Case, rounds: int, calls: int) -> list[report.Table]:
    """The table of one case."""
    with bench.start_agreeing(keys, case) as team, contextlib.closing(bench.start("matmul", case)) as matmul:
        runs = {key: worker.run for key, worker in team.workers.items()}
        seconds = time_in_turns({**runs, "matmul": matmul.run}, rounds, calls=calls)
    peak = ours.matmul_flop() / min(seconds.pop("matmul"))
    floor = 2 * _macs(case) / peak  # seconds
    rows = []
    subject = next(iter(seconds))
    for key in seconds:
        columns = timing_columns(seconds, key, subject, PEERS[subject].title)
        times_floor = columns["median ms"] / 1000 / floor
        rows.append(
            {"engine": PEERS[key].title, **columns, "x floor": times_floor, "difference": team.differences.get(key)}
        )
    counted = f" of {calls} calls, of which the last counts" if calls > 1 else ""
    notes = (
        f"{rounds} rounds in turns{counted}; spread is between the quartiles; difference is that of the logits "
        f"from a peer's, over the largest logit. Floor: {_macs(case) / 1e9:.1f} GMAC at {peak / 1e9:.0f} GFLOP/s take "
        f"{1000 * floor:.1f} ms. {report.machine(team.versions, bench.hide)}"
    )
    return [report.Table(f"Inference: {case.describe()}", rows, notes, team.skipped)]


def _macs(case: Case) -> int:
    """Multiply-accumulates of this project's form of the network."""
    from tf_segformer.configuration import SegformerConfig
    from tf_segformer.modeling.macs import segmentation_macs

    config = SegformerConfig.from_variant(case.variant, num_labels=case.classes)
    return case.batch * segmentation_macs(config, (case.height, case.width))


def _sides(text: str) -> tuple[int, ...]:
    """Height and width of the image: of a square one its side."""
    sides = tuple(map(int, text.split("x")))
    return sides * (3 - len(sides))


def _parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, COMPARED, runs=20)
    parser.add_argument("--variants", nargs="+", default=["b0", "b2"])
    parser.add_argument("--sizes", nargs="+", type=_sides, default=[(512, 512), (1024, 1024)], metavar="SIDE|HxW")
    parser.add_argument("--classes", nargs="+", type=int, default=[150, 19])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument(
        "--calls", type=int, default=3, help="calls in each turn, of which the last counts; 3 by default"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
