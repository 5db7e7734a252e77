"""find_dataset: where ADE20K, Cityscapes, Pascal VOC, CamVid and plain pairs of folders keep their files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from tf_segformer.errors import DatasetError, ImageError
from tf_segformer.imaging.files import open_image, open_label_map
from tf_segformer.imaging.labels import CITYSCAPES_TRAIN_IDS, LABELS
from tf_segformer.io import is_plain_name, read_text

if TYPE_CHECKING:
    import tensorflow as tf

IGNORE_INDEX = 255
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class LabelledImage:
    """One image and its labels, opened only when they are asked for.

    Args:
        name: Path of the image, or its name in a shard.
        labels_name: Path of the labels, or the same name.
        read_image: Returns the image as RGB; raises `ImageError` where it is damaged.
        read_labels: Returns the class indices (H, W) int32, `IGNORE_INDEX` where none counts; raises `ImageError`.

    Example:
        >>> example = next(iter(find_dataset("camvid", "CamVid", "val")))
        >>> example.read_image().size, example.read_labels().shape
        ((64, 64), (64, 64))
    """

    name: str
    labels_name: str
    read_image: Callable[[], Image.Image]
    read_labels: Callable[[], np.ndarray]


class LabelledDataset(Protocol):
    """What training, evaluation and the checks ask of a dataset; iterating gives every `LabelledImage` in order."""

    @property
    def name(self) -> str:
        """Kind and split, for messages."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names by index."""

    @property
    def num_labels(self) -> int:
        """The number of classes."""

    @property
    def size(self) -> int:
        """The number of examples."""

    def __iter__(self) -> Iterator[LabelledImage]:
        """The examples, in order."""

    def records(self, seed: int | None = None, first: int = 0, last: int | None = None) -> tf.data.Dataset:
        """The examples as (number int64, *what `decode` takes), still encoded.

        Args:
            seed: Gives every epoch an order of its own; None keeps the order of the names.
            first: Number of the first example; epoch e has the numbers from e * size to (e + 1) * size.
            last: Number of the example after the last; None: endless with a seed, one epoch without.
        """

    def decode(self, *record: Any) -> tuple[Any, Any]:
        """Image (H, W, 3) uint8 and labels (H, W) int32 of one record, in TensorFlow operations."""


@dataclass(frozen=True)
class Example:
    """One image and its segmentation map.

    Args:
        image: JPEG or PNG file.
        labels: PNG file of the same height and width.

    Example:
        >>> Example(Path("images/1.jpg"), Path("labels/1.png")).labels.name
        '1.png'
    """

    image: Path
    labels: Path


@dataclass(frozen=True)
class SegmentationDataset:
    """The examples of one split and what their label values mean.

    Args:
        name: Kind and split, for messages.
        examples: The pairs, in the order of their names.
        class_names: Class names by index.
        class_of_value: Class of each label value 0..255, `IGNORE_INDEX` for those that do not count; a value that has
            no class is one from `len(class_names)` to 254, which the checks reject.
        palette: Colors (K, 3) of RGB label files, or None where the files hold class values.

    Example:
        >>> dataset = find_dataset("camvid", "CamVid", "train")
        >>> dataset.size == len(dataset.examples)
        True
    """

    name: str
    examples: tuple[Example, ...]
    class_names: tuple[str, ...]
    class_of_value: np.ndarray
    palette: np.ndarray | None = None

    @property
    def num_labels(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def size(self) -> int:
        """The number of examples."""
        return len(self.examples)

    def __iter__(self) -> Iterator[LabelledImage]:
        """The examples, in the order of their names."""
        for example in self.examples:
            yield LabelledImage(
                str(example.image),
                str(example.labels),
                partial(open_image, example.image),
                partial(self.read_labels, example.labels),
            )

    def records(self, seed: int | None = None, first: int = 0, last: int | None = None) -> tf.data.Dataset:
        """The examples as (number, path of the image, path of the labels); see `LabelledDataset.records`."""
        import tensorflow as tf

        image_paths = tf.constant([str(example.image) for example in self.examples])
        label_paths = tf.constant([str(example.labels) for example in self.examples])

        def paths_of(number: Any) -> tuple[Any, Any, Any]:
            index = number % self.size
            if seed is not None:
                key = tf.stack([tf.constant(seed, tf.int64), number // self.size])
                index = tf.random.experimental.index_shuffle(index, key, self.size - 1)
            return number, image_paths[index], label_paths[index]

        if last is None:
            last = self.size if seed is None else tf.int64.max
        return tf.data.Dataset.range(first, last).map(paths_of)

    def decode(self, image_path: Any, label_path: Any) -> tuple[Any, Any]:
        """Image (H, W, 3) uint8 and labels (H, W) int32 of one record."""
        import tensorflow as tf

        from tf_segformer.imaging.graph.decode import decode_image

        labels = tf.numpy_function(lambda path: self.read_labels(path.decode()), [label_path], tf.int32)
        return decode_image(tf.io.read_file(image_path)), tf.ensure_shape(labels, (None, None))

    def read_labels(self, path: str | Path) -> np.ndarray:
        """Reads one label file as class indices.

        Args:
            path: PNG with one channel, a color table, or (where the dataset has a palette) RGB colors.

        Returns:
            (H, W) int32: classes and `IGNORE_INDEX`.

        Raises:
            ImageError: The file is no readable label map, holds values above 255 or colors beyond the palette.

        Example:
            >>> dataset.read_labels("labels/0001.png").dtype
            dtype('int32')
        """
        if self.palette is not None:
            return _classes_of_colors(Path(path), self.palette)
        values = open_label_map(path)
        if values.min() < 0 or values.max() > 255:
            raise ImageError(
                f"{path}: label values reach {values.max()}; classes must fit into 8 bits (0 to 254, "
                f"{IGNORE_INDEX} is ignored). Save the class indices as an 8-bit PNG."
            )
        return self.class_of_value[values].astype(np.int32)


@dataclass(frozen=True)
class DatasetKind:
    """How one kind of dataset is laid out.

    Args:
        splits: Folder (or list) name of "train" and "val".
        find: Function of (root, name of the split) that returns the pairs; a missing partner is a path that does not
            exist, for the checks to report.
        class_names: Class names by index, or None where the user gives them.
        class_of_value: Class of each label value.
        layout: What the folder must look like, for messages.

    Example:
        >>> KINDS["camvid"].splits["val"]
        'val'
    """

    splits: dict[str, str]
    find: Callable[[Path, str], list[Example]]
    class_names: tuple[str, ...] | None
    class_of_value: np.ndarray
    layout: str


def find_dataset(
    kind: str,
    root: str | Path,
    split: str,
    class_names: Sequence[str] | None = None,
    palette: Sequence[Sequence[int]] | None = None,
) -> SegmentationDataset:
    """Finds the pairs of images and segmentation maps of one split.

    Args:
        kind: One of `KINDS`: "ade20k", "cityscapes", "voc", "camvid" or "folder".
        root: The dataset's folder.
        split: "train" or "val".
        class_names: Class names; needed for "folder", of the same number as the classes for the others.
        palette: Colors of RGB label files, one per class, for "folder".

    Returns:
        The dataset; its files are not opened yet (see `check_dataset`).

    Raises:
        DatasetError: The folder does not exist, has another layout, or is empty.
        ValueError: An unknown kind or split, or class names that do not fit.

    Example:
        >>> find_dataset("camvid", "CamVid", "train").num_labels
        11
    """
    if kind not in KINDS:
        raise ValueError(f"There is no kind of dataset {kind!r}, only {', '.join(KINDS)}.")
    layout = KINDS[kind]
    if split not in layout.splits:
        raise ValueError(f"split={split!r} must be one of {', '.join(layout.splits)}")
    names = tuple(class_names) if class_names is not None else layout.class_names
    if not names:
        raise ValueError(f"A dataset of kind {kind!r} needs class_names, in the order of the label values.")
    if layout.class_names is not None and len(names) != len(layout.class_names):
        raise ValueError(f"class_names has {len(names)} entries, {kind} has {len(layout.class_names)} classes")
    if palette is not None and len(palette) != len(names):
        raise ValueError(f"palette has {len(palette)} colors for {len(names)} classes")
    root = Path(root)
    if not root.is_dir():
        raise DatasetError(f"{root}: there is no such folder; {kind} needs {layout.layout}")
    examples = layout.find(root, layout.splits[split])
    if not examples:
        raise DatasetError(f"{root}: no images for the split {split!r}; {kind} needs {layout.layout}")
    colors = None if palette is None else np.asarray(palette, np.uint8)
    return SegmentationDataset(f"{kind}/{split}", tuple(examples), names, layout.class_of_value, colors)


def _pairs(images: Path, labels: Path, pattern: str = "*") -> list[Example]:
    """Images of one folder with the PNG of the same name in another."""
    found = sorted(path for path in images.glob(pattern) if path.suffix.lower() in IMAGE_SUFFIXES)
    return [Example(path, labels / path.relative_to(images).with_suffix(".png")) for path in found]


def _orphaned(pairs: list[Example], images: Path, labels: Path) -> list[Example]:
    """The label files that no image claims, as pairs whose image does not exist."""
    claimed = {pair.labels for pair in pairs}
    orphans = sorted(path for path in labels.glob("*.png") if path not in claimed)
    return [Example(images / f"{path.stem}.jpg", path) for path in orphans]


def _find_in_split_folder(root: Path, split: str) -> list[Example]:
    """`<split>/images` and `<split>/labels`, or `images` and `labels` where there is no folder of the split."""
    base = root / split if (root / split).is_dir() else root
    pairs = _pairs(base / "images", base / "labels")
    return pairs + _orphaned(pairs, base / "images", base / "labels")


def _find_ade20k(root: Path, split: str) -> list[Example]:
    return _pairs(root / "images" / split, root / "annotations" / split)


def _find_cityscapes(root: Path, split: str) -> list[Example]:
    """One folder per city; the two files differ in the last part of their names."""
    images, labels = root / "leftImg8bit" / split, root / "gtFine" / split
    found = sorted(images.glob("*/*_leftImg8bit.png"))
    name = "{}_gtFine_labelIds.png"
    return [
        Example(path, labels / path.parent.name / name.format(path.stem.removesuffix("_leftImg8bit"))) for path in found
    ]


def _listed_names(listing: Path) -> list[str]:
    """The names in a list of files, none of which leads out of its folder."""
    try:
        names = read_text(listing).split()
    except (OSError, ValueError) as error:
        raise DatasetError(f"{listing}: not a readable list of names ({error})") from error
    outside = next((name for name in names if not is_plain_name(name)), None)
    if outside is not None:
        raise DatasetError(f"{listing}: {outside[:100]!r} is not the name of a file without its ending")
    return names


def _find_voc(root: Path, split: str) -> list[Example]:
    """The names listed for the split."""
    listing = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    names = _listed_names(listing) if listing.is_file() else []
    return [Example(root / "JPEGImages" / f"{name}.jpg", root / "SegmentationClass" / f"{name}.png") for name in names]


def _classes(**class_of_value: int) -> np.ndarray:
    """The identity on 0..255, but for the values given as v<value>=<class>."""
    table = np.arange(256)
    for value, index in class_of_value.items():
        table[int(value.removeprefix("v"))] = index
    return table


KINDS: dict[str, DatasetKind] = {
    "ade20k": DatasetKind(
        {"train": "training", "val": "validation"},
        _find_ade20k,
        LABELS["ade20k"],
        np.concatenate([[IGNORE_INDEX], np.arange(255)]),  # 0 is "other", 1 is the first class
        "images/{training,validation}/*.jpg and annotations/{training,validation}/*.png (ADEChallengeData2016)",
    ),
    "cityscapes": DatasetKind(
        {"train": "train", "val": "val"},
        _find_cityscapes,
        LABELS["cityscapes"],
        CITYSCAPES_TRAIN_IDS.astype(np.int64),
        "leftImg8bit/{train,val}/CITY/*_leftImg8bit.png and gtFine/{train,val}/CITY/*_gtFine_labelIds.png",
    ),
    "voc": DatasetKind(
        {"train": "train", "val": "val"},
        _find_voc,
        LABELS["voc"],
        _classes(),
        "JPEGImages/*.jpg, SegmentationClass/*.png and ImageSets/Segmentation/{train,val}.txt",
    ),
    "camvid": DatasetKind(
        {"train": "train", "val": "val"},
        _find_in_split_folder,
        LABELS["camvid"],
        _classes(v11=IGNORE_INDEX),
        "{train,val}/images/*.jpg and {train,val}/labels/*.png",
    ),
    "folder": DatasetKind(
        {"train": "train", "val": "val"},
        _find_in_split_folder,
        None,
        _classes(),
        "{train,val}/images/ and {train,val}/labels/, or images/ and labels/, with PNG labels of the images' names",
    ),
}
"""Layout and classes of each kind of dataset."""


def _classes_of_colors(path: Path, palette: np.ndarray) -> np.ndarray:
    """Class indices of an RGB label file; black is ignored unless it is a class of its own."""
    try:
        with Image.open(path) as image:
            colors = np.asarray(image.convert("RGB")).astype(np.int64)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read as a label map ({error})") from error
    codes = colors @ [65536, 256, 1]  # (H, W)
    classes = np.full(codes.shape, -1, np.int32)
    classes[codes == 0] = IGNORE_INDEX
    for index, code in enumerate(palette.astype(np.int64) @ [65536, 256, 1]):
        classes[codes == code] = index
    if (classes < 0).any():
        red, green, blue = colors[classes < 0][0]
        raise ImageError(f"{path}: the color ({red}, {green}, {blue}) is not in the palette")
    return classes
