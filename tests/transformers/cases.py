"""The small networks and their inputs that transformers 4.49 computed the golden numbers of; imports NumPy alone."""

from __future__ import annotations

import numpy as np

SMALL = {
    "depths": (1, 2, 1, 1),
    "hidden_sizes": (4, 8, 12, 16),
    "num_attention_heads": (1, 2, 3, 4),
    "mlp_ratios": (2, 2, 2, 2),
    "decoder_hidden_size": 12,
    "num_labels": 5,
}
WITHOUT_DROPOUT = {
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "classifier_dropout_prob": 0.0,
    "drop_path_rate": 0.0,
}
SMALLER = {
    "depths": (1, 1, 1, 1),
    "hidden_sizes": (4, 4, 8, 8),
    "num_attention_heads": (1, 1, 2, 2),
    "decoder_hidden_size": 8,
}
# name -> class without its prefix, fields of the configuration, shape of the images
CASES = {
    "segmentation": ("ForSemanticSegmentation", {}, (2, 3, 64, 96)),
    "five_channels": ("ForSemanticSegmentation", {**SMALLER, "num_channels": 5, "num_labels": 3}, (2, 5, 48, 32)),
    "classification": ("ForImageClassification", SMALLER, (3, 3, 64, 32)),
    "encoder": ("Model", SMALLER, (1, 3, 32, 64)),
}
STEPS = 10
LEARNING_RATE = 1e-3


def fields(case: str) -> dict:
    """The fields of the configuration."""
    return {**SMALL, **WITHOUT_DROPOUT, **CASES[case][1]}


def inputs(case: str) -> dict[str, np.ndarray]:
    """Images, and labels where the model takes them; every class occurs."""
    kind, _, (batch, channels, height, width) = CASES[case]
    random = np.random.default_rng(len(case))
    images = random.standard_normal((batch, channels, height, width)).astype("float32")
    if kind == "Model":
        return {"pixel_values": images}
    shape = (batch, height, width) if kind == "ForSemanticSegmentation" else (batch,)
    labels = random.integers(0, fields(case)["num_labels"], shape).astype("int32")
    return {"pixel_values": images, "labels": labels}
