"""What is fuzzed by coverage: every reader of files that a stranger may send, one target per format.

A target fails on any error that is not the package's own. `python -m tests.fuzz` fuzzes one of them, `.ci/fuzz` all;
`test_corpus.py` replays what was kept.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

from tf_segformer.checkpoints.file_conversion import read_labels
from tf_segformer.checkpoints.readers import read_checkpoint
from tf_segformer.configuration import SegformerConfig
from tf_segformer.data.datasets import find_dataset
from tf_segformer.data.tfrecords import ShardedDataset, open_tfrecords
from tf_segformer.errors import SegformerError
from tf_segformer.hub import shard_names
from tf_segformer.imaging.files import open_image, open_label_map
from tf_segformer.imaging.processor import SegformerImageProcessor
from tf_segformer.io import open_zip
from tf_segformer.training import state

CORPUS = Path(__file__).parent / "corpus"
MAX_PIXELS = 2**20
_FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))


def file_of(name: str, data: bytes) -> Path:
    """A file with some content, in memory where the system has such a folder."""
    path = _FOLDER / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def checkpoint(path: Path) -> None:
    """Reads names, shapes and values; what a file says of itself is no more than it has."""
    opened = read_checkpoint(path)
    for tensor in opened.tensors.values():
        tensor.read()


def torch_pickle(data: bytes) -> None:
    """The pickle of a PyTorch archive, in an archive whose checksums are right."""
    with zipfile.ZipFile(_FOLDER / "model.pth", "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/data/0", bytes(24))
    checkpoint(_FOLDER / "model.pth")


def keras_config(data: bytes) -> None:
    """The description of the model in a Keras archive."""
    with zipfile.ZipFile(_FOLDER / "model.keras", "w") as archive:
        archive.writestr("config.json", data)
        archive.writestr("model.weights.h5", b"\x89HDF\r\n\x1a\n")
    checkpoint(_FOLDER / "model.keras")


def image(data: bytes) -> None:
    """An image and a label map of the same bytes."""
    with suppress(SegformerError):
        open_image(data, max_pixels=MAX_PIXELS, apply_exif_orientation=True)
    open_label_map(data, max_pixels=MAX_PIXELS)


def configuration(data: bytes) -> None:
    """config.json and preprocessor_config.json."""
    with suppress(SegformerError):
        config = SegformerConfig.from_pretrained(file_of("config.json", data))
        assert SegformerConfig.from_dict(config.to_dict()) == config
    SegformerImageProcessor.from_pretrained(file_of("preprocessor_config.json", data).parent)


def lists(data: bytes) -> None:
    """Class names, the index of a sharded checkpoint, the lists of datasets."""
    with suppress(SegformerError):
        read_labels(file_of("labels.txt", data))
    with suppress(SegformerError):
        shard_names(file_of("model.safetensors.index.json", data))
    with suppress(SegformerError):
        open_tfrecords(file_of("shards.json", data).parent)
    listing = file_of("voc/ImageSets/Segmentation/train.txt", data)
    find_dataset("voc", listing.parents[2], "train")


_decode = tf.function(ShardedDataset("fuzz", (), 1, ()).decode, input_signature=[tf.TensorSpec((), tf.string)])


def tfrecord(data: bytes) -> None:
    """One record of a shard, as the training pipeline reads it."""
    with suppress(tf.errors.InvalidArgumentError, UnicodeDecodeError):  # the latter of messages that quote the record
        _decode(tf.constant(data))


def training_state(data: bytes) -> None:
    """What a resumed run reads."""
    path = file_of("state.npz", data)
    with suppress(*state._DAMAGE), open_zip(path) as archive:
        for name in state._shapes(archive, len(data)):
            state._read_array(archive, name)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "pickle": torch_pickle,
    "zip": lambda data: checkpoint(file_of("model.pth", data)),
    "stream": lambda data: checkpoint(file_of("stream.pth", data)),
    "safetensors": lambda data: checkpoint(file_of("model.safetensors", data)),
    "hdf5": lambda data: checkpoint(file_of("model.h5", data)),
    "keras": keras_config,
    "image": image,
    "configuration": configuration,
    "lists": lists,
    "tfrecord": tfrecord,
    "state": training_state,
}


def run(name: str, data: bytes) -> None:
    """Runs a target on one input; the package's own errors are what a damaged file should end in."""
    with suppress(SegformerError):
        TARGETS[name](data)
