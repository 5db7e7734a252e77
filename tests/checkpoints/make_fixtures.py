"""Writes the checkpoint files that the tests read, with the libraries that write such files for everybody.

    python make_fixtures.py torch        # PyTorch 2.13: torch_zip.pth, torch_stream.pth, torch_expected.npz
    python make_fixtures.py tensorflow   # transformers 4.49, tf-keras 2.19: tf/tf_model.h5, config.json, expected.npz

The TensorFlow SegFormer has left transformers since; its environment needs TF_USE_LEGACY_KERAS=1.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "fixtures"
CLASSES = ("sky", "road", "tree")
PALETTE = ((128, 128, 128), (128, 64, 128), (0, 128, 0))


def write_torch() -> None:
    """Two files of `torch.save` with all that a state dict may have: types, shared storages, strides, offsets."""
    import torch

    generator = torch.Generator().manual_seed(0)
    base = torch.randn(6, 8, generator=generator)
    state_dict = {
        "whole": base,
        "shared.rows": base[2:4],
        "shared.columns": base[:, 1::3],
        "transposed": base.t(),
        "half": base.half(),
        "bfloat16": base.bfloat16(),
        "double": base.double()[0],
        "counter": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(base[0].clone()),
    }
    saved = {
        "meta": {"CLASSES": CLASSES, "PALETTE": [list(color) for color in PALETTE], "epoch": 3, "loss": 0.25},
        "state_dict": {f"module.{name}": tensor for name, tensor in state_dict.items()},
    }
    torch.save(saved, FOLDER / "torch_zip.pth")
    torch.save(saved, FOLDER / "torch_stream.pth", _use_new_zipfile_serialization=False)
    expected = {name: tensor.detach().float().numpy() for name, tensor in state_dict.items()}
    np.savez_compressed(FOLDER / "torch_expected.npz", **expected)


def write_tensorflow() -> None:
    """A tf_model.h5 with the outputs that its own network gives."""
    import tensorflow as tf
    from transformers import SegformerConfig, TFSegformerForSemanticSegmentation

    config = SegformerConfig(
        num_labels=5,
        depths=[1, 2, 1, 1],
        hidden_sizes=[4, 8, 12, 16],
        num_attention_heads=[1, 2, 3, 4],
        mlp_ratios=[2, 2, 2, 2],
        decoder_hidden_size=8,
    )
    model = TFSegformerForSemanticSegmentation(config)
    random = np.random.default_rng(0)
    model(tf.zeros((1, 3, 32, 32)))
    for variable in model.variables:
        values = random.normal(0, 0.3, variable.shape)
        positive = any(each in variable.name for each in ("gamma", "moving_variance"))
        variable.assign(1 + np.abs(values) if positive else values)
    pixel_values = random.normal(size=(1, 3, 50, 67)).astype("float32")
    logits = model(pixel_values, training=False).logits.numpy()  # (B, num_labels, H/4, W/4)
    model.save_pretrained(FOLDER / "tf")
    np.savez_compressed(FOLDER / "tf" / "expected.npz", pixel_values=pixel_values, logits=logits)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    {"torch": write_torch, "tensorflow": write_tensorflow}[sys.argv[1]]()
