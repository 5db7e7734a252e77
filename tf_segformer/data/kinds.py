"""KINDS: every layout that is known, in the order in which a folder is asked whether it has it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tf_segformer.data.layouts import coco, cvat, doodleverse, label_studio, pairs, polygons, public, roboflow
from tf_segformer.data.layouts.layout import Layout, class_names_in
from tf_segformer.errors import DatasetError
from tf_segformer.imaging.labels import LABELS


@dataclass(frozen=True)
class DatasetKind:
    """How one kind of dataset is laid out.

    Args:
        find: Function of the root that returns the pairs and what their label values mean; without pairs where the
            folder has another layout.
        detect: Function of the root that says whether it has this layout.
        needs: What the folder must look like, for messages.
        class_names: Class names by index, where they are the same for every folder.

    Example:
        >>> KINDS["camvid"].class_names[:2]
        ('Sky', 'Building')
    """

    find: Callable[[Path], Layout]
    detect: Callable[[Path], bool]
    needs: str
    class_names: tuple[str, ...] | None = None


def find_folder(root: Path) -> Layout:
    """Pairs of files, with the class names of a file such as classes.txt."""
    return Layout(pairs.find_pairs(root), class_names_in(root))


_PAIRS = (
    "{train,val}/images/ and {train,val}/labels/, images/{train,val}/ and labels/{train,val}/, or images/ and labels/, "
    "with labels of the images' names, or with a suffix or prefix such as _mask; else patterns (--images, --labels)"
)

KINDS: dict[str, DatasetKind] = {
    "ade20k": DatasetKind(
        public.find_ade20k,
        public.is_ade20k,
        "images/{training,validation}/*.jpg and annotations/{training,validation}/*.png (ADEChallengeData2016)",
        LABELS["ade20k"],
    ),
    "cityscapes": DatasetKind(
        public.find_cityscapes,
        public.is_cityscapes,
        "leftImg8bit/{train,val}/CITY/*_leftImg8bit.png and gtFine/{train,val}/CITY/*_gtFine_labelIds.png",
        LABELS["cityscapes"],
    ),
    "cvat": DatasetKind(
        cvat.find_cvat,
        cvat.is_cvat,
        'labelmap.txt, JPEGImages/, SegmentationClass/ (CVAT\'s "Segmentation mask 1.1" with images)',
    ),
    "voc": DatasetKind(
        public.find_voc,
        public.is_voc,
        "JPEGImages/*.jpg, SegmentationClass/*.png and ImageSets/Segmentation/{train,val}.txt",
    ),
    "roboflow": DatasetKind(
        roboflow.find_roboflow,
        roboflow.is_roboflow,
        '{train,valid}/_classes.csv, *.jpg and *_mask.png (Roboflow\'s "semantic segmentation masks")',
    ),
    "coco": DatasetKind(
        coco.find_coco,
        coco.is_coco,
        "{train,valid}/_annotations.coco.json, annotations/instances_{train,val}*.json or one COCO JSON, and images",
    ),
    "yolo": DatasetKind(
        polygons.find_yolo,
        polygons.is_yolo,
        "data.yaml (or classes.txt), images/{train,val}/ and labels/{train,val}/*.txt with polygons",
    ),
    "labelme": DatasetKind(
        polygons.find_labelme, polygons.is_labelme, "LabelMe's *.json next to the images, or in {train,val}/"
    ),
    "label-studio": DatasetKind(
        label_studio.find_label_studio,
        label_studio.is_label_studio,
        "Label Studio's JSON export and the images that its tasks name",
    ),
    "doodleverse": DatasetKind(
        doodleverse.find_doodleverse,
        doodleverse.is_doodleverse,
        "train_data/train_npzs/*.npz and val_data/val_npzs/*.npz, or *.npz, each with image (arr_0) and labels (arr_1)",
    ),
    "camvid": DatasetKind(
        public.find_camvid, public.is_camvid, "{train,val}/images/*.jpg and {train,val}/labels/*.png", LABELS["camvid"]
    ),
    "binary": DatasetKind(find_folder, lambda root: False, f"{_PAIRS}; label 0 is the background, others the object"),
    "folder": DatasetKind(find_folder, lambda root: True, _PAIRS),
}
"""Layout and classes of each kind of dataset."""


def detect_kind(root: str | Path) -> str:
    """The kind of a dataset by its folder alone.

    Args:
        root: The dataset's folder.

    Returns:
        A key of `KINDS`; "folder" where nothing speaks for another.

    Raises:
        DatasetError: There is no such folder.

    Example:
        >>> detect_kind("CamVid")
        'folder'
    """
    root = Path(root)
    if not root.is_dir():
        raise DatasetError(f"{root}: there is no such folder; the layouts are described in docs/guides/train.md")
    return next(kind for kind, row in KINDS.items() if row.detect(root))
