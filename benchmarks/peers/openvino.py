"""OpenVINO on Hugging Face's ONNX file, whose images are channels first, or on this project's files."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.harness.case import Case, Engine, Skipped
from benchmarks.peers.ours import channels_first, channels_last

IMPORTS = ("openvino",)


def inference(name: str, precision: str = "f32") -> Callable[[Case], Engine]:
    """The network of the case's file of that name; OpenVINO's name of a precision says what it computes in."""
    make = channels_first if name == "hugging-face.onnx" else channels_last

    def load(case: Case) -> Engine:
        import openvino

        core = openvino.Core()
        if precision.upper() not in {*core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"), "F32"}:
            raise Skipped(f"this processor does not compute in {precision}")
        model = core.read_model(case.export(name))
        shape = (case.height, case.width, 3) if make is channels_last else (3, case.height, case.width)
        model.reshape((case.batch, *shape))
        settings = {
            "INFERENCE_NUM_THREADS": case.threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": precision,  # or it may choose bfloat16 by itself
        }
        compiled = core.compile_model(model, "CPU", settings)
        # The logits are not copied for Python: that is not the network's work.
        return make(case, lambda pixel_values: compiled(pixel_values, share_outputs=True)[0])

    return load
