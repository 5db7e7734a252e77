"""What several folders of tests compare with or start from: one bilinear resize, random weights, image files."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def bilinear(x: np.ndarray, size: tuple[int, int], positions: type = np.float64) -> np.ndarray:
    """Half-pixel bilinear interpolation of (..., H, W, C) as torch documents it, one axis after the other.

    torch computes the positions in float32, which the same precision here reproduces to the last bit; float64 is the
    mathematical definition.
    """
    for axis, target in zip((-3, -2), size, strict=True):
        source = x.shape[axis]
        scale = positions(source) / positions(target)
        position = (np.arange(target, dtype=positions) + positions(0.5)) * scale - positions(0.5)
        position = np.clip(position, 0, source - 1)
        low = np.floor(position).astype(int)
        high = np.minimum(low + 1, source - 1)
        weight = (position - low).reshape([-1] + [1] * (-1 - axis))
        x = x.take(low, axis) * (1 - weight) + x.take(high, axis) * weight
    return x


def random_weights(model, seed: int = 0):
    """Gives every weight of a built model or layer a value whose loss would be missed, and returns the model.

    A new model's biases are zeros, its norms ones: leaving them out, or swapping two, would change nothing.
    """
    random = np.random.default_rng(seed)
    for variable in model.weights:
        if "seed_generator" in variable.path:
            continue
        if len(variable.shape) == 1:
            center = 1.0 if variable.path.endswith(("gamma", "moving_variance")) else 0.0
            variable.assign(center + 0.4 * random.uniform(-1, 1, variable.shape))
        else:
            depthwise = variable.shape[-1] == 1  # (3, 3, C, 1): an output takes 9 values, not 9 C
            fan_in = np.prod(variable.shape[: -2 if depthwise else -1])
            variable.assign(random.standard_normal(variable.shape) / max(fan_in, 1) ** 0.5)
    return model


def image_file(seed: int, width: int, height: int, kind: str = "JPEG", mode: str = "RGB", **options) -> bytes:
    """The bytes of an image file of smooth random colors; `options` are Pillow's for that kind."""
    colors = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = Image.fromarray(colors).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    encoded = io.BytesIO()
    image.save(encoded, kind, **options)
    return encoded.getvalue()


def image_size(path) -> tuple[int, int]:
    """(width, height) of an image file, which is closed again."""
    with Image.open(path) as image:
        return image.size
