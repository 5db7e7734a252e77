"""Generated street-like scenes for the tests: four classes that color and place tell apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("sky", "ground", "house", "sun")
_COLORS = np.array([[120, 170, 230], [110, 100, 90], [190, 60, 50], [250, 220, 60]])


def make_scene(seed: int, height: int = 64, width: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """An image (H, W, 3) uint8 and its labels (H, W) uint8."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    horizon = rng.integers(height // 2, height * 3 // 4)
    labels = (rows >= horizon).astype(np.uint8)
    left, wide, tall = rng.integers(2, width // 2), rng.integers(width // 4, width // 2), rng.integers(14, 28)
    labels[(rows >= horizon - tall) & (rows < horizon) & (columns >= left) & (columns < left + wide)] = 2
    centre, radius = rng.integers(8, width - 8), rng.integers(5, 8)
    labels[(rows - 9) ** 2 + (columns - centre) ** 2 <= radius**2] = 3
    image = _COLORS[labels] + rng.normal(0, 8, (height, width, 1))
    return np.clip(image, 0, 255).astype(np.uint8), labels


def write_dataset(root: Path, train: int = 8, val: int = 2, **size: int) -> Path:
    """Writes scenes as a dataset of kind "folder"."""
    for split, count, first in (("train", train, 0), ("val", val, 1000)):
        for kind in ("images", "labels"):
            (root / split / kind).mkdir(parents=True)
        for index in range(count):
            image, labels = make_scene(first + index, **size)
            Image.fromarray(image).save(root / split / "images" / f"{index:03d}.png")
            Image.fromarray(labels).save(root / split / "labels" / f"{index:03d}.png")
    return root
