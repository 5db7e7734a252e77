"""check_dataset: opens every file before the first training step, counts the classes and lists what is wrong."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from tf_segformer.data.datasets import IGNORE_INDEX, LabelledDataset, LabelledImage
from tf_segformer.errors import DatasetError, ImageError

_EXAMPLES = 3  # files that are named for each kind of problem
_SHOWN_CLASSES = 12
_AT_ONCE = 256  # examples handed to the threads; those of shards hold their bytes
_BEYOND, _SIZE = "labels beyond the classes", "labels of another size than their image"


@dataclass(frozen=True)
class Problem:
    """What is wrong with some files in the same way.

    Args:
        kind: What they have in common.
        count: Number of files.
        examples: The messages of the first three.

    Example:
        >>> print(Problem("no such file", 5, ("a.png: no such file", "b.png: no such file", "c.png: no such file")))
        no such file, 5 files:
            a.png: no such file
            b.png: no such file
            c.png: no such file
            and 2 more
    """

    kind: str
    count: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        more = [f"and {self.count - len(self.examples)} more"] if self.count > len(self.examples) else []
        heading = f"{self.kind}, {_counted(self.count, 'file')}:"
        return "\n    ".join([heading, *self.examples, *more])


@dataclass(frozen=True)
class DatasetReport:
    """What `check_dataset` found; `print` shows it.

    Args:
        name: Kind and split of the dataset.
        images: Number of examples.
        class_names: Class names by index.
        class_pixels: Pixels of each class in the labels.
        ignored_pixels: Pixels that do not count.
        problems: What keeps the dataset from being used, grouped.
        warnings: What is allowed, but is often a mistake.

    Example:
        >>> print(DatasetReport("folder/val", 2, ("road", "sky"), (30, 10), 10))
        folder/val: 2 images, 2 classes
          road 75.0 %, sky 25.0 %; 20.0 % of the pixels are ignored
    """

    name: str
    images: int
    class_names: tuple[str, ...]
    class_pixels: tuple[int, ...]
    ignored_pixels: int
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def class_fractions(self) -> dict[str, float]:
        """Each class's fraction of the pixels that count."""
        total = max(sum(self.class_pixels), 1)
        return {name: count / total for name, count in zip(self.class_names, self.class_pixels, strict=True)}

    @property
    def ignored_fraction(self) -> float:
        """The fraction of all pixels that do not count."""
        return self.ignored_pixels / max(sum(self.class_pixels) + self.ignored_pixels, 1)

    def __str__(self) -> str:
        ranking = sorted(self.class_fractions.items(), key=lambda item: -item[1])
        classes = [f"{name} {100 * fraction:.1f} %" for name, fraction in ranking[:_SHOWN_CLASSES]]
        if len(ranking) > _SHOWN_CLASSES:
            classes.append(f"{len(ranking) - _SHOWN_CLASSES} more classes")
        lines = [
            f"{self.name}: {_counted(self.images, 'image')}, {len(self.class_names)} classes",
            f"{', '.join(classes)}; {100 * self.ignored_fraction:.1f} % of the pixels are ignored",
            *(f"warning: {warning}" for warning in self.warnings),
            *(f"error: {problem}" for problem in self.problems),
        ]
        return "\n  ".join(lines)


def check_dataset(dataset: LabelledDataset, *, threads: int = 4, raise_on_problems: bool = True) -> DatasetReport:
    """Decodes every image and label map.

    Args:
        dataset: What `find_dataset` or `open_tfrecords` found.
        threads: Files opened at once.
        raise_on_problems: Whether a dataset that cannot be used is an error; otherwise its problems are in the report.

    Returns:
        The report.

    Raises:
        DatasetError: Naming, by kind of problem, how many files are missing, damaged, mismatched or out of range, and
            three of them.

    Example:
        >>> report = check_dataset(find_dataset("camvid", "CamVid", "train"))
        >>> len(report.class_fractions), report.problems
        (11, ())
    """
    findings = list(_in_threads(dataset, threads))
    class_pixels = sum((each.class_pixels for each in findings), np.zeros(dataset.num_labels, np.int64))
    problems = _grouped(itertools.chain.from_iterable(each.problems for each in findings))
    report = DatasetReport(
        dataset.name,
        len(findings),
        dataset.class_names,
        tuple(int(count) for count in class_pixels),
        sum(each.ignored_pixels for each in findings),
        tuple(problems),
        tuple(_warnings(dataset, findings, class_pixels)),
    )
    if problems and raise_on_problems:
        raise DatasetError(_message(report))
    return report


@dataclass
class _Finding:
    """What one example holds: problems as (kind, message), pixels of each class, values that are no class."""

    class_pixels: np.ndarray
    ignored_pixels: int = 0
    labels_were_read: bool = False
    values_beyond: set[int] = field(default_factory=set)
    problems: list[tuple[str, str]] = field(default_factory=list)


def _in_threads(dataset: LabelledDataset, threads: int) -> Iterator[_Finding]:
    """The findings of all examples, in order."""
    examples = iter(dataset)
    with ThreadPoolExecutor(threads) as pool:
        while group := list(itertools.islice(examples, _AT_ONCE)):
            yield from pool.map(lambda example: _check_example(example, dataset.num_labels), group)


def _check_example(example: LabelledImage, num_labels: int) -> _Finding:
    """Opens image and labels of one example."""
    finding = _Finding(np.zeros(num_labels, np.int64))
    sizes = []
    try:
        width, height = example.read_image().size
        sizes.append((width, height))
    except ImageError as error:
        finding.problems.append(_problem(error, example.name))
    try:
        labels = example.read_labels()
        sizes.append((labels.shape[1], labels.shape[0]))
        _count(labels, example, finding)
    except ImageError as error:
        finding.problems.append(_problem(error, example.labels_name))
    if len(set(sizes)) > 1:
        image_size, label_size = (f"{width} x {height}" for width, height in sizes)
        message = f"{example.labels_name}: {label_size} pixels, but its image {example.name} has {image_size}"
        finding.problems.append((_SIZE, message))
    return finding


def _count(labels: np.ndarray, example: LabelledImage, finding: _Finding) -> None:
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
                _BEYOND,
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


def _grouped(problems: Iterable[tuple[str, str]]) -> list[Problem]:
    """The problems by kind, the most frequent first."""
    groups: dict[str, list[str]] = {}
    for kind, message in problems:
        groups.setdefault(kind, []).append(message)
    ranking = sorted(groups.items(), key=lambda item: -len(item[1]))
    return [Problem(kind, len(messages), tuple(messages[:_EXAMPLES])) for kind, messages in ranking]


def _warnings(dataset: LabelledDataset, findings: list[_Finding], class_pixels: np.ndarray) -> Iterator[str]:
    """What may be a mistake."""
    values_beyond = set().union(*(each.values_beyond for each in findings))
    all_counted = all(each.labels_were_read for each in findings)
    if all_counted and class_pixels[0] == 0 and values_beyond == {dataset.num_labels}:
        yield (
            f"class 0 ({dataset.class_names[0]}) is never labelled, but {dataset.num_labels} is: do these labels count "
            f"from 1? Classes count from 0: save the labels less one, with {IGNORE_INDEX} for pixels of no class"
        )
    elif all_counted:
        absent = [name for name, count in zip(dataset.class_names, class_pixels, strict=True) if not count]
        if absent:
            yield f"never labelled: {', '.join(absent)}"


def _message(report: DatasetReport) -> str:
    """The text of the error: every kind of problem, and the warnings that may explain it."""
    count = _counted(sum(problem.count for problem in report.problems), "problem")
    heading = f"{report.name}: {count}; mend or remove these files:"
    return "\n  ".join([heading, *map(str, report.problems), *report.warnings])


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
