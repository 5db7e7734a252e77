"""Engines of `benchmarks.gpu`: from decoded images to class maps, and training steps, on a GPU or else the CPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.harness.case import Case, Engine
from benchmarks.harness.memory import peak_bytes

PRECISIONS = ("float32", "tf32", "bfloat16")
_RATE, _WEIGHT_DECAY = 6e-5, 0.01  # the paper's
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def ours(backend: str, torch_compile: str | None = None) -> Callable[[Case], Engine]:
    """This project's function from images to class maps on a backend of Keras."""

    def load(case: Case) -> Engine:
        model, images = _keras_model(backend, case, "bfloat16"), case.images()
        from tf_segformer import SegformerImageProcessor
        from tf_segformer.inference.on_device import class_map_function

        run = class_map_function(model, SegformerImageProcessor(), torch_compile=torch_compile)

        def segment() -> np.ndarray:
            return run(images, (case.height, case.width))[0]

        return Engine(run=lambda: len(segment()), output=segment, peak=_peak_of(backend))

    return load


def ours_training(backend: str, jit_compile: bool) -> Callable[[Case], Engine]:
    """Keras' training step with this project's loss on a backend of Keras."""

    def load(case: Case) -> Engine:
        model = _keras_model(backend, case, "mixed_bfloat16")
        import keras

        from tf_segformer.training.losses import SegmentationLoss

        optimizer = keras.optimizers.AdamW(_RATE, weight_decay=_WEIGHT_DECAY)
        model.compile(optimizer, loss=SegmentationLoss(), jit_compile=jit_compile)
        pixel_values, labels = case.pixel_values(), case.labels()
        return Engine(
            run=lambda: float(model.train_on_batch(pixel_values, labels)),
            output=lambda: np.asarray(model.predict_on_batch(pixel_values), np.float32),
            peak=_peak_of(backend),
        )

    return load


def transformers(torch_compile: str | None = None) -> Callable[[Case], Engine]:
    """Hugging Face's PyTorch model with preparation and class map on the device too; compiled as a whole, or eager."""

    def load(case: Case) -> Engine:
        import torch

        model, device = _transformers_model(case)
        dtype = torch.bfloat16 if case.precision == "bfloat16" else torch.float32
        model = model.to(dtype)
        mean, std = (torch.tensor(each, device=device)[:, None, None] for each in (_MEAN, _STD))
        images = case.images()

        def to_class_map(images: Any) -> Any:
            pixel_values = (images.permute(0, 3, 1, 2) / 255 - mean) / std
            logits = model(pixel_values=pixel_values.to(dtype)).logits.float()
            resized = torch.nn.functional.interpolate(logits, size=images.shape[1:3], mode="bilinear")
            return resized.argmax(1).to(torch.uint8)

        run = to_class_map if torch_compile is None else torch.compile(to_class_map, mode=torch_compile)

        def segment() -> np.ndarray:
            with torch.inference_mode():
                return run(torch.from_numpy(images).to(device)).cpu().numpy()

        return Engine(run=lambda: len(segment()), output=segment, peak=_peak_of("torch"))

    return load


def transformers_training(torch_compile: str | None = None) -> Callable[[Case], Engine]:
    """PyTorch's training loop over Hugging Face's model, in bfloat16 by autocast."""

    def load(case: Case) -> Engine:
        import torch

        model, device = _transformers_model(case)
        optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=_WEIGHT_DECAY)
        forward = model if torch_compile is None else torch.compile(model, mode=torch_compile)
        pixel_values, labels = torch.from_numpy(case.channels_first()), torch.tensor(case.labels()).long()
        mixed = torch.autocast(device, torch.bfloat16, enabled=case.precision == "bfloat16")

        def step() -> float:
            model.train()
            optimizer.zero_grad()
            with mixed:
                loss = forward(pixel_values=pixel_values.to(device), labels=labels.to(device)).loss
            loss.backward()
            optimizer.step()
            return float(loss.detach())

        def output() -> np.ndarray:
            with torch.inference_mode(), mixed:
                logits = model.eval()(pixel_values=pixel_values.to(device)).logits
            return logits.float().cpu().numpy().transpose(0, 2, 3, 1)

        return Engine(run=step, output=output, peak=_peak_of("torch"))

    return load


def _keras_model(backend: str, case: Case, half: str) -> Any:
    """The model of the case's weights on a backend, which is chosen before Keras is imported."""
    os.environ["KERAS_BACKEND"] = backend
    _set_precision(backend, case.precision)
    from tf_segformer import SegformerForSemanticSegmentation

    dtype = half if case.precision == "bfloat16" else None
    return SegformerForSemanticSegmentation.from_pretrained(case.weights, dtype=dtype)


def _transformers_model(case: Case) -> tuple[Any, str]:
    """The same in PyTorch, and the device that it is on."""
    import torch
    from transformers import SegformerForSemanticSegmentation

    _set_precision("torch", case.precision)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return SegformerForSemanticSegmentation.from_pretrained(case.weights).eval().to(device), device


def _set_precision(backend: str, precision: str) -> None:
    """Whether products of float32 may run in TensorFloat32, which the frameworks allow by default in some places."""
    reduced = precision == "tf32"
    if backend == "jax":
        import jax

        jax.config.update("jax_default_matmul_precision", "tensorfloat32" if reduced else "float32")
    elif backend == "torch":
        import torch

        torch.set_float32_matmul_precision("high" if reduced else "highest")
        torch.backends.cudnn.allow_tf32 = reduced
    else:
        import tensorflow as tf

        tf.config.experimental.enable_tensor_float_32_execution(reduced)


def _peak_of(backend: str) -> Callable[[], float]:
    """The largest memory that a framework held on the GPU; that of the process where there is none."""
    if backend == "jax":
        import jax

        statistics = jax.local_devices()[0].memory_stats
        return lambda: float(statistics()["peak_bytes_in_use"]) if statistics() else peak_bytes()
    if backend == "torch":
        import torch

        return (lambda: float(torch.cuda.max_memory_allocated())) if torch.cuda.is_available() else peak_bytes
    import tensorflow as tf

    if not tf.config.list_logical_devices("GPU"):
        return peak_bytes
    return lambda: float(tf.config.experimental.get_memory_info("GPU:0")["peak"])
