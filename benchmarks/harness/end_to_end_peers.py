"""This project and its peers from JPEG files to class maps of the images' own size; a run is the whole folder."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.case import Case, Engine, Peer
from benchmarks.harness.inference_peers import HUGGING_FACE_IMPORTS, OURS_IMPORTS, set_tensorflow_threads


def _paths(case: Case) -> list[Path]:
    return sorted(case.export("images").glob("*.jpg"))


def _predictor(case: Case) -> Engine:
    """SegmentationPredictor over the folder."""
    from tf_segformer import SegformerForSemanticSegmentation, SegmentationPredictor

    set_tensorflow_threads(case.threads)
    model, processor = SegformerForSemanticSegmentation.from_pretrained(case.weights), _processor(case)
    predictor = SegmentationPredictor(model, processor)
    keeping = SegmentationPredictor(model, processor, return_logits=True)
    paths = _paths(case)
    return Engine(
        run=lambda: sum(1 for _ in predictor(paths)),
        output=lambda: np.stack([np.asarray(result.logits) for result in keeping(paths)]),
    )


def _parts(case: Case) -> Engine:
    """The same work one image and one part after the other; a run tells the seconds of each part."""
    from tf_segformer import SegformerForSemanticSegmentation
    from tf_segformer.imaging.files import open_image
    from tf_segformer.imaging.postprocess import class_map_from_logits
    from tf_segformer.inference.forward import forward_function

    set_tensorflow_threads(case.threads)
    forward = forward_function(SegformerForSemanticSegmentation.from_pretrained(case.weights))
    processor, paths = _processor(case), _paths(case)

    def segment(path: Path, seconds: dict[str, float]) -> np.ndarray:
        pixels = _timed(seconds, "decode", lambda: np.asarray(open_image(path)))
        batch = _timed(seconds, "resize and normalize", lambda: processor(pixels)["pixel_values"])
        logits = _timed(seconds, "network", lambda: forward(batch))
        _timed(seconds, "class map", lambda: class_map_from_logits(logits[0], pixels.shape[:2]))
        return logits

    def run() -> dict[str, float]:
        seconds: dict[str, float] = {}
        for path in paths:
            segment(path, seconds)
        return seconds

    return Engine(run=run, output=lambda: np.concatenate([segment(path, {}) for path in paths]))


def _timed(seconds: dict[str, float], name: str, work: Callable[[], Any]) -> Any:
    """Does some work and adds what it took to a part."""
    start = time.perf_counter()
    result = work()
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
    return result


def _command(case: Case) -> Engine:
    """`tf-segformer predict FOLDER`, start-up and writing of the class maps included."""
    _processor(case).save_pretrained(case.weights)
    options = ["--model", case.weights, "--save", "mask", "--output", case.export("segmented")]
    command = [sys.executable, "-m", "tf_segformer", "predict", case.export("images"), *options]

    def run() -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    return Engine(run=run, output=lambda: np.empty(0))


def _hugging_face(compile_model: bool) -> Callable[[Case], Engine]:
    """Hugging Face's processor, PyTorch model and post-processing."""

    def load(case: Case) -> Engine:
        import torch
        from PIL import Image
        from transformers import SegformerForSemanticSegmentation, SegformerImageProcessor

        torch.set_num_threads(case.threads)
        model = SegformerForSemanticSegmentation.from_pretrained(case.weights).eval()
        forward = torch.compile(model) if compile_model else model
        processor = SegformerImageProcessor(size={"height": case.height, "width": case.width})
        paths = _paths(case)

        def segment(path: Path) -> Any:
            image = Image.open(path).convert("RGB")
            with torch.inference_mode():
                outputs = forward(**processor(images=image, return_tensors="pt"))
                processor.post_process_semantic_segmentation(outputs, target_sizes=[image.size[::-1]])[0].numpy()
            return outputs.logits.numpy().transpose(0, 2, 3, 1)

        def run() -> None:
            for path in paths:
                segment(path)

        return Engine(run=run, output=lambda: np.concatenate([segment(path) for path in paths]))

    return load


def _processor(case: Case) -> Any:
    from tf_segformer import SegformerImageProcessor

    return SegformerImageProcessor(size={"height": case.height, "width": case.width})


_FILES = ("weights", "images")
PEERS: dict[str, Peer] = {
    "ours": Peer("this project, SegmentationPredictor", OURS_IMPORTS, _predictor, _FILES),
    "parts": Peer("this project, one part after the other", OURS_IMPORTS, _parts, _FILES),
    "command": Peer("tf-segformer predict, start-up included", ("tensorflow",), _command, _FILES),
    "torch": Peer("HF PyTorch, eager", (*HUGGING_FACE_IMPORTS, "PIL"), _hugging_face(False), _FILES),
    "torch-compile": Peer("HF PyTorch, torch.compile", (*HUGGING_FACE_IMPORTS, "PIL"), _hugging_face(True), _FILES),
}
