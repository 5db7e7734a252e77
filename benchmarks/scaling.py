"""Training in two processes of this machine against one: images per second, and the bytes that they exchange per step.

    python -m benchmarks.scaling --steps 20

Every process computes on one core, so two of them have twice the cores of one. Once the steps bound the run (B0 on
batches that are ready), once the input (a tiny network on crops of large photographs). The batch is the same.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from benchmarks.harness import report

TINY = {
    "depths": (1, 1, 1, 1),
    "hidden_sizes": (8, 8, 16, 16),
    "num_attention_heads": (1, 1, 2, 2),
    "decoder_hidden_size": 16,
}
BATCH = 8
CASES = {  # the fields of the model, the crop, the side of the photographs, whether one batch is used again and again
    "compute-bound": ({}, 256, 512, True),
    "input-bound": (TINY, 32, 2048, False),
}
_BYTES = {"f64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "pred": 1, "u8": 1}
_COLLECTIVE = re.compile(r"= (\(.*?\)|\S+) (all-reduce|all-gather|all-to-all|collective-permute)(?:-start)?\(")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="steps that count; the first two do not")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        _train(**json.loads(arguments.child))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for case in arguments.cases:
            photographs = _write_photographs(Path(folder) / case, CASES[case][2])
            one, several = (_measure(case, photographs, count, arguments.steps) for count in (1, arguments.processes))
            rows += [one, {**several, "times one process": several["images/s"] / one["images/s"]}]
    notes = (
        f"Batches of {BATCH} images, {arguments.steps} steps, one core per process. Core s per image: processor time "
        "of all processes, which other programs hardly change. Bytes: results of the collective operations in the "
        f"step that XLA compiled. {report.machine([])}"
    )
    report.publish("scaling", [report.Table("Training in several processes", rows, notes)])


def _write_photographs(folder: Path, side: int) -> Path:
    """Photographs of noise with two classes, as a dataset of kind "folder"."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / "train" / kind).mkdir(parents=True)
    for index in range(2 * BATCH):
        noise = np.kron(rng.integers(0, 255, (side // 8, side // 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        Image.fromarray(noise).save(folder / "train/images" / f"{index}.jpg")
        Image.fromarray((noise[..., 0] > 128).astype(np.uint8)).save(folder / "train/labels" / f"{index}.png")
    return folder


def _measure(case: str, photographs: Path, count: int, steps: int) -> report.Row:
    """Images per second and exchanged bytes of so many processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    with tempfile.TemporaryDirectory() as dump:
        environment = {
            **os.environ,
            "KERAS_BACKEND": "jax",
            "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen=false --xla_dump_to={dump} "
            "--xla_dump_hlo_as_text --xla_dump_hlo_module_re=.*train_step.*",
        }
        cores = sorted(os.sched_getaffinity(0))
        children = []
        for index in range(count):
            options: dict[str, Any] = {"case": case, "photographs": str(photographs), "steps": steps}
            options |= {"core": cores[index % len(cores)], "num_processes": count, "process_id": index}
            options |= {"coordinator": coordinator}
            command = [sys.executable, "-m", "benchmarks.scaling", "--child", json.dumps(options)]
            children.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
        outputs = [child.communicate()[0] for child in children]
        if any(child.returncode for child in children):
            raise SystemExit(f"{case} in {count} processes failed")
        exchanged = exchanged_bytes("\n".join(path.read_text() for path in _optimized(Path(dump))))
    measured = [json.loads(output.splitlines()[-1]) for output in outputs]
    seconds, _, parameters = measured[0]
    print(f"{case}, {count} processes: {BATCH / seconds:.2f} images/s", file=sys.stderr, flush=True)
    return {
        "case": case,
        "processes": count,
        "images/s": BATCH / seconds,
        "core s per image": sum(each[1] for each in measured) / BATCH,
        "parameters": parameters,
        **{f"{name}, bytes per step": exchanged.get(name, 0) for name in ("all-reduce", "all-gather")},
    }


def _optimized(dump: Path) -> list[Path]:
    """The texts of the last compiled training step of process 0."""
    return sorted(dump.glob("*train_step*after_optimizations.txt"))[-1:]


def exchanged_bytes(hlo: str) -> dict[str, int]:
    """Bytes of the results of each kind of collective operation in the text of a compiled program.

    Example:
        >>> exchanged_bytes("%a = f32[3,2]{1,0} all-reduce(%b), replica_groups={}")
        {'all-reduce': 24}
    """
    sizes: dict[str, int] = {}
    for shapes, kind in _COLLECTIVE.findall(hlo):
        for dtype, dimensions in re.findall(r"(\w+)\[([\d,]*)\]", shapes):
            count = math.prod(int(each) for each in dimensions.split(",") if each)
            sizes[kind] = sizes.get(kind, 0) + count * _BYTES[dtype]
    return sizes


def _train(case: str, photographs: str, steps: int, core: int, **processes: Any) -> None:
    """One process; prints the mean seconds and processor seconds of a step, and the number of parameters."""
    os.sched_setaffinity(0, [core])
    import keras

    from tf_segformer import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor
    from tf_segformer.data import Augmentation, find_dataset, training_dataset
    from tf_segformer.training.distributed import data_parallel
    from tf_segformer.training.process_group import start_processes
    from tf_segformer.training.recipes import Phase, Recipe
    from tf_segformer.training.trainer import compile_model

    count = start_processes(**processes)
    fields, crop, _, is_ready = CASES[case]
    phase = Phase(steps + 2, BATCH, Augmentation((crop, crop)))
    recipe = Recipe(case, "b0", "folder", (phase,), warmup_steps=0, model=fields)
    dataset = find_dataset("folder", photographs, "train", class_names=["dark", "bright"])
    batches = training_dataset(
        dataset, phase.augmentation, BATCH, processor=SegformerImageProcessor(do_resize=False), parallel_calls=1,
        part=processes["process_id"], parts=count,
    )  # fmt: skip
    batches = batches.take(1).cache().repeat() if is_ready else batches
    ends: list[np.ndarray] = []

    class Clock(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            float(logs["loss"])
            ends.append(np.array([time.perf_counter(), time.process_time()]))

    keras.utils.set_random_seed(0)
    with data_parallel():
        config = SegformerConfig.from_variant("b0", num_labels=2, **fields)
        model = SegformerForSemanticSegmentation(config)
        compile_model(model, recipe)
        model.fit(batches, steps_per_epoch=steps + 2, shuffle=False, verbose=0, callbacks=[Clock()])
    print(json.dumps([*(ends[-1] - ends[1]) / steps, model.count_params()]))


if __name__ == "__main__":
    main()
