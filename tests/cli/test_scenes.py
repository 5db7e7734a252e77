"""`predict` on rasters and videos: what is written keeps its place, nothing is shifted, nothing is lost silently."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tf_segformer.errors import ImageError
from tf_segformer.imaging.processor import SegformerImageProcessor
from tf_segformer.inference.predictor import SegmentationPredictor
from tf_segformer.modeling.models import SegformerForSemanticSegmentation

WINDOWS = ("--window", "48", "--stride", "24")


def _pixels(height: int, width: int) -> np.ndarray:
    small = np.random.default_rng(0).integers(0, 256, (height // 10, width // 10, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def _write_raster(path: Path, pixels: np.ndarray, **options) -> Path:
    rasterio = pytest.importorskip("rasterio")
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(0.5, 0, 400_000, 0, -0.5, 5_800_000)}
    options = {"driver": "GTiff", "height": pixels.shape[0], "width": pixels.shape[1], "count": pixels.shape[2],
               "dtype": pixels.dtype, **place, **options}  # fmt: skip
    with rasterio.open(path, "w", **options) as dataset:
        dataset.write(np.moveaxis(pixels, -1, 0))
    return path


def _predictor(folder: Path) -> SegmentationPredictor:
    model = SegformerForSemanticSegmentation.from_pretrained(folder)
    processor = SegformerImageProcessor.from_pretrained(folder)
    return SegmentationPredictor(
        model, processor, "slide", window=48, stride=24, blend="cosine", return_confidence=True
    )


def test_a_raster_gives_a_class_raster_in_its_place(run, checkpoint, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    pixels = _pixels(520, 60)  # two tiles, of 512 rows each at most
    scene = _write_raster(tmp_path / "scene.tif", pixels)
    outcome = run("predict", scene, "-m", checkpoint(), "-o", tmp_path / "out", *WINDOWS, "--confidence", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    (expected,) = _predictor(checkpoint())([pixels])
    with rasterio.open(scene) as source, rasterio.open(tmp_path / "out" / "scene_mask.tif") as mask:
        assert (mask.crs, mask.transform, mask.shape) == (source.crs, source.transform, source.shape)
        assert (mask.dtypes, mask.nodata, mask.block_shapes) == (("uint8",), 255, [(512, 512)])
        assert mask.compression.name == "deflate"
        assert mask.overviews(1) == [2, 4]
        assert mask.tags(1)["CLASS_2"] == "house"
        assert len({mask.colormap(1)[index] for index in range(3)}) == 3
        np.testing.assert_array_equal(mask.read(1), expected.class_map)
    assert "<Category>sky</Category>" in (tmp_path / "out" / "scene_mask.tif.aux.xml").read_text()
    with rasterio.open(tmp_path / "out" / "scene_confidence.tif") as confidence:
        np.testing.assert_array_equal(confidence.read(1), expected.confidence)
    printed = json.loads(outcome.out)
    assert printed["crs"] == "EPSG:32633"
    assert printed["class_fractions"] == pytest.approx(
        {name: round(fraction, 6) for name, fraction in expected.class_fractions.items()}
    )
    with Image.open(tmp_path / "out" / "scene_overlay.png") as overlay:
        assert overlay.height >= 520


def test_a_small_raster_is_segmented_as_a_whole_and_a_larger_one_through_windows(
    run, checkpoint, tmp_path, monkeypatch
):
    rasterio = pytest.importorskip("rasterio")
    monkeypatch.setattr("tf_segformer.raster.segment.WHOLE_SIDE", 120)
    model = SegformerForSemanticSegmentation.from_pretrained(checkpoint())
    processor = SegformerImageProcessor.from_pretrained(checkpoint())
    whole = SegmentationPredictor(model, processor, "whole", return_confidence=True)
    slide = SegmentationPredictor(model, processor, "slide", blend="cosine", return_confidence=True)
    for name, size, options, predictor in (
        ("crop", (110, 120), (), whole),
        ("one_more", (110, 121), (), slide),
        ("windows", (110, 120), ("--mode", "slide"), slide),
        ("asked", (110, 121), ("--mode", "whole"), whole),
    ):
        pixels = _pixels(120, 130)[: size[0], : size[1]]
        scene = _write_raster(tmp_path / f"{name}.tif", pixels)
        outcome = run("predict", scene, "-m", checkpoint(), "-o", tmp_path, "--save", "mask", "--confidence", *options)
        assert outcome.code == 0, outcome.err
        (expected,) = predictor([pixels])
        with rasterio.open(tmp_path / f"{name}_mask.tif") as mask:
            np.testing.assert_array_equal(mask.read(1), expected.class_map)
        with rasterio.open(tmp_path / f"{name}_confidence.tif") as confidence:
            np.testing.assert_array_equal(confidence.read(1), expected.confidence)


@pytest.mark.slow
@pytest.mark.parametrize("windows", [WINDOWS, ()], ids=["windows", "whole"])
def test_transparent_pixels_and_nodata_get_no_class(run, checkpoint, tmp_path, windows):
    rasterio = pytest.importorskip("rasterio")
    pixels = _pixels(120, 100)
    alpha = np.full((120, 100, 1), 255, np.uint8)
    alpha[:, 60:] = 0
    transparent = _write_raster(
        tmp_path / "alpha.tif", np.concatenate([pixels, alpha], -1), photometric="RGB", alpha="NON-PREMULTIPLIED"
    )
    dark = pixels.copy()
    dark[:, 60:] = 201
    dark[:, :60] = np.minimum(dark[:, :60], 200)
    nodata = _write_raster(tmp_path / "nodata.tif", dark, nodata=201)
    arguments = ("-m", checkpoint(), "-o", tmp_path / "out", "--save", "mask", *windows)
    assert run("predict", transparent, nodata, *arguments).code == 0
    for name, value in (("alpha", 255), ("nodata", 201)):
        with rasterio.open(tmp_path / "out" / f"{name}_mask.tif") as mask:
            classes = mask.read(1)
            assert mask.nodata == value
        assert (classes[:, 60:] == value).all()
        assert (classes[:, :60] < 3).all()


@pytest.mark.slow
@pytest.mark.parametrize("windows", [WINDOWS, ()], ids=["windows", "whole"])
def test_a_raster_of_nodata_alone_has_no_class_and_no_polygon(run, checkpoint, tmp_path, windows):
    rasterio = pytest.importorskip("rasterio")
    pytest.importorskip("pyogrio")
    scene = _write_raster(tmp_path / "empty.tif", np.full((60, 70, 3), 9, np.uint8), nodata=9)
    arguments = ("-m", checkpoint(), "-o", tmp_path / "out", "--vector", "geojson", "--json", *windows)
    outcome = run("predict", scene, *arguments)
    assert outcome.code == 0, outcome.err
    printed = json.loads(outcome.out)
    assert (printed["class_fractions"], printed["classified"], printed["polygons"]) == ({}, 0, 0)
    with rasterio.open(tmp_path / "out" / "empty_mask.tif") as mask:
        assert (mask.read(1) == mask.nodata).all()


def test_polygons_without_the_extra_are_named_before_the_work(run, checkpoint, tmp_path, monkeypatch):
    scene = _write_raster(tmp_path / "scene.tif", _pixels(60, 60))
    monkeypatch.setattr("tf_segformer.raster.vector.find_spec", lambda name: None)
    outcome = run("predict", scene, "-m", checkpoint(), "-o", tmp_path / "out", "--vector", "gpkg")
    assert outcome.code == 2
    assert "pip install 'tf_segformer[geo]'" in outcome.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_polygons_have_class_name_and_area(run, checkpoint, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    pyogrio = pytest.importorskip("pyogrio.raw")
    scene = _write_raster(tmp_path / "scene.tif", _pixels(100, 120))
    for kind in ("gpkg", "geojson"):
        arguments = ("-m", checkpoint(), "-o", tmp_path / kind, "--save", "mask", "--vector", kind, *WINDOWS)
        assert run("predict", scene, *arguments).code == 0
        meta, _, geometries, (classes, names, areas) = pyogrio.read(tmp_path / kind / f"scene.{kind}")
        with rasterio.open(tmp_path / kind / "scene_mask.tif") as mask:
            counts = np.bincount(mask.read(1).ravel(), minlength=3)
        assert meta["crs"] == {"gpkg": "EPSG:32633", "geojson": "EPSG:4326"}[kind]
        assert len(geometries) == len(classes)
        for index, name in enumerate(("meadow", "sky", "house")):
            assert set(names[classes == index]) <= {name}
            assert areas[classes == index].sum() == pytest.approx(counts[index] * 0.25)


@pytest.mark.slow
def test_a_mosaic_is_read_through_its_vrt(run, checkpoint, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    pixels = _pixels(100, 160)
    whole = _write_raster(tmp_path / "whole.tif", pixels)
    sources = ""
    for part, left in (("left", 0), ("right", 80)):
        _write_raster(tmp_path / f"{part}.tif", pixels[:, left : left + 80])
        sources += (
            f'<SimpleSource><SourceFilename relativeToVRT="1">{part}.tif</SourceFilename><SourceBand>BAND</SourceBand>'
            f'<SrcRect xOff="0" yOff="0" xSize="80" ySize="100"/>'
            f'<DstRect xOff="{left}" yOff="0" xSize="80" ySize="100"/></SimpleSource>'
        )
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{band}">{sources.replace("BAND", str(band))}</VRTRasterBand>'
        for band in (1, 2, 3)
    )
    mosaic = tmp_path / "mosaic.vrt"
    mosaic.write_text(
        '<VRTDataset rasterXSize="160" rasterYSize="100"><SRS>EPSG:32633</SRS>'
        f"<GeoTransform>400000,0.5,0,5800000,0,-0.5</GeoTransform>{bands}</VRTDataset>"
    )
    outcome = run("predict", whole, mosaic, "-m", checkpoint(), "-o", tmp_path / "out", "--save", "mask", *WINDOWS)
    assert outcome.code == 0, outcome.err
    assert [line.partition(":")[0] for line in outcome.out.splitlines()[:2]] == [str(whole), str(mosaic)]
    assert outcome.out.splitlines()[2:] == [f"wrote 2 files to {tmp_path / 'out'}"]
    with (
        rasterio.open(tmp_path / "out" / "whole_mask.tif") as one,
        rasterio.open(tmp_path / "out" / "mosaic_mask.tif") as other,
    ):
        assert one.transform == other.transform
        np.testing.assert_array_equal(one.read(1), other.read(1))
    (tmp_path / "right.tif").unlink()
    outcome = run("predict", mosaic, "-m", checkpoint(), "-o", tmp_path / "hole", *WINDOWS)
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    assert "mosaic.vrt: cannot be read at rows 0 to" in outcome.err
    assert "right.tif: No such file" in outcome.err


def test_rasters_of_the_same_options_share_a_predictor(checkpoint, tmp_path):
    """Each had a graph of its own, which takes seconds to trace."""
    from tf_segformer.cli.predict import _predictors_of_scenes

    model = SegformerForSemanticSegmentation.from_pretrained(checkpoint())
    options = dict.fromkeys(("mode", "window", "stride", "blend"))
    make = _predictors_of_scenes(model, SegformerImageProcessor(), options)
    first, second = (make("raster", _write_raster(tmp_path / name, _pixels(60, 60))) for name in ("a.tif", "b.tif"))
    assert first is second
    assert make("raster", _write_raster(tmp_path / "large.tif", np.zeros((1, 3000, 3), np.uint8))).mode == "slide"


@pytest.mark.slow
def test_jpeg_2000_keeps_its_place(run, checkpoint, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    scene = _write_raster(tmp_path / "scene.jp2", _pixels(100, 120), driver="JP2OpenJPEG")
    assert run("predict", scene, "-m", checkpoint(), "-o", tmp_path / "out", "--save", "mask", *WINDOWS).code == 0
    with rasterio.open(tmp_path / "out" / "scene_mask.tif") as mask:
        assert (mask.crs.to_epsg(), mask.transform.c, mask.shape) == (32633, 400_000, (100, 120))


@pytest.mark.parametrize("suffix", [".tif", ".jp2"])
def test_without_the_extra_a_raster_is_never_written_without_its_place(run, checkpoint, tmp_path, monkeypatch, suffix):
    driver = {".tif": "GTiff", ".jp2": "JP2OpenJPEG"}[suffix]
    scene = _write_raster(tmp_path / f"scene{suffix}", _pixels(100, 120), driver=driver)
    monkeypatch.setattr("tf_segformer.raster.read.find_spec", lambda name: None)
    outcome = run("predict", scene, "-m", checkpoint(), "-o", tmp_path / "out")
    assert outcome.code == 2
    assert len(outcome.err.splitlines()) == 1
    assert "pip install 'tf_segformer[geo]'" in outcome.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_wrong_bands_and_values_are_named(run, checkpoint, tmp_path):
    four = _write_raster(tmp_path / "four.tif", np.repeat(_pixels(60, 60)[..., :1], 4, -1), photometric="MINISBLACK")
    outcome = run("predict", four, "-m", checkpoint(), "-o", tmp_path / "out")
    assert outcome.code == 2
    assert "--bands 1,2,3" in outcome.err
    assert run("predict", four, "-m", checkpoint(), "-o", tmp_path / "out", "--bands", "4,2,1").code == 0
    deep = _write_raster(tmp_path / "deep.tif", _pixels(60, 60).astype(np.uint16) * 10)
    outcome = run("predict", deep, "-m", checkpoint(), "-o", tmp_path / "deep")
    assert outcome.code == 2
    assert "8-bit" in outcome.err
    assert not list((tmp_path / "deep").glob("*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [(("--mode", "resize"), "resize is not"), (("--flip",), "--flip"), (("--save", "logits"), "--save logits")],
    ids=str,
)
def test_options_that_rasters_would_ignore_are_rejected(run, checkpoint, tmp_path, options, message):
    scene = _write_raster(tmp_path / "scene.tif", _pixels(60, 60))
    outcome = run("predict", scene, "-m", checkpoint(), "-o", tmp_path / "out", *options)
    assert outcome.code == 2
    assert message in outcome.err


def test_options_of_rasters_are_rejected_for_photographs(run, checkpoint, image, tmp_path):
    outcome = run("predict", image(tmp_path / "a.png"), "-m", checkpoint(), "-o", tmp_path / "out", "--confidence")
    assert outcome.code == 2
    assert "a.png" in outcome.err


def test_options_of_rasters_are_rejected_for_classification(run, checkpoint, tmp_path):
    scene = _write_raster(tmp_path / "scene.tif", _pixels(60, 60))
    outcome = run("predict", scene, "-m", checkpoint("classification"), "-o", tmp_path / "out", "--confidence")
    assert outcome.code == 2
    assert "--confidence is for segmentation" in outcome.err


@pytest.mark.slow
def test_a_video_needs_a_model_of_three_channels(tmp_path, small_config):
    pytest.importorskip("av")
    from tf_segformer.inference.video import segment_video

    path = _write_video(tmp_path / "street.mkv", np.stack([_pixels(50, 70)]))
    model = SegformerForSemanticSegmentation(small_config.replace(num_channels=5))
    with pytest.raises(ImageError, match="3 channels, the model takes 5"):
        segment_video(SegmentationPredictor(model, SegformerImageProcessor()), path)


def test_world_file_of_a_photograph_is_kept(run, checkpoint, image, tmp_path):
    photo = image(tmp_path / "photo.jpg")
    (tmp_path / "photo.jgw").write_text("0.5\n0\n0\n-0.5\n400000\n5800000\n")
    assert run("predict", photo, "-m", checkpoint(), "-o", tmp_path / "out", "--save", "mask").code == 0
    assert (tmp_path / "out" / "photo_mask.pgw").read_text() == (tmp_path / "photo.jgw").read_text()


def _write_video(path: Path, frames: np.ndarray, codec: str = "ffv1", layout: str = "bgr0", **options) -> Path:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, **options)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], layout
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.slow
def test_a_video_gives_an_overlay_and_the_class_map_of_each_frame(run, checkpoint, tmp_path):
    av = pytest.importorskip("av")
    from tf_segformer.inference.video import read_frames

    frames = np.stack([np.roll(_pixels(51, 71), 5 * index, axis=1) for index in range(3)])
    path = _write_video(tmp_path / "street.mkv", frames)
    outcome = run("predict", path, "-m", checkpoint(), "-o", tmp_path / "out", "--json", "--batch-size", "2")
    assert outcome.code == 0, outcome.err
    assert "3 frames" in outcome.err
    assert "images per second" in outcome.err
    model = SegformerForSemanticSegmentation.from_pretrained(checkpoint())
    predictor = SegmentationPredictor(model, SegformerImageProcessor.from_pretrained(checkpoint()), progress=False)
    expected = [result.class_map for result in predictor(iter(frames))]
    np.testing.assert_array_equal(list(read_frames(tmp_path / "out" / "street_mask.mkv", "gray")), expected)
    with av.open(str(tmp_path / "out" / "street_overlay.mp4")) as overlay:
        times = [float(frame.time) for frame in overlay.decode(video=0)]
        assert (overlay.streams.video[0].height, overlay.streams.video[0].width) == (52, 72)
    np.testing.assert_allclose(times, [0, 0.1, 0.2], atol=1e-3)
    assert json.loads(outcome.out)["frames"] == 3


@pytest.mark.slow
def test_a_video_of_a_telephone_is_turned_upright(run, checkpoint, tmp_path):
    pytest.importorskip("av")
    from tf_segformer.inference.video import read_frames

    frames = np.stack([_pixels(48, 72)] * 2)
    path = _write_video(tmp_path / "lying.mp4", frames, codec="libx264rgb", layout="rgb24", options={"qp": "0"})
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 44  # the display matrix of version 0: x and y for each of x, y and the origin
    content[start : start + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 48 << 16, 0, 1 << 30)
    (tmp_path / "upright.mp4").write_bytes(content)
    for frame in read_frames(tmp_path / "upright.mp4"):
        np.testing.assert_array_equal(frame, np.rot90(frames[0], -1))
    outcome = run("predict", tmp_path / "upright.mp4", "-m", checkpoint(), "-o", tmp_path / "out", "--save", "mask")
    assert outcome.code == 0, outcome.err
    assert [each.shape for each in read_frames(tmp_path / "out" / "upright_mask.mkv", "gray")] == [(72, 48)] * 2


def test_without_the_extra_a_video_names_it(run, checkpoint, tmp_path, monkeypatch):
    (tmp_path / "street.mp4").write_bytes(b"video")
    monkeypatch.setattr("tf_segformer.inference.video.find_spec", lambda name: None)
    outcome = run("predict", tmp_path / "street.mp4", "-m", checkpoint(), "-o", tmp_path / "out")
    assert outcome.code == 2
    assert "pip install 'tf_segformer[video]'" in outcome.err


def test_a_damaged_raster_or_video_is_one_line(run, checkpoint, tmp_path):
    pytest.importorskip("av")
    for name in ("street.mp4", "mosaic.vrt"):
        pytest.importorskip("rasterio")
        (tmp_path / name).write_bytes(b"nothing")
        outcome = run("predict", tmp_path / name, "-m", checkpoint(), "-o", tmp_path / "out")
        assert outcome.code == 2
        assert name in outcome.err
        assert len(outcome.err.splitlines()) == 1


@pytest.mark.slow
def test_blend_weights_the_windows_of_images_and_needs_windows(run, checkpoint, tmp_path):
    Image.fromarray(_pixels(90, 100)).save(tmp_path / "a.png")
    maps = {}
    for blend in ("mean", "cosine"):
        arguments = ("-m", checkpoint(), "-o", tmp_path / blend, "--save", "mask", "--mode", "slide", *WINDOWS)
        assert run("predict", tmp_path / "a.png", *arguments, "--blend", blend).code == 0
        with Image.open(tmp_path / blend / "a_mask.png") as mask:
            maps[blend] = np.asarray(mask)
    (expected,) = _predictor(checkpoint())([tmp_path / "a.png"])
    np.testing.assert_array_equal(maps["cosine"], expected.class_map)
    assert (maps["cosine"] != maps["mean"]).any()
    outcome = run("predict", tmp_path / "a.png", "-m", checkpoint(), "--blend", "cosine")
    assert outcome.code == 2
    assert "needs mode='slide'" in outcome.err
