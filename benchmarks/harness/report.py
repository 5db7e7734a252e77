"""Tables in Markdown, and the machine that they were taken on."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table, aligned for reading as text: the first column to the left, the others to the right.

    Example:
        >>> print(table(["engine", "ms"], [["this project", 41], ["a peer", 105]]))
        | engine       |  ms |
        | :----------- | --: |
        | this project |  41 |
        | a peer       | 105 |
    """
    lines = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(header))]

    def draw(cells: Sequence[str]) -> str:
        first, *others = (
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join([first, *others])} |"

    rule = draw(
        [("-" * (width - 1) + ":") if column else ":" + "-" * (width - 1) for column, width in enumerate(widths)]
    )
    return "\n".join([draw(lines[0]), rule, *map(draw, lines[1:])])


def machine(versions: Iterable[Mapping[str, str]], hidden: Sequence[str] = ()) -> str:
    """The machine, how busy it is, and the versions of what was measured, in one sentence; nothing that names it.

    Args:
        versions: Version by name of each engine; two environments may have two versions of one name.
        hidden: Modules that no engine could find.
    """
    all_versions: dict[str, set[str]] = {}
    for each in versions:
        for name, version in each.items():
            all_versions.setdefault(name, set()).add(version)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    named = ", ".join(f"{name} {' and '.join(sorted(each))}" for name, each in sorted(all_versions.items()))
    unseen = f" Hidden from all: {', '.join(hidden)}." if hidden else ""
    return (
        f"{_processor()}, {cores} cores, {_memory_gibibytes():.0f} GiB, {platform.system()}, load at the end "
        f"{os.getloadavg()[0]:.1f}; Python {platform.python_version()}, {named}.{unseen}"
    )


def skipped_lines(skipped: Mapping[str, str], titles: Mapping[str, str]) -> str:
    """A list of the peers that were not measured, and why, set apart from a table above it; empty without any."""
    return "".join(f"\n- skipped: {titles[key]}: {reason}" for key, reason in skipped.items())


def write(text: str, path: str | None) -> None:
    """Prints a result and, where a path is given, adds it to that file."""
    print(text, flush=True)
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(text + "\n")


def _processor() -> str:
    """Model of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_gibibytes() -> float:
    if sys.platform == "win32":
        return float("nan")
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
