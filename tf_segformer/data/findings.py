"""Looks at one example before anyone trains on it: what the image is, which classes are labelled, what is wrong."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from tf_segformer.data.examples import IGNORE_INDEX, LabelledImage
from tf_segformer.errors import ImageError
from tf_segformer.imaging.bands import RGB, ImageType
from tf_segformer.imaging.files import FULL_16_BITS, SIXTEEN_BIT_MODES

BEYOND, SIZE, TURNED = (
    "labels beyond the classes",
    "labels of another size than their image",
    "labels of the image as EXIF turns it",
)
DARK = f"of 16 bits with values below {FULL_16_BITS}, whose upper byte, which is what is used, is nearly black"
ALPHA = "with a band after the first three (or the first), which is taken for transparency and dropped"
EXIF = "with an EXIF orientation, which is not applied"
REMEDIES = {
    DARK: "scale the values to 0..255 and save them as 8 bits",
    ALPHA: "save the bands that count as an RGB image, or all of them as .npy",
    EXIF: "if the labels are those of the turned images, save the images upright (PIL.ImageOps.exif_transpose)",
}
"""Images that are allowed, but often a mistake, and what to do about them."""

_ORIENTATION = 0x0112  # EXIF
_SWAPPED = range(5, 9)  # orientations that exchange width and height


@dataclass
class Finding:
    """What one example holds.

    Args:
        class_pixels: Pixels of each class.
        ignored_pixels: Pixels that do not count.
        labels_were_read: Whether they could be counted.
        values_beyond: Values that are no class.
        problems: (kind, message) each.
        doubts: A key of `REMEDIES` each.
        size: Width and height of the image.
        channels: Bands of the image.
        dtype: Type of its values, NumPy's name.
        value_range: The lowest and the highest value.
        digest: Hash of its pixels.

    Example:
        >>> Finding(np.zeros(2, np.int64)).problems
        []
    """

    class_pixels: np.ndarray
    ignored_pixels: int = 0
    labels_were_read: bool = False
    values_beyond: set[int] = field(default_factory=set)
    problems: list[tuple[str, str]] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    size: tuple[int, int] | None = None
    channels: int | None = None
    dtype: str | None = None
    value_range: tuple[float, float] | None = None
    digest: bytes = b""


def examine(example: LabelledImage, num_labels: int, image_type: ImageType = RGB) -> Finding:
    """Opens image and labels of one example.

    Args:
        example: Of a dataset.
        num_labels: Number of classes.
        image_type: Bands and type of the dataset's images.

    Returns:
        What it holds.

    Example:
        >>> from tf_segformer.data import find_dataset
        >>> finding = examine(next(iter(find_dataset("camvid", "CamVid", "val"))), 11)
        >>> finding.size, finding.channels, finding.dtype
        ((64, 64), 3, 'uint8')
    """
    finding = Finding(np.zeros(num_labels, np.int64))
    orientation = 1
    try:
        orientation = _look_at(example, finding, image_type)
    except ImageError as error:
        finding.problems.append(_problem(error, example.name))
    try:
        labels = example.read_labels()
        _count(labels, example, finding)
        if finding.size is not None:
            _compare(example, finding, (labels.shape[1], labels.shape[0]), orientation)
    except ImageError as error:
        finding.problems.append(_problem(error, example.labels_name))
    return finding


def _look_at(example: LabelledImage, finding: Finding, image_type: ImageType) -> int:
    """Notes what the image is; returns its EXIF orientation, 1 for upright."""
    stored = example.read_stored()
    if not isinstance(stored, Image.Image) or stored.mode in ("F", "I") or not image_type.is_rgb:
        example.read_image()  # says what values cannot be used
    array = np.asarray(stored)
    finding.size = (array.shape[1], array.shape[0])
    finding.dtype = "uint8" if array.dtype == bool else array.dtype.name.lstrip("<>")
    finding.value_range = (float(array.min()), float(array.max()))
    finding.digest = hashlib.blake2b(f"{array.shape}".encode() + array.tobytes(), digest_size=16).digest()
    if not isinstance(stored, Image.Image):
        finding.channels = array.shape[2]
        return 1
    finding.channels = 3 if stored.mode == "P" else len(stored.getbands())
    if image_type.is_rgb and stored.mode in SIXTEEN_BIT_MODES and array.max() < FULL_16_BITS:
        finding.doubts.append(DARK)
    if finding.channels in (2, 4) and stored.mode != "CMYK" and array[..., -1].min() < 255:
        finding.doubts.append(ALPHA)
    orientation = _orientation(stored)
    if orientation != 1:
        finding.doubts.append(EXIF)
    return orientation


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 where there is none or it is damaged."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # Pillow's readers raise a dozen kinds on hostile bytes; the pixels are good without
        return 1


def _compare(example: LabelledImage, finding: Finding, label_size: tuple[int, int], orientation: int) -> None:
    """Notes labels of another size than their image."""
    assert finding.size is not None
    if label_size == finding.size:
        return
    image_text, label_text = (f"{width} x {height}" for width, height in (finding.size, label_size))
    message = f"{example.labels_name}: {label_text} pixels, but its image {example.name} has {image_text}"
    if orientation in _SWAPPED and label_size == finding.size[::-1]:
        message += "; save the image upright, as its EXIF orientation says (PIL.ImageOps.exif_transpose)"
        finding.problems.append((TURNED, message))
    else:
        finding.problems.append((SIZE, message))


def _count(labels: np.ndarray, example: LabelledImage, finding: Finding) -> None:
    """Counts the pixels of each class, and notes the values that are none."""
    num_labels = len(finding.class_pixels)
    counted = labels[labels != IGNORE_INDEX]
    is_class = (counted >= 0) & (counted < num_labels)
    finding.labels_were_read = True
    finding.ignored_pixels = labels.size - counted.size
    finding.class_pixels += np.bincount(counted[is_class], minlength=num_labels)
    beyond = np.unique(counted[~is_class]).tolist()
    if beyond:
        finding.values_beyond.update(beyond)
        values = ", ".join(map(str, beyond[:8])) + (", ..." if len(beyond) > 8 else "")
        finding.problems.append(
            (
                BEYOND,
                f"{example.labels_name}: class {values} is beyond the {num_labels} classes (0 to {num_labels - 1})",
            )
        )


def _problem(error: ImageError, name: str) -> tuple[str, str]:
    """Kind and message: the kind is the reason without its numbers."""
    message = " ".join(str(error).split())
    if name not in message:  # the bytes of a shard have no path
        message = f"{name}: {message}"
    reason = message.partition(": ")[2] or message
    return re.sub(r"\d+", "N", reason.rstrip(".")), message
