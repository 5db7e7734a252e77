"""Image files, good and broken, for the tests of deployment."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image


def encoded_image(seed: int, width: int, height: int, kind: str = "JPEG", mode: str = "RGB", **options) -> bytes:
    """An image file of smooth random colors."""
    colors = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = Image.fromarray(colors).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    encoded = io.BytesIO()
    image.save(encoded, kind, **options)
    return encoded.getvalue()


def empty_png(width: int, height: int) -> bytes:
    """A PNG with a header of any size and no pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(b""), b"IEND"]
    parts = [struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def animated_gif() -> bytes:
    frames = [Image.new("P", (30, 20), color) for color in (1, 2, 3)]
    encoded = io.BytesIO()
    frames[0].save(encoded, "GIF", save_all=True, append_images=frames[1:])
    return encoded.getvalue()


JPEG, PNG = encoded_image(0, 120, 100), encoded_image(1, 45, 61, "PNG")

# What the server says of each broken file.
BROKEN = {
    "truncated JPEG": (JPEG[: len(JPEG) * 2 // 3], "truncated or damaged"),
    "JPEG cut in its header": (JPEG[:100], "header is truncated or damaged"),
    "truncated PNG": (PNG[: len(PNG) * 2 // 3], "truncated or damaged"),
    "text": (b"this is no image at all", "neither a JPEG nor a PNG"),
    "empty": (b"", "the file is empty"),
    "0x0 PNG": (empty_png(0, 0), "no pixels"),
    "PNG without pixels": (empty_png(20, 30), "truncated or damaged"),
    "20,000 x 20,000 PNG": (empty_png(20_000, 20_000), "height and width [20000 20000] make more than max_pixels"),
    "PNG with negative size": (empty_png(2**31 + 5, 2**31 + 5), "no pixels"),
    "animated GIF": (animated_gif(), "neither a JPEG nor a PNG"),
}


def read_png(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded), formats=["PNG"]))
