"""Previews: some images of a dataset with their labels over them, for the eye."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tf_segformer.data.examples import LabelledDataset
from tf_segformer.errors import ImageError
from tf_segformer.imaging.visualize import draw_overlay


def write_previews(dataset: LabelledDataset, folder: str | Path, count: int) -> Iterator[Path]:
    """Writes images with their labels laid over and a legend.

    Args:
        dataset: One split.
        folder: Where to write; made if missing.
        count: Number of images, evenly spread over the dataset; those that cannot be read are left out.

    Yields:
        The path of each written PNG: its number in the dataset and its name.

    Example:
        >>> [path.name for path in write_previews(find_dataset("camvid", "CamVid", "val"), "previews", 1)]
        ['00000-000.png']
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    count = min(count, dataset.size)
    wanted = {index * dataset.size // count for index in range(count)}
    for number, example in enumerate(dataset):
        if number not in wanted:
            continue
        try:
            overlay = draw_overlay(example.read_image(), example.read_labels(), dataset.class_names)
        except (ImageError, ValueError):  # the report names the file
            continue
        path = folder / f"{number:05d}-{Path(example.name).stem}.png"
        overlay.save(path)
        yield path
