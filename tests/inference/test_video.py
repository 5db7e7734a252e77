"""A video of any length is segmented in steady memory."""

from __future__ import annotations

import os
import sys

import keras
import numpy as np
import pytest

from benchmarks.harness.memory import resident_bytes
from tf_segformer.imaging.processor import SegformerImageProcessor
from tf_segformer.inference.predictor import SegmentationPredictor
from tf_segformer.inference.video import read_frames, segment_video

FRAMES, HEIGHT, WIDTH = 400, 240, 320


@pytest.fixture
def street(tmp_path):
    """A video of moving noise."""
    av = pytest.importorskip("av")
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    with av.open(str(tmp_path / "street.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for index in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(np.roll(pixels, 3 * index, axis=1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return tmp_path / "street.mp4"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc is read")
def test_memory_of_the_second_half_of_a_video_is_that_of_the_first(street, tmp_path):
    model = keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(3, 4, strides=4)])
    predictor = SegmentationPredictor(model, SegformerImageProcessor(size=64), batch_size=4, progress=False)
    memory = []
    result = segment_video(
        predictor, street, overlay=tmp_path / "overlay.mp4", classes=tmp_path / "classes.mkv",
        progress=lambda done, total: memory.append(resident_bytes(os.getpid())),
    )  # fmt: skip
    assert result.details["frames"] == len(memory) == FRAMES
    grown = max(memory[FRAMES // 2 :]) - max(memory[: FRAMES // 2])
    assert grown < 20 * HEIGHT * WIDTH * 3  # 200 frames would be ten times as much
    assert sum(1 for _ in read_frames(tmp_path / "classes.mkv", "gray")) == FRAMES
