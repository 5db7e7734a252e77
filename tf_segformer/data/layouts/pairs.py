"""Pairs of image and label files: in folders of the splits, side by side, by suffix, prefix or explicit patterns."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from tf_segformer.data.examples import Example
from tf_segformer.data.layouts.layout import (
    IMAGE_SUFFIXES,
    LABEL_SUFFIXES,
    SPLIT_FOLDERS,
    UNDIVIDED,
    files_with,
    split_folders,
)
from tf_segformer.errors import DatasetError

_IMAGE_FOLDERS = ("images", "image", "imgs", "img", "photos", "scenes", "jpegimages")
_LABEL_FOLDERS = (
    "labels", "label", "masks", "mask", "annotations", "annotation", "gt", "groundtruth", "msk", "targets",
    "segmentation", "segmentations",
)  # fmt: skip
_LABEL_WORD = r"(?:masks?|msk|labels?|labelids|seg|segmentation|gt|groundtruth|annotations?|l)"
_IMAGE_WORD = r"(?:images?|img|photo|rgb|sat)"
_LABEL_AFFIX = re.compile(rf"^{_LABEL_WORD}[_-]|[_.-]{_LABEL_WORD}$", re.IGNORECASE)
_IMAGE_AFFIX = re.compile(rf"^{_IMAGE_WORD}[_-]|[_.-]{_IMAGE_WORD}$", re.IGNORECASE)


def find_pairs(root: Path) -> dict[str, list[Example]]:
    """Finds the pairs of a folder in whatever of the usual arrangements they are.

    Args:
        root: Folder with SPLIT/images and SPLIT/labels, images/SPLIT and labels/SPLIT, SPLIT/ with both side by side,
            images and labels, or both side by side. The folders may have other usual names (masks, img, ...), the
            splits too (valid, training, ...). Names differ in nothing, or in a usual suffix or prefix: x.jpg and
            x_mask.png, IMG_1.tif and MSK_1.tif.

    Returns:
        Pairs by split, or `UNDIVIDED`; empty where there are none.

    Raises:
        DatasetError: The labels are JPEG files.

    Example:
        >>> {split: len(pairs) for split, pairs in find_pairs(Path("CamVid")).items()}
        {'train': 4, 'val': 2}
    """
    splits = split_folders(root)
    images, labels = _folder_named(root, _IMAGE_FOLDERS), _folder_named(root, _LABEL_FOLDERS)
    if splits:
        return {split: _pairs_in(folder) for split, folder in splits.items()}
    if images is None or labels is None:
        found = _side_by_side(root)
        return {UNDIVIDED: found} if found else {}
    image_splits, label_splits = split_folders(images), split_folders(labels)
    if image_splits:
        return {
            split: pair_up(folder, label_splits.get(split, labels / folder.name))
            for split, folder in image_splits.items()
        }
    return {UNDIVIDED: pair_up(images, labels)}


def find_by_patterns(root: Path, images: str, labels: str) -> dict[str, list[Example]]:
    """Finds the pairs that two patterns give.

    Args:
        root: Folder that the patterns are relative to.
        images: Such as "photos/{split}/{name}.jpg"; {split} stands for train or val (or another of `SPLIT_FOLDERS`).
        labels: The same for the labels; {name} and {split} have the image's value.

    Returns:
        Pairs by split, or `UNDIVIDED` where `images` has no {split}.

    Raises:
        ValueError: A pattern without {name}, or with another field.

    Example:
        >>> pattern = "{split}/images/{name}.png", "{split}/labels/{name}.png"
        >>> {split: len(pairs) for split, pairs in find_by_patterns(Path("CamVid"), *pattern).items()}
        {'train': 4, 'val': 2}
    """
    for option, pattern in (("images", images), ("labels", labels)):
        fields = re.findall(r"\{(.*?)\}", pattern)
        if "name" not in fields or set(fields) - {"name", "split"} or ".." in Path(pattern).parts:
            raise ValueError(
                f"{option}={pattern!r} must be a path below the dataset's folder with {{name}}, and {{split}} where "
                "it has splits"
            )
    if ("{split}" in labels) and "{split}" not in images:
        raise ValueError(f"labels={labels!r} has {{split}}, so images={images!r} must have it too")
    if "{split}" not in images:
        return {UNDIVIDED: _matching(root, images, labels)}
    found = {
        split: [
            pair
            for name in names
            for pair in _matching(root, images.replace("{split}", name), labels.replace("{split}", name))
        ]
        for split, names in SPLIT_FOLDERS.items()
    }
    return {split: pairs for split, pairs in found.items() if pairs}


def _matching(root: Path, images: str, labels: str) -> list[Example]:
    """The images of one pattern with their labels."""
    before, after = (part.replace("{name}", "*") for part in images.split("{name}", 1))
    shape = re.compile(re.escape(before) + "(?P<name>[^/]+)" + re.escape(after).replace(r"\*", "(?P=name)"))
    found = []
    for path in sorted(root.glob(images.replace("{name}", "*"))):
        match = shape.fullmatch(path.relative_to(root).as_posix())
        if match:
            found.append(Example(path, root / labels.replace("{name}", match["name"])))
    return found


def _folder_named(root: Path, names: tuple[str, ...]) -> Path | None:
    """The first folder with one of the names, in any case."""
    if not root.is_dir():
        return None
    folders = {path.name.lower(): path for path in sorted(root.iterdir()) if path.is_dir()}
    return next((folders[name] for name in names if name in folders), None)


def _pairs_in(folder: Path) -> list[Example]:
    """The pairs of the folder of one split: two folders, or side by side."""
    images, labels = _folder_named(folder, _IMAGE_FOLDERS), _folder_named(folder, _LABEL_FOLDERS)
    return pair_up(images, labels) if images is not None and labels is not None else _side_by_side(folder)


def pair_up(images: Path, labels: Path) -> list[Example]:
    """Pairs the files of two folders, those below them too, by name.

    Args:
        images: Folder of the images.
        labels: Folder of the labels.

    Returns:
        The pairs, in the order of the images' names, and then the labels that no image claims, as pairs whose image
        does not exist.

    Raises:
        DatasetError: The labels are JPEG files.

    Example:
        >>> [pair.labels.name for pair in pair_up(Path("CamVid/val/images"), Path("CamVid/val/labels"))]
        ['000.png', '001.png']
    """
    image_files = files_with(images, IMAGE_SUFFIXES) if images.is_dir() else []
    label_files = files_with(labels, LABEL_SUFFIXES) if labels.is_dir() else []
    if not label_files and labels.is_dir() and files_with(labels, [".jpg", ".jpeg"]):
        raise DatasetError(
            f"{labels}: the labels are JPEG files, which change the values at every edge; export them as PNG"
        )
    return _matched(image_files, label_files, images, labels)


def _side_by_side(folder: Path) -> list[Example]:
    """Images and labels of one folder: the labels have a suffix or prefix, or are the PNG next to a JPEG."""
    files = files_with(folder, IMAGE_SUFFIXES) if folder.is_dir() else []
    stems = {path.with_suffix("") for path in files if path.suffix.lower() in (".jpg", ".jpeg")}
    keys = {_key(path, folder, _without_affix(_IMAGE_AFFIX)) for path in files}
    label_files = [
        path
        for path in files
        if path.suffix.lower() in LABEL_SUFFIXES
        and (
            (path.with_suffix("") in stems and path.suffix.lower() == ".png")
            or (_LABEL_AFFIX.search(path.stem) and _key(path, folder, _without_affix(_LABEL_AFFIX)) in keys)
        )
    ]
    images = [path for path in files if path not in set(label_files)]
    return _matched(images, label_files, folder, folder) if label_files else []


def _matched(images: list[Path], labels: list[Path], image_root: Path, label_root: Path) -> list[Example]:
    """Pairs by whole names first; what is left, by the names without their suffix or prefix."""
    pairs: dict[Path, Path] = {}
    for image_key, label_key in ((str, str), (_without_affix(_IMAGE_AFFIX), _without_affix(_LABEL_AFFIX))):
        taken = set(pairs.values())
        free = {_key(path, label_root, label_key): path for path in reversed(labels) if path not in taken}
        for image in images:
            partner = free.get(_key(image, image_root, image_key)) if image not in pairs else None
            if partner is not None:
                pairs[image] = partner
    claimed = set(pairs.values())
    suffix = labels[0].suffix if labels else ".png"
    missing = {
        path: label_root / path.relative_to(image_root).with_suffix(suffix) for path in images if path not in pairs
    }
    orphans = [path for path in labels if path not in claimed]
    found = [Example(path, pairs.get(path) or missing[path]) for path in images]
    return found + [Example(image_root / path.relative_to(label_root).with_suffix(".jpg"), path) for path in orphans]


def _key(path: Path, root: Path, rename: Callable[[str], str]) -> tuple[str, str]:
    """What image and labels have in common: the folder below the root, and the name as `rename` gives it."""
    return path.relative_to(root).parent.as_posix(), rename(path.stem)


def _without_affix(affix: re.Pattern[str]) -> Callable[[str], str]:
    return lambda stem: affix.sub("", stem, count=1)
