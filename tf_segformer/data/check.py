"""check_dataset: opens every file before the first training step, counts the classes and lists what is wrong."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import numpy as np

from tf_segformer.data.examples import IGNORE_INDEX, LabelledDataset
from tf_segformer.data.findings import REMEDIES, Finding, examine
from tf_segformer.data.layouts.layout import IDENTITY
from tf_segformer.data.reports import EXAMPLES, SHOWN_CLASSES, DatasetReport, FolderReport, Problem, counted
from tf_segformer.data.splits import SPLITS, open_splits
from tf_segformer.errors import DatasetError

_AT_ONCE = 256  # examples handed to the threads; those of shards hold their bytes
_RARE = 0.01  # of the pixels
_LARGEST_WEIGHT = 10.0
_FIRST = "class 0"  # where nobody named it
_MASK = "label 255 is the only value besides 0"
_SAME = "training and validation are the same images"
_DIVIDE = (
    "scores of images that were learned say nothing: keep other images for validation, or leave its folder out, so "
    "that --val-fraction (val_fraction) divides those of the training"
)


@overload
def check_dataset(dataset: LabelledDataset, *, threads: int = 4, raise_on_problems: bool = True) -> DatasetReport: ...
@overload
def check_dataset(
    dataset: str | Path, *, threads: int = 4, raise_on_problems: bool = True, kind: str | None = None, **options: Any
) -> FolderReport: ...
def check_dataset(
    dataset: LabelledDataset | str | Path,
    *,
    threads: int = 4,
    raise_on_problems: bool = True,
    kind: str | None = None,
    **options: Any,
) -> DatasetReport | FolderReport:
    """Decodes every image and label map.

    Args:
        dataset: What `find_dataset` or `open_tfrecords` found; or a folder, whose splits are checked together.
        threads: Files opened at once.
        raise_on_problems: Whether a dataset that cannot be used is an error; otherwise its problems are in the report.
        kind: Of a folder; None finds it out.
        **options: Of a folder, as `find_dataset` takes them.

    Returns:
        The report: `DatasetReport` of a dataset, `FolderReport` of a folder.

    Raises:
        DatasetError: Naming, by kind of problem, how many files are missing, damaged, mismatched or out of range, and
            three of them.

    Example:
        >>> report = check_dataset(find_dataset("camvid", "CamVid", "train"))
        >>> len(report.class_fractions), report.problems
        (11, ())
    """
    if isinstance(dataset, (str, Path)):
        splits = open_splits(kind, dataset, **options)
        return check_splits(splits, threads=threads, raise_on_problems=raise_on_problems)
    report, _ = _check_split(dataset, threads)
    if report.problems and raise_on_problems:
        raise DatasetError(_message(report))
    return report


def check_splits(
    splits: Sequence[LabelledDataset], *, threads: int = 4, raise_on_problems: bool = True
) -> FolderReport:
    """Checks both splits, and that validation says something about training.

    Args:
        splits: Training and validation split.
        threads: Files opened at once.
        raise_on_problems: As in `check_dataset`.

    Returns:
        The report.

    Raises:
        DatasetError: As `check_dataset`; and where both splits have the same images.

    Example:
        >>> train_data = find_dataset("camvid", "CamVid", "train")
        >>> [problem.kind for problem in check_splits([train_data] * 2, raise_on_problems=False).problems]
        ['training and validation are the same images']
    """
    checked = [_check_split(dataset, threads) for dataset in splits]
    train, val = (report for report, _ in checked)
    if not any(problem.kind == _MASK for problem in train.problems):  # then 255 is ignored, and val lacks a class
        val = replace(val, problems=tuple(problem for problem in val.problems if problem.kind != _MASK))
    train_images, val_images = (images for _, images in checked)
    shared = [f"{name} is {train_images[digest]}" for digest, name in val_images.items() if digest in train_images]
    is_same = bool(shared) and len(shared) == len(val_images)
    warnings = list(_rare_classes(train))
    if shared and not is_same:
        warnings.append(
            f"{counted(len(shared), 'image')} of the validation are among those of the training ({shared[0]}): "
            "remove them from one, because the scores of images that were learned say nothing"
        )
    problems = (Problem(_SAME, len(shared), tuple(shared[:EXAMPLES]), _DIVIDE),) if is_same else ()
    report = FolderReport(dict(zip(SPLITS, (train, val), strict=True)), problems, tuple(warnings))
    if raise_on_problems and not report.can_train:
        broken = [_message(each) for each in report.splits.values() if each.problems]
        raise DatasetError("\n".join([*broken, *(f"{problem}" for problem in problems)]))
    return report


def _check_split(dataset: LabelledDataset, threads: int) -> tuple[DatasetReport, dict[bytes, str]]:
    """The report of one split, and the names of its images by the hash of their pixels."""
    names, findings = [], []
    for name, finding in _in_threads(dataset, threads):
        names.append(name)
        findings.append(finding)
    class_pixels = sum((each.class_pixels for each in findings), np.zeros(dataset.num_labels, np.int64))
    ignored = sum(each.ignored_pixels for each in findings)
    problems = _grouped(itertools.chain.from_iterable(each.problems for each in findings))
    problems += _mask_of_an_object(dataset, names, findings, class_pixels, ignored)
    ranges = [each.value_range for each in findings if each.value_range is not None]
    report = DatasetReport(
        dataset.name,
        len(findings),
        dataset.class_names,
        tuple(int(count) for count in class_pixels),
        ignored,
        tuple(problems),
        tuple(_warnings(dataset, names, findings, class_pixels)),
        tuple(size for size, _ in Counter(each.size for each in findings if each.size is not None).most_common()),
        tuple(sorted({each.channels for each in findings if each.channels is not None})),
        tuple(sorted({each.dtype for each in findings if each.dtype is not None})),
        (min(low for low, _ in ranges), max(high for _, high in ranges)) if ranges else None,
    )
    return report, {each.digest: name for name, each in zip(names, findings, strict=True) if each.digest}


def _in_threads(dataset: LabelledDataset, threads: int) -> Iterator[tuple[str, Finding]]:
    """Name and finding of all examples, in order."""
    examples, image_type = iter(dataset), dataset.image_type
    with ThreadPoolExecutor(threads) as pool:
        while group := list(itertools.islice(examples, _AT_ONCE)):
            names = [example.name for example in group]
            yield from zip(
                names, pool.map(lambda each: examine(each, dataset.num_labels, image_type), group), strict=True
            )


def _grouped(problems: Iterable[tuple[str, str]]) -> list[Problem]:
    """The problems by kind, the most frequent first."""
    groups: dict[str, list[str]] = {}
    for kind, message in problems:
        groups.setdefault(kind, []).append(message)
    ranking = sorted(groups.items(), key=lambda item: -len(item[1]))
    return [Problem(kind, len(messages), tuple(messages[:EXAMPLES])) for kind, messages in ranking]


def _mask_of_an_object(
    dataset: LabelledDataset, names: list[str], findings: list[Finding], class_pixels: np.ndarray, ignored: int
) -> list[Problem]:
    """Masks of 0 and 255, in which 255 is the object and not "ignore"."""
    only_zero = class_pixels[0] > 0 and not class_pixels[1:].any() and dataset.num_labels > 1
    if not (_is_plain(dataset) and only_zero and ignored and not any(each.values_beyond for each in findings)):
        return []
    name = dataset.class_names[1]
    remedy = (
        f"{IGNORE_INDEX} is ignored, so class 1 ({name}) never occurs. If {IGNORE_INDEX} is that class: "
        f"kind='binary' (--kind binary), or class_of_value={{'{dataset.class_names[0]}': 0, '{name}': {IGNORE_INDEX}}} "
        "(--map)"
    )
    return [Problem(_MASK, len(findings), tuple(names[:EXAMPLES]), remedy)]


def _is_plain(dataset: LabelledDataset) -> bool:
    """Whether the values of the label files are taken as class indices."""
    return dataset.name.startswith("folder/") and getattr(dataset, "class_of_value", IDENTITY) is IDENTITY


def _rare_classes(report: DatasetReport) -> Iterator[str]:
    """Classes that the loss hardly sees."""
    rare = {name: each for name, each in report.class_fractions.items() if 0 < each < _RARE}
    if rare:
        shown = [f"{name} {100 * each:.2g} %" for name, each in itertools.islice(rare.items(), SHOWN_CLASSES)]
        more = [f"{len(rare) - SHOWN_CLASSES} more"] if len(rare) > SHOWN_CLASSES else []
        yield (
            f"below {100 * _RARE:.0f} % of the training pixels: {', '.join([*shown, *more])}; class weights keep such "
            "classes from being left out (--class-weights balanced)"
        )


def balanced_weights(report: DatasetReport) -> list[float]:
    """Class weights for the loss: the square root of the median fraction by the class's own, at most 10.

    Args:
        report: Of the training split.

    Returns:
        One weight per class; 1 where a class never occurs.

    Example:
        >>> balanced_weights(DatasetReport("x", 1, ("road", "sky", "sign"), (80, 20, 5), 0))
        [0.5, 1.0, 2.0]
    """
    fractions = np.array(list(report.class_fractions.values()))
    occurs = fractions > 0
    median = np.median(fractions[occurs]) if occurs.any() else 1.0
    weights = np.sqrt(median / np.where(occurs, fractions, median))
    return [round(float(weight), 3) for weight in np.minimum(weights, _LARGEST_WEIGHT)]


def _warnings(
    dataset: LabelledDataset, names: list[str], findings: list[Finding], class_pixels: np.ndarray
) -> Iterator[str]:
    """What may be a mistake."""
    for doubt, remedy in REMEDIES.items():
        doubtful = [name for name, each in zip(names, findings, strict=True) if doubt in each.doubts]
        if doubtful:
            yield f"{counted(len(doubtful), 'image')} {doubt}, such as {doubtful[0]}: {remedy}"
    values_beyond = set().union(*(each.values_beyond for each in findings))
    all_counted = all(each.labels_were_read for each in findings)
    last = _counted_from_one(dataset, class_pixels, values_beyond)
    if all_counted and last is not None:
        first = _FIRST if dataset.class_names[0] == _FIRST else f"{_FIRST} ({dataset.class_names[0]})"
        yield (
            f"{first} is never labelled, but {last} is: do these labels count from 1? "
            "Classes count from 0: name the value of each class, class_of_value={'NAME': 1, ...} (--map), or save the "
            f"labels less one, with {IGNORE_INDEX} for pixels of no class"
        )
    elif all_counted:
        absent = [name for name, count in zip(dataset.class_names, class_pixels, strict=True) if not count]
        if absent:
            undefined = "; their IoU is undefined and left out of mIoU: move images that show them to the validation"
            yield f"never labelled: {', '.join(absent)}" + undefined * dataset.name.endswith("/val")


def _counted_from_one(dataset: LabelledDataset, class_pixels: np.ndarray, values_beyond: set[int]) -> int | None:
    """The last value of labels that may count from 1, None where nothing says so."""
    if class_pixels[0]:
        return None
    if values_beyond == {dataset.num_labels}:
        return dataset.num_labels
    is_unnamed = _is_plain(dataset) and dataset.class_names[0] == _FIRST
    is_of_training = not dataset.name.endswith("/val")
    all_others = class_pixels[1:].all() and not values_beyond and dataset.num_labels > 1
    return dataset.num_labels - 1 if is_unnamed and is_of_training and all_others else None


def _message(report: DatasetReport) -> str:
    """The text of the error: every kind of problem, and the warnings that may explain it."""
    count = counted(sum(problem.count for problem in report.problems), "problem")
    heading = f"{report.name}: {count}; mend or remove these files:"
    return "\n  ".join([heading, *map(str, report.problems), *report.warnings])
