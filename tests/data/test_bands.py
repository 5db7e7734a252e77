"""Images of any bands and values: found by their files, augmented in their own range, never cut to 8 bits."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from PIL import Image

from tests.training.scenes import NAMES, make_scene
from tf_segformer import SegformerImageProcessor
from tf_segformer.cli.check import check
from tf_segformer.data import dataset_statistics
from tf_segformer.data.augmentation import Augmentation, augment
from tf_segformer.data.check import check_dataset
from tf_segformer.data.datasets import find_dataset
from tf_segformer.data.images import read_image
from tf_segformer.data.levels import to_levels
from tf_segformer.data.pipeline import training_dataset, validation_dataset
from tf_segformer.data.splits import open_splits
from tf_segformer.data.statistics import fits, with_statistics
from tf_segformer.data.tfrecords import write_tfrecords
from tf_segformer.errors import ImageError
from tf_segformer.imaging.bands import ImageType

UNCHANGED = {"scale_range": (1.0, 1.0), "max_class_ratio": 1.0, "flip": False}
WHOLE = Augmentation((64, 64), brightness=0, contrast=0, saturation=0, hue=0, **UNCHANGED)
TIFF = {"driver": "GTiff", "width": 64, "height": 64, "count": 5, "dtype": "uint16"}
ORIGIN = {"uint8": (0, 1), "uint16": (1000, 60), "int16": (-9000, 60), "float32": (-0.5, 0.01)}


def bands_of(seed: int, dtype: str = "uint16", channels: int = 5) -> np.ndarray:
    """A scene of five bands (H, W, 5): its colors and two more, in the range of the type."""
    image, labels = make_scene(seed)
    low, step = ORIGIN[dtype]
    extra = np.stack([labels * 40, image.mean(axis=-1)], axis=-1)
    return (low + step * np.concatenate([image, extra], axis=-1)).astype(dtype)[..., :channels]


def write_bands(root, save, train=4, val=2):
    for split, count, first in (("train", train, 0), ("val", val, 1000)):
        for kind in ("images", "labels"):
            (root / split / kind).mkdir(parents=True)
        for index in range(count):
            save(root / split / "images" / f"{index:03d}", first + index)
            Image.fromarray(make_scene(first + index)[1]).save(root / split / "labels" / f"{index:03d}.png")
    return root


@pytest.fixture(params=["uint8", "uint16", "int16", "float32"])
def scenes(request, tmp_path):
    write_bands(tmp_path, lambda path, seed: np.save(f"{path}.npy", bands_of(seed, request.param)))
    return open_splits(None, tmp_path, NAMES)


def test_the_pipeline_keeps_bands_and_type_and_gives_the_processors_values(scenes, tmp_path_factory):
    train, val = scenes
    dtype = train.image_type.dtype
    assert train.image_type == ImageType(5, dtype)
    processor = with_statistics(SegformerImageProcessor(do_resize=False), dataset_statistics(train))
    expected = [processor(bands_of(seed, dtype))["pixel_values"][0] for seed in (0, 1, 2, 3)]
    shards = write_tfrecords(train, tmp_path_factory.mktemp("shards"))
    for source in (train, shards):
        assert source.image_type == train.image_type
        np.testing.assert_array_equal(next(iter(source)).read_image(), bands_of(0, dtype))
        ((pixels, labels),) = training_dataset(source, WHOLE, 4, processor=processor, last_step=1)
        assert pixels.shape == (4, 64, 64, 5) and labels.shape == (4, 64, 64)
        for image in pixels.numpy():
            assert any(np.allclose(image, each, rtol=1e-5, atol=2e-5) for each in expected)
    for seed, (image, _) in zip((1000, 1001), validation_dataset(val, processor=processor), strict=True):
        np.testing.assert_array_equal(image[0], processor(bands_of(seed, dtype))["pixel_values"][0])


def test_statistics_are_those_of_all_pixels(scenes):
    train, _ = scenes
    dtype = train.image_type.dtype
    pixels = np.concatenate([bands_of(seed, dtype).reshape(-1, 5) for seed in range(4)]).astype(np.float64)
    found = dataset_statistics(train)
    relative = {"rtol": 2e-3 if dtype == "float32" else 1e-6}
    np.testing.assert_allclose(found.mean, pixels.mean(axis=0), **relative)
    np.testing.assert_allclose(found.std, pixels.std(axis=0), **relative)
    np.testing.assert_allclose(found.low, pixels.min(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.high, pixels.max(axis=0), rtol=1e-6)
    lower, upper = (np.percentile(pixels, each, axis=0, method="lower") for each in (2, 98))
    np.testing.assert_allclose(found.percentiles, np.stack([lower, upper], axis=-1), **relative)
    processor = SegformerImageProcessor(do_resize=False, **found.processor_fields())
    assert fits(processor, train.image_type)
    values = np.concatenate([processor(bands_of(seed, dtype))["pixel_values"].reshape(-1, 5) for seed in range(4)])
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=5e-3)
    np.testing.assert_allclose(values.std(axis=0), 1, atol=5e-3)


def test_bands_distributed_as_the_checkpoint_s_rgb_keep_its_mean_and_std(scenes):
    found = dataset_statistics(scenes[0])
    near = SegformerImageProcessor(
        image_mean=list(found.unit_mean[:3]), image_std=[1.2 * each for each in found.unit_std[:3]]
    )
    kept = with_statistics(near, found)
    assert (kept.image_mean[:3], kept.image_std[:3]) == (near.image_mean, near.image_std)
    assert kept.image_std[3:] == list(found.unit_std[3:])
    far = with_statistics(SegformerImageProcessor(image_mean=[2.0] * 3), found)
    assert (far.image_mean, far.image_std) == (list(found.unit_mean), list(found.unit_std))


def test_outliers_are_clipped_and_do_not_press_the_others_together(tmp_path):
    def save(path, seed):
        image = bands_of(seed)
        image[0, 0] = 65_535
        np.save(f"{path}.npy", image)

    train, _ = open_splits(None, write_bands(tmp_path, save), NAMES)
    found = dataset_statistics(train)
    assert set(found.high) == {65_535.0}
    assert max(high for _, high in found.value_range) < 40_000
    assert min(found.unit_std) > 0.05


@pytest.mark.parametrize(
    "fields",
    [
        {"value_range": (900, 16_400), "image_mean": 0.4, "image_std": 0.2},
        {"value_percentiles": (0, 100), "image_mean": 0.4, "image_std": 0.2},
        {"normalization": "per_image"},
        {"value_type": "uint16", "rescale_factor": 1 / 65_535, "do_normalize": False},
    ],
    ids=str,
)
def test_levels_are_the_data_s_own_range_and_lead_back_to_the_processor_s_values(fields):
    image = bands_of(0)
    processor = SegformerImageProcessor(do_resize=False, **fields)
    levels, finish = to_levels(tf.constant(image), processor)
    assert float(tf.reduce_min(levels)) >= 0 and 200 < float(tf.reduce_max(levels)) <= 255
    np.testing.assert_allclose(finish(levels), processor(image)["pixel_values"][0], rtol=1e-4, atol=1e-5)


def test_photometric_distortion_changes_brightness_and_contrast_of_bands_alone():
    settings = Augmentation((64, 64), **UNCHANGED)
    image, labels = bands_of(0), np.zeros((64, 64), np.int32)
    own = SegformerImageProcessor(value_percentiles=(0, 100), do_normalize=False)
    levels, _ = to_levels(tf.constant(image), own)
    changed = 0
    for seed in range(8):
        augmented, _ = augment(levels, labels, (seed, 0), settings, 255)
        inner = (levels > 90) & (levels < 150)  # a linear function of the levels, where nothing is clipped
        x, y = levels[inner].numpy(), augmented[inner].numpy()
        np.testing.assert_allclose(y, np.poly1d(np.polyfit(x, y, 1))(x), atol=0.05)
        changed += not np.allclose(x, y, atol=1)
    assert changed >= 3
    colors, _ = to_levels(tf.constant(image[..., :3]), own)
    assert augment(colors, labels, (0, 0), settings, 255)[0].shape == (64, 64, 3)


def test_images_of_other_bands_or_values_are_named(tmp_path):
    def save(path, seed):
        np.save(f"{path}.npy", bands_of(seed, channels=4 if seed == 2 else 5))

    folder = write_bands(tmp_path, save)
    broken = bands_of(3, "float32")
    broken[5, 5] = np.nan
    np.save(folder / "train/images/003.npy", broken)
    report = check_dataset(find_dataset("folder", folder, "train", NAMES), raise_on_problems=False)
    messages = [example for problem in report.problems for example in problem.examples]
    assert any("002.npy: holds 4 bands of uint16, but the first image holds 5" in each for each in messages)
    assert any("003.npy: holds 5 bands of float32" in each for each in messages)
    with pytest.raises(ImageError, match="16 bands of uint8, uint16, int16, float32"):
        np.save(folder / "train/images/000.npy", np.zeros((64, 64, 5), np.int64))
        find_dataset("folder", folder, "train", NAMES).read_image(folder / "train/images/000.npy")


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_gray_images_of_16_bits_are_one_band_of_them(tmp_path, suffix):
    def save(path, seed):
        Image.fromarray(bands_of(seed)[..., 0]).save(f"{path}.{suffix}")

    dataset = find_dataset("folder", write_bands(tmp_path, save), "train", NAMES)
    assert dataset.image_type == ImageType(1, "uint16")
    np.testing.assert_array_equal(dataset.read_image(dataset.examples[0].image), bands_of(0)[..., :1])
    assert check_dataset(dataset).warnings == ()


def test_colors_of_16_bits_in_a_png_are_not_cut(tmp_path):
    def save(path, seed):
        encoded = tf.io.encode_png(bands_of(seed, channels=3))
        tf.io.write_file(f"{path}.png", encoded)

    dataset = find_dataset("folder", write_bands(tmp_path, save), "train", NAMES)
    assert dataset.image_type == ImageType(3, "uint16")
    np.testing.assert_array_equal(dataset.read_image(dataset.examples[0].image), bands_of(0, channels=3))


def test_tiff_of_five_bands_is_read_as_rasterio_writes_it(tmp_path):
    rasterio = pytest.importorskip("rasterio")

    def save(path, seed):
        with rasterio.open(f"{path}.tif", "w", transform=rasterio.Affine.scale(2), nodata=7, **TIFF) as file:
            bands = bands_of(seed)
            bands[0, 0] = 7
            file.write(np.moveaxis(bands, -1, 0))

    dataset = find_dataset("folder", write_bands(tmp_path, save), "train", NAMES)
    assert dataset.image_type == ImageType(5, "uint16")
    found, written = dataset.read_image(dataset.examples[0].image), bands_of(0)
    np.testing.assert_array_equal(found.reshape(-1, 5)[1:], written.reshape(-1, 5)[1:])
    np.testing.assert_allclose(found[0, 0], written.reshape(-1, 5)[1:].mean(axis=0), atol=1)  # no data


@pytest.mark.parametrize("has_rasterio", [True, False])
@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_one_band_below_0_is_read_with_and_without_rasterio(tmp_path, monkeypatch, dtype, has_rasterio):
    rasterio = pytest.importorskip("rasterio")
    with rasterio.open(
        tmp_path / "a.tif", "w", transform=rasterio.Affine.scale(2), **{**TIFF, "count": 1, "dtype": dtype}
    ) as file:
        file.write(bands_of(0, dtype)[..., 0], 1)
    if not has_rasterio:
        monkeypatch.setattr("tf_segformer.imaging.stored.find_spec", lambda name: None)
    found = read_image(tmp_path / "a.tif", ImageType(1, dtype))
    np.testing.assert_array_equal(found, bands_of(0, dtype)[..., :1])


def test_tiff_of_five_bands_names_the_extra_without_it(tmp_path, monkeypatch):
    rasterio = pytest.importorskip("rasterio")
    with rasterio.open(tmp_path / "a.tif", "w", transform=rasterio.Affine.scale(2), **TIFF) as file:
        file.write(np.moveaxis(bands_of(0), -1, 0))
    monkeypatch.setattr("tf_segformer.imaging.stored.find_spec", lambda name: None)
    from tf_segformer.imaging.stored import open_as_stored

    with pytest.raises(ImageError, match=r"pip install 'tf_segformer\[geo\]', or save them as \.npy"):
        open_as_stored(tmp_path / "a.tif")


def test_doodleverse_s_samples_are_image_and_labels_of_one_file(tmp_path):
    for split, first, count in (("train", 0, 3), ("val", 1000, 2)):
        folder = tmp_path / f"{split}_data" / f"{split}_npzs"
        folder.mkdir(parents=True)
        for number in range(count):
            one_hot = np.eye(4, dtype=np.uint8)[make_scene(first + number)[1]]
            sample = {"arr_0": bands_of(first + number, "uint8"), "arr_1": one_hot, "num_bands": 5, "files": ["a.jpg"]}
            np.savez_compressed(folder / f"scene_noaug_nd_data_000000{number}.npz", **sample)
    train, val = open_splits(None, tmp_path)
    assert (train.kind, train.size, val.size, train.num_labels) == ("doodleverse", 3, 2, 4)
    example = next(iter(train))
    np.testing.assert_array_equal(example.read_image(), bands_of(0, "uint8"))
    np.testing.assert_array_equal(example.read_labels(), make_scene(0)[1])
    assert check_dataset(train).problems == ()


def test_check_prints_statistics_and_what_the_processor_needs(tmp_path):
    write_bands(tmp_path, lambda path, seed: np.save(f"{path}.npy", bands_of(seed)))
    run = CliRunner().invoke(check, [str(tmp_path), "--statistics", "--json"])
    assert run.exit_code == 0, run.output
    statistics = json.loads(run.output)["statistics"]
    assert len(statistics["bands"]) == 5
    assert set(statistics["bands"][0]) == {"mean", "std", "min", "max", "percentile_2", "percentile_98"}
    fields = SegformerImageProcessor(**statistics["preprocessor_config"])
    assert fits(fields, ImageType(5, "uint16"))
    run = CliRunner().invoke(check, [str(tmp_path), "--statistics"])
    assert "4 training images, 5 bands of uint16" in run.output
    assert 'preprocessor_config.json: {"image_mean": [' in run.output
