"""The overlay of a raster: what has no class is blank, the legend counts the rest."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tf_segformer.imaging.labels import palette_for
from tf_segformer.raster.overlay import raster_overlay
from tf_segformer.raster.write import class_raster


@pytest.mark.parametrize(("dtype", "nodata"), [("uint8", 0), ("uint16", 7), ("float32", -9999.0)])
def test_pixels_without_a_class_are_white_and_the_others_painted(tmp_path, dtype, nodata):
    rasterio = pytest.importorskip("rasterio")
    pixels = np.random.default_rng(0).integers(50, 200, (3, 300, 320)).astype(dtype)
    pixels[:, :, 200:] = nodata
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(0.5, 0, 400_000, 0, -0.5, 5_800_000)}
    with rasterio.open(
        tmp_path / "scene.tif", "w", driver="GTiff", height=300, width=320, count=3, dtype=dtype, nodata=nodata, **place
    ) as scene:
        scene.write(pixels)
    names = ["soil", "crop"]
    class_map = np.zeros((300, 320), np.uint8)
    class_map[:90] = 1
    with (
        rasterio.open(tmp_path / "scene.tif") as scene,
        class_raster(tmp_path / "classes.tif", scene, names, palette_for(names)) as (rows, without),
    ):
        class_map[:, 200:] = without
        rows.write(class_map)
    raster_overlay(
        tmp_path / "scene.tif", tmp_path / "classes.tif", tmp_path / "o.png", {0: "soil", 1: "crop"}, alpha=1
    )
    with Image.open(tmp_path / "o.png") as overlay:
        painted = np.asarray(overlay)
    assert (painted[:, 200:320] == 255).all()
    np.testing.assert_array_equal(painted[:, :200], palette_for(names)[class_map[:, :200]])
