"""Every kind of JPEG and PNG is decoded as by Pillow, and whatever else comes gives an error or a status."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.deploy.images import encoded_image
from tests.imaging.golden_cases import make_image
from tests.imaging.test_files import PHOTO, encode, png_header
from tf_segformer.errors import ImageError
from tf_segformer.imaging.files import open_image
from tf_segformer.imaging.graph.decode import decode_image, encoded_image_size, safe_decode_image


def encoded_images() -> dict[str, bytes]:
    """A file of every kind that the graph decodes."""
    files = {}
    for height, width in ((37, 53), (16, 16), (1, 1), (1, 9)):
        rgb = Image.fromarray(make_image((height, width, 3), "uint8"))
        for name, options in {
            "444": {"subsampling": 0},
            "422": {"subsampling": 1},
            "420": {"subsampling": 2},
            "progressive": {"progressive": True},
        }.items():
            stream = io.BytesIO()
            rgb.save(stream, "JPEG", quality=70, **options)
            files[f"jpeg {name} {height}x{width}"] = stream.getvalue()
        for mode in ("L", "CMYK"):
            files[f"jpeg {mode} {height}x{width}"] = encode(rgb.convert(mode), "JPEG")
        for mode in ("RGB", "RGBA", "L", "LA", "P", "1"):
            files[f"png {mode} {height}x{width}"] = encode(rgb.convert(mode), "PNG")
        for bits in (3, 13):
            files[f"png {bits} colors {height}x{width}"] = encode(rgb.quantize(bits), "PNG")
        for channels in (1, 2, 3, 4):
            values = make_image((height, width, channels), "int64") * 251 % 65536
            files[f"png 16 bit {channels} {height}x{width}"] = tf.io.encode_png(values.astype(np.uint16)).numpy()
    return files


@pytest.mark.filterwarnings("ignore:.*16-bit values that reach only:UserWarning")  # images of one pixel
@pytest.mark.parametrize(("name", "encoded"), encoded_images().items(), ids=encoded_images())
def test_decoded_image_equals_pillow(name: str, encoded: bytes):
    expected = np.asarray(open_image(encoded))
    np.testing.assert_array_equal(decode_image(encoded), expected)
    np.testing.assert_array_equal(encoded_image_size(encoded), expected.shape[:2])


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        (b"", "neither a JPEG nor a PNG"),
        (b"\x89PNG", "neither a JPEG nor a PNG"),
        (encode(Image.new("RGB", (4, 4)), "BMP"), "neither a JPEG nor a PNG"),
        (encode(Image.new("P", (4, 4)), "GIF"), "neither a JPEG nor a PNG"),
        (PHOTO[: len(PHOTO) // 2], "Invalid JPEG"),
        (png_header(50_000, 50_000), "max_pixels"),
        (png_header(0, 7), "empty"),
        (png_header(40, 40), "Invalid PNG"),
    ],
    ids=["empty", "signature only", "BMP", "GIF", "half a JPEG", "bomb", "no height", "no pixels"],
)
def test_bad_bytes_are_rejected_when_the_graph_runs(encoded: bytes, message: str):
    decode = tf.function(decode_image, input_signature=[tf.TensorSpec([], tf.string)])
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        decode(encoded)


@pytest.fixture(scope="module")
def decode():
    """Decodes a list of files in one graph: statuses and images' sizes."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def run(files):
        def one(encoded):
            image, status = safe_decode_image(encoded, 1_000_000)
            return status, tf.shape(image), tf.reduce_sum(tf.cast(image, tf.int64))

        kinds = (tf.TensorSpec([], tf.string), tf.TensorSpec([3], tf.int32), tf.TensorSpec([], tf.int64))
        return tf.map_fn(one, files, fn_output_signature=kinds)

    return lambda files: [each.numpy() for each in run(tf.constant(files))]


def test_the_largest_image_is_decoded_and_one_row_more_is_not(decode):
    files = [encoded_image(0, 1000, height, kind) for height in (1000, 1001) for kind in ("JPEG", "PNG")]
    statuses, sizes, _ = decode(files)
    assert [one[:2] for one in statuses] == [b"OK", b"OK", b"IN", b"IN"]
    assert sizes.tolist() == [[1000, 1000, 3], [1000, 1000, 3], [0, 0, 3], [0, 0, 3]]


@pytest.mark.slow
def test_no_mutated_file_stops_the_graph(decode):
    """Files cut, spliced and overwritten at random: each gets a status, and what is decoded has the file's size."""
    source = random.Random(0)
    originals = [
        encoded_image(0, 40, 30),
        encoded_image(1, 33, 47, progressive=True),
        encoded_image(2, 31, 29, mode="L"),
        encoded_image(3, 30, 20, mode="CMYK"),
        encoded_image(4, 40, 30, "PNG"),
        encoded_image(5, 23, 17, "PNG", mode="P"),
        encoded_image(6, 19, 21, "PNG", mode="RGBA"),
    ]
    decoded, by_reason = 0, {}
    for _ in range(40):
        files = [mutated(source.choice(originals), source) for _ in range(100)]
        statuses, sizes, _ = decode(files)
        for encoded, status, size in zip(files, statuses, sizes, strict=True):
            by_reason[status] = by_reason.get(status, 0) + 1
            assert status == b"OK" or status.startswith(b"INVALID_ARGUMENT: ")
            assert (status == b"OK") == (size[0] * size[1] > 0)
            if status == b"OK":
                decoded += 1
                try:
                    image = open_image(encoded)
                except ImageError:
                    continue  # the two decoders do not forgive the same damage
                assert image.size == (size[1], size[0])
    assert decoded > 200 and len(by_reason) >= 4, by_reason


def mutated(encoded: bytes, source: random.Random) -> bytes:
    """The file with some bytes changed, cut out, doubled or cut off."""
    content = bytearray(encoded)
    for _ in range(source.randint(1, 4)):
        place = source.randrange(max(1, len(content)))
        match source.randrange(5):
            case 0:
                content = content[:place]
            case 1:
                content[place : place + 1] = bytes([source.randrange(256)])
            case 2:
                del content[place : place + source.randint(1, 40)]
            case 3:
                content[place:place] = content[: source.randint(1, 60)]
            case 4:
                content[place : place + 4] = source.choice([b"\xff\xff\xff\xff", bytes(4), b"\xff\xc4\x00\x02"])
    return bytes(content)
