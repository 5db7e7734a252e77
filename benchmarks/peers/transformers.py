"""Hugging Face: its PyTorch model and the ONNX file exported from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.case import Case, Engine, File
from benchmarks.peers.ours import WEIGHTS, channels_first

IMPORTS = ("torch", "transformers", "transformers.models.segformer.modeling_segformer")
_RATE, _WEIGHT_DECAY = 6e-5, 0.01  # the paper's


def _load(case: Case) -> Any:
    import torch
    from transformers import SegformerForSemanticSegmentation

    torch.set_num_threads(case.threads)
    return SegformerForSemanticSegmentation.from_pretrained(case.weights).eval()


def inference(compile_model: bool) -> Callable[[Case], Engine]:
    """PyTorch, eager or through torch.compile with its default options."""

    def load(case: Case) -> Engine:
        import torch

        model = _load(case)
        forward = torch.compile(model) if compile_model else model

        def run(pixel_values: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return forward(pixel_values=torch.from_numpy(pixel_values)).logits.numpy()

        return channels_first(case, run)

    return load


def training(compile_model: bool) -> Callable[[Case], Engine]:
    """PyTorch's training loop, eager or through torch.compile with its default options."""

    def load(case: Case) -> Engine:
        import torch

        model = _load(case)
        optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=_WEIGHT_DECAY)
        forward = torch.compile(model) if compile_model else model
        pixel_values, labels = torch.from_numpy(case.channels_first()), torch.tensor(case.labels()).long()

        def step() -> float:
            model.train()
            optimizer.zero_grad()
            loss = forward(pixel_values=pixel_values, labels=labels).loss
            loss.backward()
            optimizer.step()
            return float(loss.detach())

        def output() -> np.ndarray:
            with torch.inference_mode():
                return model.eval()(pixel_values=pixel_values).logits.numpy().transpose(0, 2, 3, 1)

        return Engine(run=step, output=output)

    return load


def end_to_end(compile_model: bool) -> Callable[[Case], Engine]:
    """Hugging Face's processor, PyTorch model and post-processing, over the case's folder of images."""

    def load(case: Case) -> Engine:
        import torch
        from PIL import Image
        from transformers import SegformerImageProcessor

        model = _load(case)
        forward = torch.compile(model) if compile_model else model
        processor = SegformerImageProcessor(size={"height": case.height, "width": case.width})
        paths = sorted(case.export("images").glob("*.jpg"))

        def segment(path: Path) -> np.ndarray:
            image = Image.open(path).convert("RGB")
            with torch.inference_mode():
                outputs = forward(**processor(images=image, return_tensors="pt"))
                processor.post_process_semantic_segmentation(outputs, target_sizes=[image.size[::-1]])[0].numpy()
            return outputs.logits.numpy().transpose(0, 2, 3, 1)

        return Engine(
            run=lambda: sum(len(segment(path)) for path in paths),
            output=lambda: np.concatenate([segment(path) for path in paths]),
        )

    return load


def make_onnx(case: Case) -> None:
    """Hugging Face's PyTorch model as ONNX at a fixed size.

    By the exporter of TorchScript: that of torch.export needs onnxscript, and its file took the same time in
    onnxruntime and in OpenVINO.
    """
    import torch

    class Logits(torch.nn.Module):
        """The model with a tensor as its output."""

        def __init__(self, model: torch.nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            return self.model(pixel_values=pixel_values).logits

    with torch.no_grad():
        torch.onnx.export(
            Logits(_load(case)),
            (torch.from_numpy(case.channels_first()),),
            case.export("hugging-face.onnx"),
            input_names=["pixel_values"],
            output_names=["logits"],
            dynamo=False,
        )


ONNX = File(lambda case: case.export("hugging-face.onnx"), make_onnx, (WEIGHTS,))
