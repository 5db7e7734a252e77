"""A tiny random checkpoint and images of several sizes, some of them broken."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from PIL import Image

from tf_segformer.configuration import SegformerConfig
from tf_segformer.imaging.processor import SegformerImageProcessor
from tf_segformer.modeling.models import SegformerForSemanticSegmentation

SIZES = ((40, 30), (30, 40), (64, 64))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Gives the folder of a tiny checkpoint of a seed."""

    def make(seed: int = 0):
        keras.utils.set_random_seed(seed)
        config = SegformerConfig(
            depths=(1, 1, 1, 1),
            hidden_sizes=(4, 8, 20, 32),
            decoder_hidden_size=8,
            id2label={0: "meadow", 1: "sky", 2: "house"},
            initializer_range=0.3,
        )
        folder = tmp_path_factory.mktemp("checkpoint")
        SegformerForSemanticSegmentation(config).save_pretrained(folder)
        SegformerImageProcessor(size=64).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def write_images():
    """Writes images of three sizes into a folder; those of the numbers in `broken` are cut short."""

    def write(folder, count: int, broken=()):
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            colors = np.random.default_rng(number).integers(0, 256, (4, 5, 3), dtype=np.uint8)
            path = folder / f"{number:04d}.png"
            Image.fromarray(colors).resize(SIZES[number % 3], Image.Resampling.BICUBIC).save(path)
            if number in broken:
                path.write_bytes(path.read_bytes()[:60])
        return folder

    return write
