"""Images and labels in NumPy's files: bands of any number and type, class indices, one-hot labels."""

from __future__ import annotations

import io
import zipfile
from os import PathLike
from pathlib import Path

import numpy as np

from tf_segformer.errors import ImageError
from tf_segformer.imaging.files import MAX_FILE_BYTES, open_label_map
from tf_segformer.io import read_bytes

ARRAY_SUFFIXES = (".npy", ".npz")
IGNORED = 255

IMAGE_KEYS = ("image", "images", "img", "x", "arr_0")
LABEL_KEYS = ("label", "labels", "mask", "y", "arr_1")  # arr_0 and arr_1: the samples of Doodleverse


def is_array_file(source: object) -> bool:
    """Whether a path ends as NumPy's files do.

    Args:
        source: Path, or anything else.

    Returns:
        False for what is no path.

    Example:
        >>> is_array_file("a.npy"), is_array_file(b"a.npy")
        (True, False)
    """
    return isinstance(source, (str, PathLike)) and Path(source).suffix.lower() in ARRAY_SUFFIXES


def open_image_array(path: str | PathLike) -> np.ndarray:
    """Reads the image of a .npy or .npz file.

    Args:
        path: The file; of several arrays in a .npz the one called image, img, x or arr_0 is the image.

    Returns:
        (H, W, C) of the file's own type; an image (H, W) gets one channel.

    Raises:
        ImageError: No readable file of numbers, or not two or three axes.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(Path(folder, "a.npy"), np.zeros((4, 6, 5), np.uint16))
        ...     open_image_array(Path(folder, "a.npy")).shape
        (4, 6, 5)
    """
    array = _load(Path(path), IMAGE_KEYS)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.size == 0:
        raise ImageError(f"{path}: an image needs the axes (height, width, bands), but its shape is {array.shape}.")
    return array


def open_label_values(path: str | PathLike) -> np.ndarray:
    """Reads a label file of any kind as whole numbers.

    Args:
        path: PNG, TIFF or BMP with one channel; or .npy or .npz with (H, W) class indices, or (H, W, K) one-hot, of
            which the largest entry is the class and a pixel of zeros is ignored. Of several arrays in a .npz the one
            called label, labels, mask, y or arr_1 is taken.

    Returns:
        (H, W) int32.

    Raises:
        ImageError: No readable label file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(Path(folder, "a.npy"), np.eye(3, dtype=np.uint8)[None])
        ...     open_label_values(Path(folder, "a.npy")).tolist()
        [[0, 1, 2]]
    """
    if not is_array_file(path):
        return open_label_map(path)
    array = _load(Path(path), LABEL_KEYS)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim == 3 and array.size:
        return np.where(array.any(axis=-1), array.argmax(axis=-1), IGNORED).astype(np.int32)
    if array.ndim != 2 or array.size == 0 or (array.dtype.kind == "f" and (array != np.round(array)).any()):
        raise ImageError(
            f"{path}: labels need whole numbers (height, width) or one-hot (height, width, classes), but the shape is "
            f"{array.shape} of {array.dtype}."
        )
    return array.astype(np.int32)


def _load(path: Path, keys: tuple[str, ...]) -> np.ndarray:
    """One array of a file, of numbers alone: nothing is unpickled."""
    if not path.exists():
        raise ImageError(f"{path}: there is no such file.")
    try:
        encoded = read_bytes(path, MAX_FILE_BYTES)
        if path.suffix.lower() == ".npz":
            with zipfile.ZipFile(io.BytesIO(encoded)) as archive:
                size = sum(entry.file_size for entry in archive.infolist())
            if size > MAX_FILE_BYTES:
                raise ValueError(f"{size} bytes unpacked are more than {MAX_FILE_BYTES}")
        loaded = np.load(io.BytesIO(encoded), allow_pickle=False)
        array = loaded if isinstance(loaded, np.ndarray) else loaded[_key_of(list(loaded), keys)]
    except Exception as error:  # NumPy's readers raise several kinds on hostile bytes
        raise ImageError(f"{path}: no array of numbers that can be read ({error}).") from error
    if array.dtype.kind not in "buif":
        raise ImageError(f"{path}: holds {array.dtype}, not numbers.")
    return array


def _key_of(names: list[str], keys: tuple[str, ...]) -> str:
    """The name of the wanted array; the only one needs no name."""
    found = names[:1] if len(names) == 1 else [name for name in keys if name in names]
    if not found:
        raise ValueError(f"it holds {', '.join(names) or 'nothing'}, but none called {', '.join(keys)}")
    return found[0]
