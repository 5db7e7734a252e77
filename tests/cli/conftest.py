"""Tiny random checkpoints, images, and a way to run the command line inside this process."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pytest
from PIL import Image

from tf_segformer import cli
from tf_segformer.configuration import SegformerConfig
from tf_segformer.imaging.processor import SegformerImageProcessor
from tf_segformer.modeling.models import (
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerModel,
)

LABELS = {0: "meadow", 1: "sky", 2: "house"}
CLASSES = {
    "segmentation": SegformerForSemanticSegmentation,
    "classification": SegformerForImageClassification,
    "encoder": SegformerModel,
}


class Outcome(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch, capfd):
    """Runs `tf-segformer ARGUMENTS` and gives exit code, standard output and standard error (native code's, too)."""

    def run_command(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["tf-segformer", *map(str, arguments)])
        monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # main's does not outlive the test
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capfd.readouterr()
        return Outcome(stopped.value.code or 0, captured.out, captured.err)

    return run_command


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Gives the folder of a tiny random checkpoint of one task."""
    folders: dict[str, Path] = {}

    def make(task: str = "segmentation") -> Path:
        if task not in folders:
            keras.utils.set_random_seed(0)
            config = SegformerConfig(
                depths=(1, 1, 1, 1),
                hidden_sizes=(4, 8, 20, 32),
                decoder_hidden_size=8,
                id2label=LABELS,
                initializer_range=0.3,
            )
            folders[task] = tmp_path_factory.mktemp(task)
            CLASSES[task](config).save_pretrained(folders[task])
            SegformerImageProcessor(size=64).save_pretrained(folders[task])
        return folders[task]

    return make


@pytest.fixture
def image():
    """Writes a small image of smooth colors."""

    def write(path: Path, seed: int = 0, size: tuple[int, int] = (70, 50)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        colors = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
        Image.fromarray(colors).resize(size, Image.Resampling.BICUBIC).save(path)
        return path

    return write
