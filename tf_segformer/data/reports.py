"""What the checks of a dataset report, as text and as plain values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

EXAMPLES = 3  # files that are named for each kind of problem
SHOWN_CLASSES = 12


@dataclass(frozen=True)
class Problem:
    """What is wrong with some files in the same way.

    Args:
        kind: What they have in common.
        count: Number of files.
        examples: The messages of the first three.
        remedy: What to do about it, where the messages do not say so.

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
    remedy: str = ""

    def __str__(self) -> str:
        more = [f"and {self.count - len(self.examples)} more"] if self.count > len(self.examples) else []
        heading = f"{self.kind}, {counted(self.count, 'file')}:"
        remedy = [self.remedy] if self.remedy else []
        return "\n    ".join([heading, *remedy, *self.examples, *more])


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
        sizes: Width and height of the images, the most frequent first.
        channels: Numbers of bands of the images.
        dtypes: Types of their values.
        value_range: The lowest and the highest value, or None where no image could be read.

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
    sizes: tuple[tuple[int, int], ...] = ()
    channels: tuple[int, ...] = ()
    dtypes: tuple[str, ...] = ()
    value_range: tuple[float, float] | None = None

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
        classes = [f"{name} {100 * fraction:.1f} %" for name, fraction in ranking[:SHOWN_CLASSES]]
        if len(ranking) > SHOWN_CLASSES:
            classes.append(f"{len(ranking) - SHOWN_CLASSES} more classes")
        lines = [
            f"{self.name}: {counted(self.images, 'image')}, {len(self.class_names)} classes",
            f"{', '.join(classes)}; {100 * self.ignored_fraction:.1f} % of the pixels are ignored",
            *_described(self),
            *(f"warning: {warning}" for warning in self.warnings),
            *(f"error: {problem}" for problem in self.problems),
        ]
        return "\n  ".join(lines)


@dataclass(frozen=True)
class FolderReport:
    """What `check_dataset` found in a folder with both splits; `print` shows it.

    Args:
        splits: The report of each split.
        problems: What is wrong with the splits together.
        warnings: What may be a mistake.

    Example:
        >>> from tf_segformer.data import check_dataset
        >>> report = check_dataset("CamVid")
        >>> report.can_train, report.kind, report.to_dict()["splits"]["val"]["images"]
        (True, 'folder', 2)
    """

    splits: dict[str, DatasetReport]
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """The kind of layout."""
        return next(iter(self.splits.values())).name.partition("/")[0]

    @property
    def all_problems(self) -> tuple[Problem, ...]:
        """Those of the splits, and those of both together."""
        return (*(problem for report in self.splits.values() for problem in report.problems), *self.problems)

    @property
    def can_train(self) -> bool:
        """Whether nothing keeps the dataset from being used."""
        return not self.all_problems

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, as `tf-segformer check --json` prints them."""
        reports = self.splits.values()
        return {
            "kind": self.kind,
            "class_names": list(next(iter(reports)).class_names),
            "splits": {
                split: {
                    "images": report.images,
                    "class_fractions": report.class_fractions,
                    "ignored_fraction": report.ignored_fraction,
                }
                for split, report in self.splits.items()
            },
            "channels": _one_or_all(sorted({count for report in reports for count in report.channels})),
            "dtype": _one_or_all(sorted({dtype for report in reports for dtype in report.dtypes})),
            "problems": [asdict(problem) for problem in self.all_problems],
            "warnings": [
                *(f"{split}: {text}" for split, report in self.splits.items() for text in report.warnings),
                *self.warnings,
            ],
        }

    def __str__(self) -> str:
        lines = [str(report) for report in self.splits.values()]
        lines += [f"warning: {warning}" for warning in self.warnings]
        return "\n".join([*lines, *(f"error: {problem}" for problem in self.problems)])


def _described(report: DatasetReport) -> Iterator[str]:
    """Sizes, bands and values of the images."""
    if not report.sizes or report.value_range is None:
        return
    smallest, largest = (
        "{} x {}".format(*choose(report.sizes, key=lambda size: size[0] * size[1])) for choose in (min, max)
    )
    size = smallest if smallest == largest else f"{smallest} to {largest}"
    low, high = report.value_range
    channels = f"{' or '.join(map(str, report.channels))} channel{'' if report.channels == (1,) else 's'}"
    yield (f"{size} pixels, {channels} of {' or '.join(report.dtypes)}, values from {low:g} to {high:g}")


def _one_or_all(values: list[Any]) -> Any:
    """The value where all agree, None where there is none, else the list."""
    return values if len(values) > 1 else next(iter(values), None)


def counted(count: int, noun: str) -> str:
    """A number with its noun, which gets an s unless there is one.

    Args:
        count: Number.
        noun: In the singular.

    Returns:
        The text.

    Example:
        >>> counted(1, "image"), counted(1200, "image")
        ('1 image', '1,200 images')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
