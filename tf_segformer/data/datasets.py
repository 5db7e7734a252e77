"""find_dataset: the images and labels of a folder, in whatever layout they are, and how they are read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from tf_segformer.data.classes import BINARY, OBJECT_NAMES, ClassMap, infer_classes, merge_classes, values_in
from tf_segformer.data.examples import IGNORE_INDEX, Example, LabelledImage
from tf_segformer.data.hugging_face import PREFIX, open_hugging_face
from tf_segformer.data.images import find_image_type, read_image
from tf_segformer.data.kinds import KINDS, detect_kind
from tf_segformer.data.layouts.layout import UNDIVIDED, Layout, class_names_in
from tf_segformer.data.layouts.pairs import find_by_patterns
from tf_segformer.errors import DatasetError, ImageError
from tf_segformer.imaging.arrays import open_label_values
from tf_segformer.imaging.bands import ImageType
from tf_segformer.imaging.stored import open_as_stored

if TYPE_CHECKING:
    import tensorflow as tf

SPLITS = ("train", "val")
VAL_FRACTION = 0.2
_ALWAYS_RGB = (".jpg", ".jpeg", ".bmp", ".webp")
_IN_GRAPH = (".jpg", ".jpeg", ".png")  # what TensorFlow decodes, faster than Pillow


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
        read_values: Function of the paths of image and labels that gives the label values (H, W), where no file holds
            them, such as polygons.

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
    read_values: Callable[[Path, Path], np.ndarray] | None = None

    @property
    def kind(self) -> str:
        """The kind, a key of `KINDS`."""
        return self.name.partition("/")[0]

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
                partial(self.read_image, example.image),
                partial(self.read_labels, example.labels, example.image),
                partial(open_as_stored, example.image),
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
        """Image (H, W, C) of `image_type` and labels (H, W) int32 of one record."""
        import tensorflow as tf

        from tf_segformer.imaging.graph.decode import decode_image

        def read_labels(labels: bytes, image: bytes) -> np.ndarray:
            return self.read_labels(labels.decode(), image.decode())

        labels = tf.numpy_function(read_labels, [label_path, image_path], tf.int32)
        kind = self.image_type
        if kind.is_rgb and all(example.image.suffix.lower() in _IN_GRAPH for example in self.examples):
            image = decode_image(tf.io.read_file(image_path))
        else:
            image = tf.numpy_function(lambda path: np.asarray(self.read_image(path.decode())), [image_path], kind.dtype)
        return tf.ensure_shape(image, (None, None, kind.channels)), tf.ensure_shape(labels, (None, None))

    @cached_property
    def image_type(self) -> ImageType:
        """Bands and type of the images; see `find_image_type`."""
        if all(example.image.suffix.lower() in _ALWAYS_RGB for example in self.examples):
            return ImageType()
        return find_image_type(example.image for example in self.examples)

    def read_image(self, path: str | Path) -> Image.Image | np.ndarray:
        """Opens one image.

        Args:
            path: File of an image.

        Returns:
            The image in mode "RGB", or (H, W, C) where `image_type` is another.

        Raises:
            ImageError: The file cannot be read, or has other bands than `image_type`.

        Example:
            >>> dataset.read_image("CamVid/val/images/000.png").size
            (64, 64)
        """
        return read_image(path, self.image_type)

    def read_labels(self, path: str | Path, image: str | Path = "") -> np.ndarray:
        """Reads one label file as class indices.

        Args:
            path: File with one channel, a color table, or (where the dataset has a palette) RGB colors; an array of
                class indices or one-hot; or what `read_values` reads.
            image: Path of its image; polygons need it.

        Returns:
            (H, W) int32: classes and `IGNORE_INDEX`.

        Raises:
            ImageError: The file is no readable label map, holds values above 255 or colors beyond the palette.

        Example:
            >>> dataset.read_labels("labels/0001.png").dtype
            dtype('int32')
        """
        if self.read_values is not None:
            values = self.read_values(Path(image), Path(path))
        elif self.palette is not None:
            values = _values_of_colors(Path(path), self.palette)
        else:
            values = open_label_values(path)
        if values.min() < 0 or values.max() > 255:
            raise ImageError(
                f"{path}: label values reach {values.max()}; classes must fit into 8 bits (0 to 254, "
                f"{IGNORE_INDEX} is ignored). Save the class indices as an 8-bit PNG."
            )
        return self.class_of_value[values].astype(np.int32)


def find_dataset(
    kind: str | Path | None = None,
    root: str | Path | None = None,
    split: str = "train",
    class_names: Sequence[str] | None = None,
    palette: Sequence[Sequence[int]] | None = None,
    *,
    class_of_value: ClassMap | None = None,
    images: str | None = None,
    labels: str | None = None,
    val_fraction: float = VAL_FRACTION,
    seed: int = 0,
) -> SegmentationDataset:
    """Finds the pairs of images and labels of one split.

    Args:
        kind: One of `KINDS`, or None to find it out by the folder. A call with one argument means the root.
        root: The dataset's folder, or "hf://owner/name" for a dataset of the Hugging Face Hub (a `TableDataset`).
        split: "train" or "val".
        class_names: Class names by index; by default those of the tool's own file, or else "class 0" and so on.
        palette: Colors of RGB label files, one per class, for "folder".
        class_of_value: Merges or drops classes: from each new class name, in order, to the label values or old class
            names that it takes; what it does not name is ignored.
        images: Where the images are, such as "photos/{split}/{name}.jpg", with `labels`, instead of a layout.
        labels: Where the labels are, such as "masks/{split}/{name}.png".
        val_fraction: Fraction of the images of a folder without splits that is kept for validation, in (0, 1].
        seed: Which images these are; the same on every machine.

    Returns:
        The dataset; its files are not opened yet (see `check_dataset`), except where the classes must be found out.

    Raises:
        DatasetError: The folder does not exist, has another layout, or is empty.
        ValueError: An unknown kind or split, or class names that do not fit.

    Example:
        >>> find_dataset("camvid", "CamVid", "train").num_labels, find_dataset("CamVid").name
        (11, 'folder/train')
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r} must be one of {', '.join(SPLITS)}")
    splits = find_splits(
        kind, root, class_names, palette,
        class_of_value=class_of_value, images=images, labels=labels, val_fraction=val_fraction, seed=seed,
    )  # fmt: skip
    return splits(split)


def find_splits(
    kind: str | Path | None = None,
    root: str | Path | None = None,
    class_names: Sequence[str] | None = None,
    palette: Sequence[Sequence[int]] | None = None,
    *,
    class_of_value: ClassMap | None = None,
    images: str | None = None,
    labels: str | None = None,
    val_fraction: float = VAL_FRACTION,
    seed: int = 0,
) -> Callable[[str], SegmentationDataset]:
    """Finds all pairs of a folder once; see `find_dataset` for the arguments.

    Returns:
        A function that gives the dataset of one split.

    Raises:
        DatasetError, ValueError: As `find_dataset` does; that a split is empty, when it is asked for.

    Example:
        >>> [find_splits("camvid", "CamVid")(split).size for split in ("train", "val")]
        [4, 2]
    """
    if root is None:
        kind, root = None, kind
    if root is None:
        raise ValueError("find_dataset needs the dataset's folder")
    if str(root).startswith(PREFIX):
        if kind is not None or palette is not None or images is not None or labels is not None:
            raise ValueError(f"{root}: takes no kind, palette or patterns of files")
        options = {"class_of_value": class_of_value, "val_fraction": val_fraction, "seed": seed}
        return open_hugging_face(str(root), class_names, **options)  # type: ignore[arg-type, return-value]
    if kind is not None and kind not in KINDS:
        raise ValueError(f"There is no kind of dataset {str(kind)!r}, only {', '.join(KINDS)}.")
    if not 0 < val_fraction <= 1:
        raise ValueError(f"val_fraction={val_fraction!r} must be above 0 and at most 1")
    root, found = Path(root), None if kind is None else str(kind)
    if found is not None and not root.is_dir():
        raise DatasetError(f"{root}: there is no such folder; {found} needs {KINDS[found].needs}")
    if images is not None or labels is not None:
        layout, name = _layout_of_patterns(root, images, labels), found or "folder"
    else:
        name = found or detect_kind(root)
        layout = KINDS[name].find(root)
    if any(layout.splits.values()):
        name, layout = _with_classes(
            name, root, layout, class_names, palette, detected=found is None, mapped=class_of_value is not None
        )
    if class_of_value is not None:
        names, table = merge_classes(class_of_value, layout.class_names, layout.class_of_value)
        layout = replace(layout, class_names=names, class_of_value=table)

    def dataset_of(split: str) -> SegmentationDataset:
        examples = layout.splits.get(split)
        if examples is None and UNDIVIDED in layout.splits:
            examples = _part(root, layout.splits[UNDIVIDED], split, val_fraction, seed)
        if not examples:
            raise DatasetError(f"{root}: no images for the split {split!r}; {name} needs {KINDS[name].needs}")
        return SegmentationDataset(
            f"{name}/{split}",
            tuple(examples),
            layout.class_names,
            layout.class_of_value,
            layout.palette,
            layout.read_values,
        )

    return dataset_of


def _layout_of_patterns(root: Path, images: str | None, labels: str | None) -> Layout:
    """The pairs of two patterns."""
    if images is None or labels is None:
        raise ValueError("images and labels are two patterns that need each other")
    splits = find_by_patterns(root, images, labels)
    if not any(splits.values()):
        raise DatasetError(f"{root}: no file matches images={images!r} (--images)")
    return Layout(splits, class_names_in(root))


def _with_classes(
    kind: str,
    root: Path,
    layout: Layout,
    class_names: Sequence[str] | None,
    palette: Sequence[Sequence[int]] | None,
    detected: bool,
    mapped: bool,
) -> tuple[str, Layout]:
    """The kind and the layout with class names, colors and the classes of its values."""
    names, known = tuple(class_names or ()), KINDS[kind].class_names or layout.class_names
    if names and known and len(names) != len(known):
        raise ValueError(f"class_names has {len(names)} entries, {kind} has {len(known)} classes: {', '.join(known)}")
    names = names or known
    if palette is not None:
        names = names or tuple(f"class {index}" for index in range(len(palette)))
        if len(palette) != len(names):
            raise ValueError(f"palette has {len(palette)} colors for {len(names)} classes")
        layout = replace(layout, palette=np.asarray(palette, np.uint8))
    if kind == "doodleverse" and not names and not mapped:
        return kind, infer_classes(root, layout)[1]
    is_file_of_values = layout.read_values is None and layout.palette is None
    if kind == "folder" and not names and not mapped:
        return infer_classes(root, layout, as_values=not detected)
    if kind == "folder" and detected and not mapped and is_file_of_values and len(names) == 2:
        examples = (example for examples in layout.splits.values() for example in examples)
        if values_in(examples) == {0, IGNORE_INDEX}:
            return "binary", replace(layout, class_names=names, class_of_value=BINARY)
    if kind == "binary" and not mapped:
        return kind, replace(layout, class_names=names or OBJECT_NAMES, class_of_value=BINARY)
    return kind, replace(layout, class_names=names)


def _part(root: Path, examples: Sequence[Example], split: str, val_fraction: float, seed: int) -> list[Example]:
    """The examples of one split of a folder without splits, by a hash of their names: the same on every machine."""

    def order(example: Example) -> bytes:
        name = example.image.relative_to(root) if example.image.is_relative_to(root) else example.image
        return hashlib.sha256(f"{seed} {name.as_posix()}".encode("utf-8", "surrogateescape")).digest()

    count = max(round(val_fraction * len(examples)), 1)
    if len(examples) == 1 and val_fraction < 1:
        raise DatasetError(f"{root}: a single image cannot be divided into training and validation; add images")
    chosen = set(sorted(examples, key=order)[:count])
    return [example for example in examples if (example in chosen) == (split == "val")]


def _values_of_colors(path: Path, palette: np.ndarray) -> np.ndarray:
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
