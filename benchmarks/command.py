"""Images per second of `tf-segformer predict FOLDER` by engine: from JPEG files to class maps as PNG files.

    python -m benchmarks.command                                      # B0 at 512x512, 150 classes, random weights
    python -m benchmarks.command --model camvid-b0 --photos FOLDER    # a model and photos of your own

The commands run in turns, each in a process of its own. The steady rate is that between the first image that is
reported and the last; "whole" is from the start of the process to its end. Class maps must be the same on nearly all
pixels, or nothing is printed.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.harness import report
from benchmarks.harness.bench import ratio
from benchmarks.harness.case import Case
from benchmarks.harness.worker import make_file
from benchmarks.peers import ours
from tf_segformer.benchmarking.turns import time_in_turns

MOST_OTHER_PIXELS = 2e-3  # where two classes are equal up to rounding, which random weights make common


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="checkpoint; by default B0 with random weights, 150 classes, 512x512")
    parser.add_argument("--photos", type=Path, help="folder of JPEG files; by default 16 generated ones")
    parser.add_argument(
        "--engines", nargs="+", default=["tensorflow", "auto"], help="the first is the one of the ratio"
    )
    parser.add_argument("--runs", type=int, default=5, help="rounds that count")
    parser.add_argument("--save", default="mask", help="as predict's")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        case = Case(folder)
        if arguments.model is None:
            make_file(ours.WEIGHTS, case)
            ours.processor_of(case).save_pretrained(case.weights)
        if arguments.photos is None:
            make_file(ours.JPEG_FOLDER, case)
        model, photos = arguments.model or case.weights, arguments.photos or case.export("images")
        table = measure(str(model), photos, Path(folder), arguments)
    report.publish("command", [table])


def measure(model: str, photos: Path, folder: Path, arguments: argparse.Namespace) -> report.Table:
    """The table of engines."""
    steady: dict[str, list[float]] = {engine: [] for engine in arguments.engines}

    def run(engine: str) -> float:
        seconds, per_image = run_command(
            [str(photos), "--model", model, "--engine", engine, "--save", arguments.save, "-o", str(folder / engine)]
        )
        steady[engine].append(per_image)
        return seconds

    first = arguments.engines[0]
    whole = time_in_turns({engine: lambda engine=engine: run(engine) for engine in steady}, arguments.runs, warmup=1)
    steady = {engine: taken[1:] for engine, taken in steady.items()}
    rows = [
        {
            "engine": engine,
            "images/s": 1 / statistics.median(steady[engine]),
            f"of {first}'s": ratio(steady[first], steady[engine]),
            "whole, s": statistics.median(whole[engine]),
            "other pixels than " + first: other_pixels(folder / first, folder / engine),
        }
        for engine in steady
    ]
    name = "B0, 512x512, 150 classes" if arguments.model is None else model
    count = len(list((folder / first).glob("*_mask.png")))
    notes = f"{count} JPEG files, {arguments.runs} rounds in turns, --save {arguments.save}. {report.machine([])}"
    return report.Table(f"tf-segformer predict: {name}", rows, notes)


def run_command(options: list[str]) -> tuple[float, float]:
    """Runs `predict`; seconds of the whole, and seconds per image between the first report and the last."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "tf_segformer", "predict", *options, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        times = [time.perf_counter() for _ in process.stdout]
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return time.perf_counter() - began, (times[-1] - times[0]) / (len(times) - 1)


def other_pixels(folder: Path, other: Path) -> float:
    """Fraction of the pixels in which the class maps of two folders differ; stops where they are too many."""
    masks = sorted(folder.glob("*_mask.png"))
    pairs = [(np.asarray(Image.open(path)), np.asarray(Image.open(other / path.name))) for path in masks]
    found = float(np.mean([np.mean(one != another) for one, another in pairs]))
    if not found <= MOST_OTHER_PIXELS:
        raise SystemExit(f"{other.name}: {found:.2%} of the pixels have another class than those of {folder.name}")
    return found


if __name__ == "__main__":
    main()
