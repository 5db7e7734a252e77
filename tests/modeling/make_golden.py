"""Writes the small checkpoints and their outputs that the fast tests compare with.

Run by hand where transformers and torch are installed: `python tests/modeling/make_golden.py`. The checkpoints are
random, biases and batch norm statistics included, and come from transformers' own `save_pretrained`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "golden"
SIZES = ((64, 96), (97, 131), (33, 40))

SMALL = {
    "depths": [1, 2, 1, 1],
    "hidden_sizes": [8, 16, 24, 32],
    "num_attention_heads": [1, 2, 3, 4],
    "decoder_hidden_size": 24,
    "num_labels": 7,
}
THREE_STAGES = {
    "num_encoder_blocks": 3,
    "num_channels": 4,
    "depths": [1, 1, 2],
    "sr_ratios": [4, 2, 1],
    "hidden_sizes": [8, 12, 20],
    "patch_sizes": [7, 3, 3],
    "strides": [4, 2, 2],
    "num_attention_heads": [1, 3, 5],
    "mlp_ratios": [2, 3, 4],
    "decoder_hidden_size": 16,
    "num_labels": 5,
}
CHECKPOINTS = {
    "segmentation": ("SegformerForSemanticSegmentation", SMALL),
    "classification": ("SegformerForImageClassification", SMALL),
    "three_stages": ("SegformerForSemanticSegmentation", THREE_STAGES),
}


def randomize(model) -> None:
    """Draws every tensor so that each matters: no bias is 0, no scale 1, no statistic left at its start."""
    import torch

    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            if name.endswith("running_var") or ("norm" in name and name.endswith("weight")):
                tensor.uniform_(0.5, 1.5)
            elif tensor.ndim > 1:
                tensor.normal_(0, tensor[0].numel() ** -0.5)
            else:
                tensor.normal_(0, 0.1)


def random_reference(class_name: str, fields: dict, seed: int = 0):
    """A transformers model in inference mode, all of whose tensors are random."""
    import torch
    import transformers

    torch.manual_seed(seed)
    config = transformers.SegformerConfig(**fields)
    config._attn_implementation = "eager"  # the one that gives attentions
    model = getattr(transformers, class_name)(config).eval()
    randomize(model)
    return model


def image(size: tuple[int, int], channels: int) -> np.ndarray:
    """A normalized image (1, H, W, channels) of random numbers, the same in every run."""
    return np.random.default_rng(sum(size)).standard_normal((1, *size, channels)).astype("float32")


def reference_outputs(model, pixel_values: np.ndarray) -> dict[str, np.ndarray]:
    """Logits, hidden states and attentions of the reference, channels last, as flat names."""
    import torch

    with torch.no_grad():
        outputs = model(
            torch.from_numpy(pixel_values.transpose(0, 3, 1, 2).copy()),
            output_hidden_states=True,
            output_attentions=True,
        )
    arrays = {}
    if "logits" in outputs:
        arrays["logits"] = channels_last(outputs.logits.numpy())
    if "last_hidden_state" in outputs:
        arrays["last_hidden_state"] = channels_last(outputs.last_hidden_state.numpy())
    for index, state in enumerate(outputs.hidden_states):
        arrays[f"hidden_states.{index}"] = channels_last(state.numpy())
    for index, attention in enumerate(outputs.attentions):
        arrays[f"attentions.{index}"] = attention.numpy()
    return arrays


def channels_last(array: np.ndarray) -> np.ndarray:
    """(B, C, H, W) -> (B, H, W, C); class logits (B, K) stay."""
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


def main() -> None:
    """Writes every checkpoint and its golden outputs."""
    for name, (class_name, fields) in CHECKPOINTS.items():
        model = random_reference(class_name, fields)
        model.save_pretrained(FOLDER / name)
        arrays = {}
        for size in SIZES:
            outputs = reference_outputs(model, image(size, model.config.num_channels))
            keep = {key: value for key, value in outputs.items() if key == "logits" or size == SIZES[-1]}
            arrays.update({f"{size[0]}x{size[1]}.{key}": value for key, value in keep.items()})
        np.savez_compressed(FOLDER / f"{name}.npz", **arrays)


if __name__ == "__main__":
    main()
