"""check_dataset: opens every file before the first training step and lists every problem with its file."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tf_segformer.data.datasets import IGNORE_INDEX, Example, SegmentationDataset
from tf_segformer.errors import DatasetError, ImageError
from tf_segformer.imaging.files import open_image


def check_dataset(dataset: SegmentationDataset, threads: int = 4) -> np.ndarray:
    """Decodes every image and segmentation map.

    Args:
        dataset: What `find_dataset` found.
        threads: Files opened at once.

    Returns:
        Pixels of each class in the labels, (K,) int64.

    Raises:
        DatasetError: Listing every missing, damaged, mismatched or out-of-range file, one a line.

    Example:
        >>> counts = check_dataset(find_dataset("camvid", "CamVid", "train"))
        >>> shares = counts / counts.sum()
        >>> shares.shape
        (11,)
    """
    with ThreadPoolExecutor(threads) as pool:
        findings = list(pool.map(lambda example: _check_example(dataset, example), dataset.examples))
    counts = sum((counts for _, counts in findings), np.zeros(dataset.num_labels, np.int64))
    problems = [problem for problems, _ in findings for problem in problems]
    if counts[0] == 0 and any(f"class {dataset.num_labels} is beyond" in problem for problem in problems):
        problems.append(
            f"Class 0 ({dataset.class_names[0]}) is never labelled: do these labels count from 1? Classes count from "
            f"0: save the labels less one, with {IGNORE_INDEX} for pixels of no class"
        )
    reject(problems, dataset.name)
    return counts


def reject(problems: Iterable[str], name: str) -> None:
    """Raises one error that lists the problems, if there are any.

    Args:
        problems: One line each, beginning with the file.
        name: Name of the dataset.

    Raises:
        DatasetError: Where there is a problem.

    Example:
        >>> reject([], "camvid/train")
    """
    problems = list(problems)
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise DatasetError("\n  ".join([f"{name}: {count}; mend or remove these files:", *problems]))


def _check_example(dataset: SegmentationDataset, example: Example) -> tuple[list[str], np.ndarray]:
    """The problems of one pair, and its pixels of each class."""
    problems, sizes = [], []
    counts = np.zeros(dataset.num_labels, np.int64)
    try:
        width, height = open_image(example.image).size
        sizes.append((height, width))
    except ImageError as error:
        problems.append(_one_line(error))
    try:
        labels = dataset.read_labels(example.labels)
        sizes.append(labels.shape)
        counted = labels[labels != IGNORE_INDEX]
        beyond = np.unique(counted[(counted < 0) | (counted >= dataset.num_labels)])
        if beyond.size:
            problems.append(
                f"{example.labels}: class {', '.join(map(str, beyond[:8]))} is beyond the {dataset.num_labels} classes"
            )
        else:
            counts += np.bincount(counted.ravel(), minlength=dataset.num_labels)
    except ImageError as error:
        problems.append(_one_line(error))
    if len(set(sizes)) > 1:
        (height, width), (label_height, label_width) = sizes
        problems.append(
            f"{example.labels}: {label_width} x {label_height} pixels, but its image {example.image} has "
            f"{width} x {height}"
        )
    return problems, counts


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
