"""What engines load: the weights, drawn once, and the files exported from them; each made in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.harness.case import Case, Engine, Peer

_INITIALIZER_RANGE = 0.1  # of Hugging Face's 0.02 the logits come out nearly constant, and any two engines agree
IMAGES, _IMAGE_SIZES = 16, ((1024, 768), (683, 512), (768, 1024))  # (width, height)


def _weights(case: Case) -> None:
    """Random weights as a Hugging Face folder; biases and norms are random too, so that a lost one is seen."""
    from tf_segformer import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig.from_variant(case.variant, num_labels=case.classes, initializer_range=_INITIALIZER_RANGE)
    model = SegformerForSemanticSegmentation(config)
    rng = np.random.default_rng(2)
    for variable in model.weights:
        if len(variable.shape) == 1:
            center = 1.0 if variable.path.endswith(("gamma", "moving_variance")) else 0.0
            variable.assign(center + 0.2 * rng.uniform(-1, 1, variable.shape))
        else:
            variable.assign(_INITIALIZER_RANGE * rng.standard_normal(variable.shape))
    model.save_pretrained(case.weights)


def _hugging_face_onnx(case: Case) -> None:
    """Hugging Face's PyTorch model as ONNX at a fixed size.

    By the exporter of TorchScript: that of torch.export needs onnxscript, and its file took the same time in
    onnxruntime and in OpenVINO.
    """
    import torch
    from transformers import SegformerForSemanticSegmentation

    class Logits(torch.nn.Module):
        """The model with a tensor as its output."""

        def __init__(self, model: torch.nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            return self.model(pixel_values=pixel_values).logits

    model = SegformerForSemanticSegmentation.from_pretrained(case.weights).eval()
    images = torch.tensor(case.pixel_values()).permute(0, 3, 1, 2).contiguous()  # (B, 3, H, W)
    with torch.no_grad():
        torch.onnx.export(
            Logits(model),
            (images,),
            case.export("hugging-face.onnx"),
            input_names=["pixel_values"],
            output_names=["logits"],
            dynamo=False,
        )


def _onnx(case: Case) -> None:
    """This project's ONNX export."""
    from tf_segformer import SegformerForSemanticSegmentation
    from tf_segformer.deploy.onnx.export import export_onnx

    folder = case.export("onnx-folder")
    model = SegformerForSemanticSegmentation.from_pretrained(case.weights)
    export_onnx(model, folder).rename(case.export("ours.onnx"))


def _saved_model(case: Case) -> None:
    """This project's SavedModel."""
    from tf_segformer import SegformerForSemanticSegmentation, export_saved_model

    model = SegformerForSemanticSegmentation.from_pretrained(case.weights)
    export_saved_model(model, case.export("saved-model"))


def _images(case: Case) -> None:
    """A folder of JPEG files of smooth random colors, as large as a small photograph."""
    from PIL import Image

    folder = case.export("images")
    folder.mkdir()
    rng = np.random.default_rng(3)
    for index in range(IMAGES):
        width, height = _IMAGE_SIZES[index % len(_IMAGE_SIZES)]
        colors = rng.integers(0, 256, (height // 32, width // 32, 3), dtype=np.uint8)
        image = Image.fromarray(colors).resize((width, height), Image.Resampling.BICUBIC)
        image.save(folder / f"{index:03}.jpg", quality=90)


def _made_by(make: Callable[[Case], None], *imports: str, of: tuple[str, ...] = ("weights",)) -> Peer:
    """An entry of the table: loading it makes the file, and there is nothing to run."""

    def load(case: Case) -> Engine:
        Path(case.folder).mkdir(parents=True, exist_ok=True)
        make(case)
        return Engine(run=lambda: None, output=lambda: np.empty(0))

    return Peer(make.__name__, imports, load, artifacts=of)


PEERS = {
    "weights": _made_by(_weights, "tensorflow", of=()),
    "hugging-face.onnx": _made_by(_hugging_face_onnx, "torch", "transformers", "onnx"),
    "ours.onnx": _made_by(_onnx, "tensorflow", "onnx"),
    "saved-model": _made_by(_saved_model, "tensorflow"),
    "images": _made_by(_images, "PIL", of=()),
}
