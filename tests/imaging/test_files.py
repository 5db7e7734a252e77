"""Hostile and broken files end in an ImageError that names them, before anything large is allocated."""

from __future__ import annotations

import io
import struct
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tf_segformer.errors import ImageError
from tf_segformer.imaging.files import open_image, open_label_map


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises a size and holds next to nothing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def encode(image: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


PHOTO = encode(Image.effect_noise((200, 150), 80).convert("RGB"), "JPEG")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes"),
        (b"this is no image at all", "not an image"),
        (PHOTO[: len(PHOTO) // 2], "truncated"),
        (encode(Image.new("RGB", (50, 50)), "PNG")[:60], "truncated|read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n", "not an image"),
        (png_header(50_000, 50_000), "before decoding"),
        (png_header(13_000, 13_000), "max_pixels"),
    ],
    ids=["empty", "text", "half a JPEG", "half a PNG", "EPS", "bomb beyond Pillow's limit", "bomb beyond ours"],
)
def test_bad_file_is_rejected_by_name_and_cheaply(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(ImageError, match=message) as caught:
        open_image(path, max_pixels=150_000_000)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
    assert "photo.jpg" in str(caught.value)


def test_missing_file_and_folder_are_rejected(tmp_path: Path):
    with pytest.raises(ImageError, match="no such file"):
        open_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match="folder"):
        open_image(tmp_path)


@pytest.mark.slow
def test_image_of_a_hundred_million_pixels_opens_without_a_warning():
    encoded = encode(Image.new("1", (10_000, 10_000)), "PNG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match="max_pixels=1000"):
            open_image(encoded, max_pixels=1000)
        assert Image.open(io.BytesIO(encode(Image.new("1", (8, 8)), "PNG"))).size == (8, 8)
        assert open_label_map(encoded).shape == (10_000, 10_000)


def test_exif_orientation_is_an_option():
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    Image.new("RGB", (30, 20)).save(stream, "JPEG", exif=exif)
    assert open_image(stream.getvalue()).size == (30, 20)
    assert open_image(stream.getvalue(), apply_exif_orientation=True).size == (20, 30)


def test_sixteen_bit_values_that_become_black_are_named(tmp_path: Path):
    """A satellite's 12 bits were served as black: 900 became 3."""
    Image.fromarray(np.full((3, 4), 900, np.uint16)).save(tmp_path / "scene.tif")
    with pytest.warns(UserWarning, match=r"scene\.tif: 16-bit values that reach only 900 of 65535.*Scale the values"):
        assert np.asarray(open_image(tmp_path / "scene.tif")).max() == 3
    Image.fromarray(np.full((3, 4), 40_000, np.uint16)).save(tmp_path / "scene.tif")
    assert np.asarray(open_image(tmp_path / "scene.tif")).max() == 156


def test_label_map_keeps_palette_indices_and_sixteen_bits(tmp_path: Path):
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    palette = Image.fromarray(labels).convert("P")
    palette.putdata(labels.ravel().tolist())
    np.testing.assert_array_equal(open_label_map(encode(palette, "PNG")), labels)
    wide = labels.astype(np.uint16) * 1000
    np.testing.assert_array_equal(open_label_map(encode(Image.fromarray(wide), "PNG")), wide)
    assert open_label_map(encode(palette, "PNG")).dtype == np.int32


def test_label_map_with_colors_is_rejected():
    with pytest.raises(ImageError, match="one channel"):
        open_label_map(PHOTO)
