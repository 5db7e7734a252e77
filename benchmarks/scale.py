"""What bounds training on many devices and inference over many images, on paper: the tables of docs/scale.md.

    python -m benchmarks.scale

Nothing is measured here. Measured figures are those of benchmarks/RESULTS.md; what is assumed is named so.
"""

from __future__ import annotations

from math import prod

from benchmarks.harness.report import table
from tf_segformer.checkpoints.architecture import variable_shapes
from tf_segformer.configuration import SegformerConfig
from tf_segformer.modeling.macs import segmentation_macs

VARIANTS, DEVICES = ("b0", "b5"), (8, 64, 1000)
IMAGES = 10**9

# Measured on two cores of an AMD EPYC (benchmarks/RESULTS.md), 512x512, 150 classes, float32
STEP_SECONDS_PER_IMAGE = {"b0": 1.848 / 4, "b2": 2.832 / 2}
NETWORK_SECONDS = {"b0": 0.0825, "b5": 1.003}  # B0: within the end to end run; B5: alone
AROUND_NETWORK_SECONDS = 0.0028 + 0.0087 + 0.0259  # decode; resize and normalize; class map
PIPELINE_IMAGES_PER_CORE = 98 / 2  # training pipeline from files, crops of 224x224

# Assumed
GPU_FLOPS = 40e12  # reached, not the peak: an A100-class GPU in bfloat16
IMAGES_PER_DEVICE = 2  # in a step of training: the recipe's batch of 16 on eight devices
NETWORK_BYTES_PER_SECOND = {"10 Gbit/s": 1.25e9, "100 Gbit/s": 12.5e9}
LATENCY_SECONDS = 20e-6  # of one message
DISK_BYTES_PER_SECOND = 1e9
FILE_BYTES = 42e3  # image and labels: ADEChallengeData2016, 923 MB for 22,210 pairs
PHOTO_BYTES, MASK_BYTES, ROW_BYTES = 150e3, 8e3, 120
CPU_DOLLARS_PER_HOUR, GPU_DOLLARS_PER_HOUR, CORES_OF_GPU = 0.08, 4.0, 16  # two cores; one GPU with its cores


def parameters(variant: str) -> int:
    """P: numbers that are trained, and the statistics of one batch norm."""
    return sum(
        prod(shape)
        for shape in variable_shapes(SegformerConfig.from_variant(variant, num_labels=150), "segmentation").values()
    )


def gmac(variant: str) -> float:
    """Of one image of 512x512, forward."""
    return segmentation_macs(SegformerConfig.from_variant(variant, num_labels=150), (512, 512)) / 1e9


def cpu_step_seconds(variant: str) -> float:
    """Per image: measured for B0; B5 from B2's measured speed, in proportion to the multiply-accumulates."""
    return STEP_SECONDS_PER_IMAGE.get(variant, STEP_SECONDS_PER_IMAGE["b2"] * gmac(variant) / gmac("b2"))


def gpu_step_seconds(variant: str) -> float:
    """Per image: forward, and backward of twice the work; two operations per multiply-accumulate."""
    return 3 * 2 * gmac(variant) * 1e9 / GPU_FLOPS


def ring_bytes(variant: str, devices: int) -> float:
    """What each device sends per step: float32 gradients, reduced and handed on around a ring."""
    return 2 * (devices - 1) / devices * 4 * parameters(variant)


def ring_seconds(variant: str, devices: int, bandwidth: float) -> float:
    """Time of it, with one latency per message."""
    return ring_bytes(variant, devices) / bandwidth + 2 * (devices - 1) * LATENCY_SECONDS


def model_table() -> str:
    rows = []
    for variant in VARIANTS:
        count, state = parameters(variant), 3 * 4 * parameters(variant)
        rows.append(
            (
                variant.upper(), f"{count / 1e6:.2f} M", f"{gmac(variant):.1f}", f"{cpu_step_seconds(variant):.2f} s",
                f"{1e3 * gpu_step_seconds(variant):.1f} ms", f"{state / 1e6:,.0f} MB",
                f"{state / DISK_BYTES_PER_SECOND:.2f} s",
            )
        )  # fmt: skip
    header = ("", "P", "GMAC", "step per image, 2 cores", "step per image, GPU", "checkpoint 3·4·P", "its time")
    return table(header, rows)


def training_table() -> str:
    rows = []
    for variant in VARIANTS:
        for devices in DEVICES:
            compute = IMAGES_PER_DEVICE * gpu_step_seconds(variant)
            row: list[object] = [variant.upper(), devices, f"{ring_bytes(variant, devices) / 1e6:.1f} MB"]
            for bandwidth in NETWORK_BYTES_PER_SECOND.values():
                exchange = ring_seconds(variant, devices, bandwidth)
                row.append(f"{1e3 * exchange:.1f} ms, {100 * compute / (compute + exchange):.0f} %")
            cpu = IMAGES_PER_DEVICE * cpu_step_seconds(variant)
            exchange = ring_seconds(variant, devices, NETWORK_BYTES_PER_SECOND["10 Gbit/s"])
            row.append(f"{100 * cpu / (cpu + exchange):.1f} %")
            rate = devices / gpu_step_seconds(variant)
            row += [f"{rate:,.0f}", f"{rate * FILE_BYTES / 1e9:.2f} GB/s", f"{rate / PIPELINE_IMAGES_PER_CORE:,.0f}"]
            rows.append(tuple(row))
    header = (
        "", "devices", "sent per device and step", *(f"GPUs, {name}" for name in NETWORK_BYTES_PER_SECOND),
        "2 cores each, 10 Gbit/s", "images/s, GPUs", "input", "cores that feed it",
    )  # fmt: skip
    return table(header, rows)


def inference_table() -> str:
    rows = []
    for variant in VARIANTS:
        around = 2 * AROUND_NETWORK_SECONDS  # core seconds: the two cores shared the work
        machines = {
            "2 cores": (1 / (NETWORK_SECONDS[variant] + AROUND_NETWORK_SECONDS), CPU_DOLLARS_PER_HOUR),
            f"GPU, {CORES_OF_GPU} cores": (
                min(GPU_FLOPS / (2 * gmac(variant) * 1e9), CORES_OF_GPU / around),
                GPU_DOLLARS_PER_HOUR,
            ),
        }
        for machine, (rate, dollars) in machines.items():
            hours = IMAGES / rate / 3600
            days = " / ".join(f"{hours / 24 / devices:,.1f}" for devices in DEVICES)
            rows.append((variant.upper(), machine, f"{rate:,.1f}", f"{hours:,.0f}", days, f"{dollars * hours:,.0f} $"))
    header = ("", "machine", "images/s", "machine hours", f"days on {' / '.join(map(str, DEVICES))}", "cost")
    return table(header, rows)


def bytes_table() -> str:
    sizes = {"images": PHOTO_BYTES, "rows": ROW_BYTES, "masks": MASK_BYTES}
    rows = [(name, f"{size:,.0f}", f"{size * IMAGES / 1e12:.1f} TB") for name, size in sizes.items()]
    return table(("", "bytes each", "of 10^9"), rows)


if __name__ == "__main__":
    print(*(make() for make in (model_table, training_table, inference_table, bytes_table)), sep="\n\n")
