"""Published datasets: ADE20K, Cityscapes, Pascal VOC and whatever has its tree, CamVid."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from tf_segformer.data.examples import IGNORE_INDEX, Example
from tf_segformer.data.layouts import pairs
from tf_segformer.data.layouts.layout import (
    IDENTITY,
    IMAGE_SUFFIXES,
    UNDIVIDED,
    Layout,
    class_names_in,
    files_with,
    listed_names,
    split_of,
)
from tf_segformer.errors import DatasetError
from tf_segformer.imaging.labels import CITYSCAPES_TRAIN_IDS, LABELS

_ADE20K_VALUES = np.concatenate([[IGNORE_INDEX], np.arange(255)])  # 0 is "other", 1 is the first class
_CAMVID_VALUES = np.where(IDENTITY == 11, IGNORE_INDEX, IDENTITY)
_CAMVID_NAME = re.compile(r"(0001TP_\d{6}|0006R0_f\d{5}|0016E5_\d{5}|Seq05VD_f\d{5})(_L)?")


def is_ade20k(root: Path) -> bool:
    """Whether a folder is the challenge's ADE20K, or the full one, which `find_ade20k` names."""
    folders = [root / "annotations" / split for split in ("training", "validation")]
    return any(folder.is_dir() for folder in folders) or _is_full_ade20k(root)


def find_ade20k(root: Path) -> Layout:
    """The challenge's 150 classes; the full dataset, whose labels are others, is an error."""
    if _is_full_ade20k(root):
        raise DatasetError(
            f"{root}: this is the full ADE20K (labels *_seg.png, thousands of classes). The 150 classes need "
            "ADEChallengeData2016: http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip"
        )
    splits = {
        split: _same_names(root / "images" / folder, root / "annotations" / folder)
        for split, folder in (("train", "training"), ("val", "validation"))
    }
    return Layout(splits, LABELS["ade20k"], _ADE20K_VALUES)


def _is_full_ade20k(root: Path) -> bool:
    """Whether the labels are the RGB files of the full dataset, next to the images."""
    if (root / "images" / "ADE").is_dir() or (root / "index_ade20k.pkl").is_file():
        return True
    training = root / "images" / "training"
    return training.is_dir() and next(training.rglob("*_seg.png"), None) is not None


def _same_names(images: Path, labels: Path) -> list[Example]:
    """Images of one folder with the PNG of the same name in another."""
    found = sorted(path for path in images.glob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    return [Example(path, labels / f"{path.stem}.png") for path in found]


def is_cityscapes(root: Path) -> bool:
    """Whether a folder has Cityscapes' images."""
    return (root / "leftImg8bit").is_dir()


def find_cityscapes(root: Path) -> Layout:
    """One folder per city; the two files differ in the last part of their names."""
    return Layout(
        {split: _cityscapes_split(root, split) for split in ("train", "val")},
        LABELS["cityscapes"],
        CITYSCAPES_TRAIN_IDS.astype(np.int64),
    )


def _cityscapes_split(root: Path, split: str) -> list[Example]:
    images, labels = root / "leftImg8bit" / split, root / "gtFine" / split
    name = "{}_gtFine_labelIds.png"
    return [
        Example(path, labels / path.parent.name / name.format(path.stem.removesuffix("_leftImg8bit")))
        for path in sorted(images.glob("*/*_leftImg8bit.png"))
    ]


def is_voc(root: Path) -> bool:
    """Whether a folder has the tree of Pascal VOC."""
    return (root / "SegmentationClass").is_dir() and (root / "JPEGImages").is_dir()


def find_voc(root: Path) -> Layout:
    """The lists' names; the classes of class_names.txt (labelme2voc) where it is there, else Pascal VOC's 21."""
    return Layout(voc_splits(root), class_names_in(root) or LABELS["voc"])


def voc_splits(root: Path) -> dict[str, list[Example]]:
    """The pairs of a tree like Pascal VOC's, by the lists of ImageSets/Segmentation.

    Args:
        root: Folder with JPEGImages and SegmentationClass.

    Returns:
        Pairs by split; `UNDIVIDED` where the lists are no splits, or where there are none.

    Example:
        >>> voc_splits(Path("CamVid"))
        {'undivided': []}
    """
    listings = sorted((root / "ImageSets" / "Segmentation").glob("*.txt"))
    images = {path.relative_to(root / "JPEGImages").with_suffix("").as_posix(): path for path in _images(root)}
    divided = {split: listing for listing in listings if (split := split_of(listing.stem)) is not None}
    if divided:
        return {split: _named(root, listed_names(listing), images) for split, listing in divided.items()}
    listed = [name for listing in listings for name in listed_names(listing)]
    labels = files_with(root / "SegmentationClass", [".png"]) if (root / "SegmentationClass").is_dir() else []
    found = [path.relative_to(root / "SegmentationClass").with_suffix("").as_posix() for path in labels]
    return {UNDIVIDED: _named(root, list(dict.fromkeys(listed)) or found, images)}


def _images(root: Path) -> list[Path]:
    return files_with(root / "JPEGImages", IMAGE_SUFFIXES) if (root / "JPEGImages").is_dir() else []


def _named(root: Path, names: list[str], images: dict[str, Path]) -> list[Example]:
    """The pairs of some names; an image that is missing is a JPEG that does not exist."""
    return [
        Example(images.get(name, root / "JPEGImages" / f"{name}.jpg"), root / "SegmentationClass" / f"{name}.png")
        for name in names
    ]


def is_camvid(root: Path) -> bool:
    """Whether a folder has the file names of CamVid's four films."""
    found = next(iter(sorted((root / "train" / "images").glob("*"))), None)
    return found is not None and _CAMVID_NAME.fullmatch(found.stem) is not None


def find_camvid(root: Path) -> Layout:
    """The 11 classes of SegNet's CamVid; value 11 is ignored."""
    return Layout(pairs.find_pairs(root), LABELS["camvid"], _CAMVID_VALUES)
