"""What is measured: one network at one size, its inputs, and where its weights and exports lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Case:
    """One network at one size; every engine of a table gets the same."""

    folder: str
    variant: str = "b0"
    height: int = 512
    width: int = 512
    classes: int = 150
    batch: int = 1
    threads: int = 2

    @property
    def weights(self) -> Path:
        """Folder of the weights as Hugging Face has them; all engines load these."""
        return Path(self.folder, f"{self.variant}-{self.classes}")

    def export(self, name: str) -> Path:
        """Place of a file made from the weights for this size."""
        return Path(self.folder, f"{self.variant}-{self.classes}-{self.batch}x{self.height}x{self.width}-{name}")

    def pixel_values(self) -> np.ndarray:
        """Images (B, H, W, 3) float32, the same in every process."""
        shape = self.batch, self.height, self.width, 3
        return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)

    def labels(self) -> np.ndarray:
        """Class maps (B, H, W) int32 of blocks of 16x16 pixels, none ignored: the TensorFlow port cannot take 255."""
        shape = self.batch, -(-self.height // 16), -(-self.width // 16)
        blocks = np.random.default_rng(1).integers(0, self.classes, shape, dtype=np.int32)
        return blocks.repeat(16, axis=1).repeat(16, axis=2)[:, : self.height, : self.width]

    def describe(self) -> str:
        """The case in words, for a heading."""
        return (
            f"{self.variant.upper()}, {self.height}x{self.width}, {self.classes} classes, batch {self.batch}, float32, "
            f"{self.threads} threads"
        )


@dataclass(frozen=True)
class Engine:
    """A network that an engine has loaded.

    Args:
        run: Does the measured work once and waits for its end.
        output: The logits (B, h, w, K) of the case's images in float32, for the check that engines agree.
    """

    run: Callable[[], Any]
    output: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Peer:
    """One way to run the network.

    Args:
        title: What tables call it.
        imports: Modules it needs, imported and timed before anything else.
        load: Makes the engine of a case.
        artifacts: What must be made from the weights first, keys of `ARTIFACTS`.
        needs_tf_port: Whether it runs in the other environment, that of the TensorFlow port of transformers.
        square_only: Whether it takes square images only.
    """

    title: str
    imports: tuple[str, ...]
    load: Callable[[Case], Engine]
    artifacts: tuple[str, ...] = ("weights",)
    needs_tf_port: bool = False
    square_only: bool = False
