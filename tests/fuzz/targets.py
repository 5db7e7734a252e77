"""What is fuzzed by coverage: every reader of files that a stranger may send, one target per format.

A target fails on any error that is not the package's own. `python -m tests.fuzz` fuzzes one of them, `.ci/fuzz` all;
`test_corpus.py` replays what was kept. A target imports what it needs itself: most start without TensorFlow.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from PIL import Image

from tf_segformer.errors import SegformerError

CORPUS = Path(__file__).parent / "corpus"
MAX_PIXELS = 2**20
MAX_ANNOTATED_PIXELS = 2**16  # many objects of that size are made of a few bytes
_FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))


def file_of(name: str, data: bytes) -> Path:
    """A file with some content, in memory where the system has such a folder."""
    path = _FOLDER / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def checkpoint(path: Path) -> None:
    """Reads names, shapes and values; what a file says of itself is no more than it has."""
    from tf_segformer.checkpoints.formats.tensorflow import is_tensorflow_index
    from tf_segformer.checkpoints.readers import read_checkpoint

    if path.suffix != ".index" and is_tensorflow_index(path):
        return  # has a target of its own: TensorFlow is imported then, which takes longer than an input may
    opened = read_checkpoint(path)
    for tensor in opened.tensors.values():
        values = tensor.read()
        assert (values.shape, values.dtype) == (tensor.shape, tensor.dtype)


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


def tensorflow_checkpoint(data: bytes) -> None:
    """The two files of a TensorFlow checkpoint: the size of the second, the second, the first."""
    end = 2 + int.from_bytes(data[:2], "big")
    file_of("variables.data-00000-of-00001", data[2:end])
    checkpoint(file_of("variables.index", data[end:]))


def image(data: bytes) -> None:
    """An image and a label map of the same bytes."""
    from tf_segformer.imaging.files import open_image, open_label_map

    with suppress(SegformerError):
        open_image(data, max_pixels=MAX_PIXELS, apply_exif_orientation=True)
    open_label_map(data, max_pixels=MAX_PIXELS)


def configuration(data: bytes) -> None:
    """config.json of this project and of others, preprocessor_config.json, adapter_config.json."""
    import numpy as np

    from tf_segformer.checkpoints.adapter_merging import _scale, read_adapter_config
    from tf_segformer.checkpoints.loading import _config_from, _parted
    from tf_segformer.checkpoints.tensors import LazyTensor
    from tf_segformer.configuration import SegformerConfig, read_config_fields
    from tf_segformer.imaging.processor import SegformerImageProcessor

    path = file_of("config.json", data)
    with suppress(SegformerError):
        config = SegformerConfig.from_pretrained(path)
        assert SegformerConfig.from_dict(config.to_dict()) == config
    with suppress(SegformerError):
        fields, _ = _parted(read_config_fields(path), path)
        _config_from(fields or {}, path)
    with suppress(SegformerError):
        factor = LazyTensor.of(np.ones((4, 4), "float32"))
        _scale("query", {"A": factor, "B": factor}, read_adapter_config(file_of("adapter_config.json", data)))
    SegformerImageProcessor.from_pretrained(file_of("preprocessor_config.json", data).parent)


def lists(data: bytes) -> None:
    """Class names, the index of a sharded checkpoint, the lists of datasets, a map of classes."""
    import numpy as np

    from tf_segformer.checkpoints.file_conversion import read_labels
    from tf_segformer.cli.data_options import _read_map
    from tf_segformer.data.classes import merge_classes
    from tf_segformer.data.layouts.layout import class_names_in
    from tf_segformer.hub import shard_names

    with suppress(SegformerError):
        read_labels(file_of("labels.txt", data))
    with suppress(SegformerError):
        shard_names(file_of("model.safetensors.index.json", data))
    with suppress(SegformerError, ValueError):  # the command line makes a usage error of a ValueError
        merge_classes(_read_map(file_of("map.json", data)), ("road", "sky"), np.arange(256))
    for name in ("classes.txt", "classes.json"):
        with suppress(SegformerError):
            class_names_in(file_of(f"{name}-of-names/{name}", data).parent)
    for kind in ("voc", "cvat"):
        make_images(kind, "JPEGImages/a.png", "SegmentationClass/a.png")
    make_images("roboflow", "train/a.png", "train/a_mask.png")
    read_dataset("voc", file_of("voc/ImageSets/Segmentation/train.txt", data))
    read_dataset("cvat", file_of("cvat/labelmap.txt", data))
    read_dataset("roboflow", file_of("roboflow/train/_classes.csv", data))


def read_dataset(kind: str, file: Path) -> None:
    """Finds a dataset of one kind in the folder of a file, or above it, and reads its labels."""
    from tf_segformer.data.datasets import find_splits
    from tf_segformer.data.kinds import KINDS
    from tf_segformer.data.layouts import layout

    layout.MAX_PIXELS = MAX_ANNOTATED_PIXELS
    root = _FOLDER / file.relative_to(_FOLDER).parts[0]
    with suppress(SegformerError):
        KINDS[kind].detect(root)
        datasets = find_splits(kind, root, val_fraction=1)
        for split in ("train", "val"):
            with suppress(SegformerError):
                read_labels_of(datasets(split), root)


def read_labels_of(dataset: Any, root: Path) -> None:
    """Reads the first labels of a dataset, none of them from outside of its folder."""
    for example in islice(dataset.examples, 10):
        for path in (example.image, example.labels):
            assert ".." not in path.parts and path.is_relative_to(root)
        with suppress(SegformerError, ImportError):  # the latter of an extra that is not installed
            assert dataset.read_labels(example.labels, example.image).max() < 256


@cache
def make_images(kind: str, *names: str) -> None:
    """The images, or label maps of the value 1, that a list or annotations belong to."""
    for name in names:
        is_label = "mask" in name or "Class" in name
        Image.new("L" if is_label else "RGB", (8, 6), 1).save(file_of(f"{kind}/{name}", b""))


def annotations(data: bytes) -> None:
    """Annotations in JSON: COCO's, LabelMe's and Label Studio's, each found by its content."""
    for kind in ("coco", "labelme", "label-studio"):
        make_images(kind, "a.png")
        read_dataset(kind, file_of(f"{kind}/a.json", data))


def yolo(data: bytes) -> None:
    """YOLO's data.yaml and the labels of an image, with a byte between them that neither has."""
    description, _, labels = data.partition(b"\xff")
    make_images("yolo", "images/a.png")
    file_of("yolo/labels/a.txt", labels)
    read_dataset("yolo", file_of("yolo/data.yaml", description))


def tfrecord(data: bytes) -> None:
    """One record of a shard, as the training pipeline decodes it, and the list of the shards."""
    import tensorflow as tf

    from tf_segformer.data.tfrecords import _bytes_of, open_tfrecords
    from tf_segformer.imaging.graph.decode import decode_image, decode_labels

    with suppress(SegformerError):
        file_of("shards/a.tfrecord", data)
        open_tfrecords(file_of("shards/shards.json", data).parent)
    with suppress(ValueError):  # which the pipeline makes an error of TensorFlow
        for encoded, decode in zip(_bytes_of(data, ("image", "labels")), (decode_image, decode_labels), strict=True):
            with suppress(tf.errors.InvalidArgumentError):
                decode(tf.constant(encoded), max_pixels=MAX_PIXELS)


def training_state(data: bytes) -> None:
    """What a resumed run reads: state.npz and recipe.json."""
    from tf_segformer.io import open_zip
    from tf_segformer.training import state, trainer

    trainer._holds(file_of("recipe.json", data), "{}")
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
    "tensorflow": tensorflow_checkpoint,
    "image": image,
    "configuration": configuration,
    "lists": lists,
    "annotations": annotations,
    "yolo": yolo,
    "tfrecord": tfrecord,
    "state": training_state,
}


def run(name: str, data: bytes) -> None:
    """Runs a target on one input; the package's own errors are what a damaged file should end in."""
    with suppress(SegformerError):
        TARGETS[name](data)
