import random

import numpy as np
import pytest
import tensorflow as tf

from tests.deploy.conftest import signatures
from tests.deploy.images import BROKEN, JPEG, PNG, encoded_image, read_png
from tf_segformer.errors import ImageError
from tf_segformer.imaging.files import open_image
from tf_segformer.imaging.graph.decode import safe_decode_image


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


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_image_does_not_disturb_its_neighbours(exported, name):
    broken, reason = BROKEN[name]
    served = signatures(exported().version)["serving_default"]
    answer = served(image_bytes=tf.constant([JPEG, broken, PNG]))
    good, rejected, also_good = (one.decode() for one in answer["status"].numpy())
    assert (good, also_good) == ("OK", "OK")
    assert rejected.startswith("INVALID_ARGUMENT: ") and reason in rejected
    for index, encoded in ((0, JPEG), (2, PNG)):
        class_map = read_png(answer["class_map_bytes"].numpy()[index])
        np.testing.assert_array_equal(class_map, exported().class_map(encoded))
    assert answer["class_map_bytes"].numpy()[1] == b""
    assert not np.any(answer["class_fractions"][1])


def test_a_batch_of_broken_images_only_and_one_of_none(exported):
    for task in ("segmentation", "classification"):
        loaded = signatures(exported(task).version)
        for signature in ("serving_default", "logits"):
            answer = loaded[signature](image_bytes=tf.constant([b"x", b""]))
            assert all(one.startswith(b"INVALID_ARGUMENT") for one in answer["status"].numpy())
            assert loaded[signature](image_bytes=tf.zeros([0], tf.string))["status"].shape == (0,)


def test_strict_fails_with_the_reason(exported):
    strict = signatures(exported().version)["serving_strict"]
    with pytest.raises(tf.errors.InvalidArgumentError, match="neither a JPEG nor a PNG"):
        strict(image_bytes=tf.constant([JPEG, b"text"]))


def test_a_classifier_names_no_class_of_a_broken_image(exported):
    served = signatures(exported("classification").version)["serving_default"]
    answer = served(image_bytes=tf.constant([JPEG, b"text"]))
    assert set(answer["labels"].numpy()[1]) == {b""}
    assert not np.any(answer["probabilities"][1]) and np.all(answer["indices"][1] == -1)


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
