"""A raster of any size is segmented in the memory of a few windows."""

from __future__ import annotations

import tracemalloc
import warnings

import keras
import numpy as np
import pytest

from tf_segformer.errors import ImageError
from tf_segformer.imaging.processor import SegformerImageProcessor
from tf_segformer.inference.predictor import SegmentationPredictor
from tf_segformer.raster.read import _has_place, is_raster
from tf_segformer.raster.segment import segment_raster


@pytest.fixture(scope="module")
def predictor():
    model = keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(3, 4, strides=4)])
    return SegmentationPredictor(model, SegformerImageProcessor(), "slide", window=32, blend="cosine")


def _write_raster(path, pixels=None, **place):
    rasterio = pytest.importorskip("rasterio")
    if pixels is None:
        pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 48), dtype=np.uint8)
    options = {"driver": "GTiff", "height": 40, "width": 48, "count": len(pixels), "dtype": pixels.dtype}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        rpcs = place.pop("rpcs", None)
        with rasterio.open(path, "w", **options, **place) as dataset:
            dataset.write(pixels)
            if rpcs is not None:
                dataset.rpcs = rpcs
    return path


def _control_points():
    control = pytest.importorskip("rasterio.control")
    corners = [(0, 0, 400_000, 5_800_000), (0, 48, 400_024, 5_800_003), (40, 0, 400_002, 5_799_980)]
    return [control.GroundControlPoint(row, col, x, y, 12.5) for row, col, x, y in corners]


def _rpcs():
    rpc = pytest.importorskip("rasterio.rpc")
    terms = [1.0, *np.linspace(-0.1, 0.1, 19).round(4).tolist()]
    return rpc.RPC(
        height_off=100.0, height_scale=500.0, lat_off=52.0, lat_scale=0.1, line_den_coeff=terms, line_num_coeff=terms,
        line_off=20.0, line_scale=20.0, long_off=13.0, long_scale=0.1, samp_den_coeff=terms, samp_num_coeff=terms,
        samp_off=24.0, samp_scale=24.0,
    )  # fmt: skip


@pytest.mark.parametrize("place", ["points", "rpcs"])
def test_ground_control_points_and_rpc_are_kept_and_polygons_ask_for_a_transform(tmp_path, predictor, place):
    rasterio = pytest.importorskip("rasterio")
    pytest.importorskip("pyogrio")
    given = {"points": lambda: {"gcps": _control_points(), "crs": "EPSG:32633"}, "rpcs": lambda: {"rpcs": _rpcs()}}
    scene = _write_raster(tmp_path / "scene.tif", **given[place]())
    assert is_raster(scene)
    assert _has_place(scene)  # what is asked where rasterio is missing
    segment_raster(predictor, scene, tmp_path / "classes.tif", confidence=tmp_path / "confidence.tif")
    for name in ("classes", "confidence"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            with rasterio.open(scene) as source, rasterio.open(tmp_path / f"{name}.tif") as written:
                assert written.rpcs == source.rpcs
                for ours, theirs in zip(written.gcps[0], source.gcps[0], strict=True):
                    assert (ours.row, ours.col, ours.x, ours.y) == (theirs.row, theirs.col, theirs.x, theirs.y)
                assert written.gcps[1] == source.gcps[1]
                assert bool(source.gcps[0]) == (place == "points")
                assert (source.rpcs is not None) == (place == "rpcs")
    with pytest.raises(ImageError, match=r"scene\.tif: polygons need a transform.*gdalwarp"):
        segment_raster(predictor, scene, tmp_path / "other.tif", vector=tmp_path / "other.gpkg")
    assert not (tmp_path / "other.tif").exists()


def test_statistics_of_each_image_are_those_of_the_whole_raster_in_every_window(tmp_path, predictor):
    rasterio = pytest.importorskip("rasterio")
    scene = _write_raster(tmp_path / "scene.tif", crs="EPSG:32633", transform=rasterio.Affine(1, 0, 0, 0, -1, 0))
    with rasterio.open(scene, "r+") as dataset:
        pixels = np.moveaxis(dataset.read(), 0, -1) // 2
        pixels[:, 24:] += 100  # another mean than that of the left windows
        dataset.write(np.moveaxis(pixels, -1, 0))
    for own in ({"normalization": "per_image"}, {"value_percentiles": (2, 98)}):
        processor = SegformerImageProcessor(do_resize=False, **own)
        own_predictor = SegmentationPredictor(predictor.model, processor, "slide", window=32, blend="cosine")
        segment_raster(own_predictor, scene, tmp_path / "classes.tif")
        (expected,) = own_predictor([pixels])
        with rasterio.open(tmp_path / "classes.tif") as classes:
            np.testing.assert_array_equal(classes.read(1), expected.class_map)


@pytest.mark.parametrize(
    "own",
    [{}, {"normalization": "per_image"}, {"value_percentiles": (2, 98)}],
    ids=["fixed", "per image", "percentiles"],
)
def test_the_whole_raster_gives_what_an_array_of_it_gives(tmp_path, predictor, own):
    rasterio = pytest.importorskip("rasterio")
    scene = _write_raster(tmp_path / "scene.tif", crs="EPSG:32633", transform=rasterio.Affine(1, 0, 0, 0, -1, 0))
    whole = SegmentationPredictor(predictor.model, SegformerImageProcessor(**own), "whole")
    done = []
    segment_raster(
        whole, scene, tmp_path / "classes.tif", confidence=tmp_path / "confidence.tif",
        progress=lambda *rows: done.append(rows),
    )  # fmt: skip
    with rasterio.open(scene) as dataset:
        (expected,) = whole.replace(return_confidence=True)([np.moveaxis(dataset.read(), 0, -1)])
    with rasterio.open(tmp_path / "classes.tif") as classes, rasterio.open(tmp_path / "confidence.tif") as confidence:
        np.testing.assert_array_equal(classes.read(1), expected.class_map)
        np.testing.assert_array_equal(confidence.read(1), expected.confidence)
    assert done == [(40, 40)]
    assert not whole.return_confidence  # the caller's predictor stays as it was


def test_statistics_of_the_whole_are_those_of_its_valid_pixels(tmp_path, predictor):
    rasterio = pytest.importorskip("rasterio")
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(1, 0, 0, 0, -1, 0)}
    scene = _write_raster(tmp_path / "scene.tif", nodata=0, **place)
    with rasterio.open(scene, "r+") as dataset:
        pixels = np.moveaxis(dataset.read(), 0, -1).clip(1, 254)
        pixels[:, :30] = 0
        dataset.write(np.moveaxis(pixels, -1, 0))
    whole = SegmentationPredictor(
        predictor.model, SegformerImageProcessor(normalization="per_image"), "whole", return_confidence=True
    )
    segment_raster(whole, scene, tmp_path / "classes.tif", confidence=tmp_path / "confidence.tif")
    filled = pixels.copy()
    filled[:, :30] = pixels[:, 30:].mean(axis=(0, 1)).astype(np.uint8)
    (expected,) = whole.replace(processor=whole.processor.with_statistics_of(pixels[:, 30:]))([filled])
    (with_the_filled,) = whole([filled])
    with rasterio.open(tmp_path / "classes.tif") as classes, rasterio.open(tmp_path / "confidence.tif") as confidence:
        class_map, found = classes.read(1), confidence.read(1)
    assert (class_map[:, :30] == 255).all()
    np.testing.assert_array_equal(class_map[:, 30:], expected.class_map[:, 30:])
    np.testing.assert_array_equal(found[:, 30:], expected.confidence[:, 30:])
    assert np.abs(found[:, 30:] - with_the_filled.confidence[:, 30:]).max() > 0.01


@pytest.mark.parametrize(
    "own", [{}, {"normalization": "per_image"}, {"value_range": [(0, 900)]}], ids=lambda own: str(*own)
)
@pytest.mark.parametrize("mode", ["slide", "whole"])
def test_a_model_of_one_band_sees_one_band(tmp_path, own, mode):
    rasterio = pytest.importorskip("rasterio")
    pixels = np.random.default_rng(0).integers(0, 800 if "value_range" in own else 256, (40, 48), dtype=np.uint16)
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(2, 0, 0, 0, -2, 0)}
    shape = {"height": 40, "width": 48, "count": 1, "dtype": "uint16"}
    with rasterio.open(tmp_path / "scene.tif", "w", driver="GTiff", **shape, **place) as scene:
        scene.write(pixels, 1)
    model = keras.Sequential([keras.Input((None, None, 1)), keras.layers.Conv2D(3, 4, strides=4)])
    processor = SegformerImageProcessor(image_mean=[0.4], image_std=[0.2], **own)
    options = {"window": 32, "blend": "cosine"} if mode == "slide" else {}
    predictor = SegmentationPredictor(model, processor, mode, **options)
    segment_raster(predictor, tmp_path / "scene.tif", tmp_path / "classes.tif")
    (expected,) = predictor([pixels[..., None]])
    with rasterio.open(tmp_path / "classes.tif") as classes:
        np.testing.assert_array_equal(classes.read(1), expected.class_map)


def test_a_color_table_gives_its_colors_to_a_model_of_rgb_alone(tmp_path, predictor):
    rasterio = pytest.importorskip("rasterio")
    table = {0: (200, 30, 90, 255), 1: (10, 60, 250, 255), 2: (0, 0, 0, 255)}
    indices = np.random.default_rng(0).integers(0, 3, (40, 48), dtype=np.uint8)
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(2, 0, 0, 0, -2, 0)}
    options = {"driver": "GTiff", "height": 40, "width": 48, "count": 1, "dtype": "uint8", **place}
    with rasterio.open(tmp_path / "scene.tif", "w", **options) as scene:
        scene.write(indices, 1)
        scene.write_colormap(1, table)
    colors = np.array([table[index][:3] for index in range(3)], np.uint8)[indices]
    of_each_image = SegformerImageProcessor(normalization="per_image")  # by the mean of the colors, not of the indices
    sees_each = predictor.replace(processor=of_each_image)
    segment_raster(sees_each, tmp_path / "scene.tif", tmp_path / "classes.tif")
    (expected,) = sees_each([colors])
    with rasterio.open(tmp_path / "classes.tif") as classes:
        np.testing.assert_array_equal(classes.read(1), expected.class_map)
    model = keras.Sequential([keras.Input((None, None, 1)), keras.layers.Conv2D(3, 4, strides=4)])
    gray = SegmentationPredictor(model, SegformerImageProcessor(image_mean=[0.4], image_std=[0.2]), "whole")
    with pytest.raises(ImageError, match="band 1 has a color table, but the model takes 1 bands"):
        segment_raster(gray, tmp_path / "scene.tif", tmp_path / "gray.tif")


def test_values_that_mean_something_else_to_the_model_are_rejected(tmp_path, predictor):
    pixels = np.random.default_rng(0).random((3, 40, 48)).astype(np.float32)
    scene = _write_raster(tmp_path / "scene.tif", pixels, crs="EPSG:32633")
    with pytest.raises(ImageError, match=r"scene\.tif: values reach .* \(float32\), but .* is for 8-bit images"):
        segment_raster(predictor, scene, tmp_path / "classes.tif")
    counts = SegformerImageProcessor(value_type="uint16", value_range=(0, 900))
    with pytest.raises(ImageError, match=r"scene\.tif: The image holds float32, but the model was trained on uint16"):
        segment_raster(predictor.replace(processor=counts), scene, tmp_path / "classes.tif")
    np.save(tmp_path / "scene.npy", np.moveaxis(pixels, 0, -1))
    results = predictor.replace(processor=counts)([tmp_path / "scene.npy"], on_error="skip")
    assert list(results) == []  # and the images after it are segmented
    assert "scene.npy: The image holds float32" in str(results.failures[0].error)
    of_fractions = predictor.replace(processor=SegformerImageProcessor(value_type="float32", value_range=(0, 1)))
    segment_raster(of_fractions, scene, tmp_path / "classes.tif")
    _write_raster(scene, 255 * pixels * (pixels > 0.999), crs="EPSG:32633")  # most windows are all 0
    segment_raster(predictor, scene, tmp_path / "classes.tif")


def test_polygons_of_a_raster_without_a_crs_have_none_and_say_so(tmp_path, predictor):
    rasterio = pytest.importorskip("rasterio")
    pyogrio = pytest.importorskip("pyogrio.raw")
    scene = _write_raster(tmp_path / "scene.tif", transform=rasterio.Affine(2, 0, 0, 0, -2, 0))
    with pytest.warns(UserWarning, match=r"scene\.tif: has no CRS") as caught:
        segment_raster(predictor, scene, tmp_path / "classes.tif", vector=tmp_path / "scene.gpkg")
    assert len(caught) == 1
    meta, _, _, (_, _, areas) = pyogrio.read(tmp_path / "scene.gpkg")
    assert (meta["crs"], areas.sum()) == (None, 40 * 48 * 4)


def test_other_modes_and_flips_are_rejected(tmp_path, predictor):
    for options in ({"mode": "resize"}, {"mode": "multiscale"}, {"mode": "whole", "flip": True}):
        other = SegmentationPredictor(predictor.model, SegformerImageProcessor(), **options)
        with pytest.raises(ValueError, match="mode='slide' or 'whole' and without flip"):
            segment_raster(other, tmp_path / "scene.tif", tmp_path / "classes.tif")


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
