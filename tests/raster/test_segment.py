"""A raster of any size is segmented in the memory of a few windows."""

from __future__ import annotations

import tracemalloc

import keras
import numpy as np
import pytest

from tf_segformer.imaging.processor import SegformerImageProcessor
from tf_segformer.inference.predictor import SegmentationPredictor
from tf_segformer.raster.segment import segment_raster


@pytest.mark.slow
def test_memory_does_not_grow_with_the_raster(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    model = keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(8, 4, strides=4)])
    predictor = SegmentationPredictor(model, SegformerImageProcessor(), "slide", window=256, blend="cosine")
    rows = np.random.default_rng(0).integers(0, 256, (3, 1000, 1000), dtype=np.uint8)
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(0.5, 0, 400_000, 0, -0.5, 5_800_000)}
    peaks = []
    for height in (3000, 3000, 9000):  # the first warms up
        path = tmp_path / f"{height}.tif"
        with rasterio.open(
            path, "w", driver="GTiff", height=height, width=1000, count=3, dtype="uint8", **place
        ) as new:
            for top in range(0, height, 1000):
                new.write(rows, window=((top, top + 1000), (0, 1000)))
        tracemalloc.start()
        segment_raster(predictor, path, tmp_path / "classes.tif")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.2 * peaks[1]
