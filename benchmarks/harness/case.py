"""What is measured: one network at one size, its inputs and files, and the engines that run it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.memory import peak_bytes

TOLERANCE = 1e-3  # of the largest output; keras-hub's approximate GELU makes 1e-4, the others differ by rounding alone


class Skipped(Exception):
    """A peer that cannot run here, and why."""


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
    precision: str = "float32"

    @property
    def weights(self) -> Path:
        """Folder of the weights as Hugging Face has them; all engines load these."""
        return Path(self.folder, f"{self.variant}-{self.classes}")

    def export(self, name: str) -> Path:
        """Path of a file made for this network and size."""
        return Path(self.folder, f"{self.variant}-{self.classes}-{self.batch}x{self.height}x{self.width}-{name}")

    def pixel_values(self) -> np.ndarray:
        """Images (B, H, W, 3) float32, the same in every process."""
        shape = self.batch, self.height, self.width, 3
        return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)

    def images(self) -> np.ndarray:
        """Decoded images (B, H, W, 3) uint8, likewise."""
        return np.clip(118 + 58 * self.pixel_values(), 0, 255).astype(np.uint8)

    def channels_first(self) -> np.ndarray:
        """The same images as (B, 3, H, W)."""
        return np.ascontiguousarray(self.pixel_values().transpose(0, 3, 1, 2))

    def labels(self) -> np.ndarray:
        """Class maps (B, H, W) int32 of blocks of 16x16 pixels, none ignored."""
        shape = self.batch, -(-self.height // 16), -(-self.width // 16)
        blocks = np.random.default_rng(1).integers(0, self.classes, shape, dtype=np.int32)
        return blocks.repeat(16, axis=1).repeat(16, axis=2)[:, : self.height, : self.width]

    def describe(self) -> str:
        """The case in words, for a heading."""
        return (
            f"{self.variant.upper()}, {self.height}x{self.width}, {self.classes} classes, batch {self.batch}, "
            f"{self.threads} threads"
        )


@dataclass(frozen=True)
class Engine:
    """What an engine has loaded.

    Args:
        run: Does the measured work once and waits for its end; may return the loss, or seconds by part.
        output: What engines must agree in, mostly the logits (B, h, w, K) of the case's images in float32.
        peak: The largest memory so far in bytes: of the process, or of the device that computes.
    """

    run: Callable[[], Any]
    output: Callable[[], np.ndarray]
    peak: Callable[[], float] = peak_bytes


@dataclass(frozen=True)
class File:
    """A file or folder that engines load, made once for a case in a process of its own.

    Args:
        path: Where it is.
        make: Writes it; a function of a module, which that process imports by name.
        needs: Files that it is made from.
    """

    path: Callable[[Case], Path]
    make: Callable[[Case], None]
    needs: tuple[File, ...] = ()


@dataclass(frozen=True)
class Peer:
    """One way to do the measured work.

    Args:
        title: Its name in tables.
        imports: Modules it needs, imported and timed before anything else.
        load: Makes the engine of a case.
        files: What must exist first.
        tolerance: Largest difference of outputs, as a fraction of the reference's largest; None: not compared.
        square_only: Whether it takes square images only.
    """

    title: str
    imports: tuple[str, ...]
    load: Callable[[Case], Engine]
    files: tuple[File, ...] = ()
    tolerance: float | None = TOLERANCE
    square_only: bool = False
