"""Results: tables in Markdown, the machine that they were measured on, and one line of JSON at the end."""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """One table: a heading, rows of values by column, what was not measured and why (by title), and notes."""

    heading: str
    rows: Sequence[Row]
    notes: str = ""
    skipped: Mapping[str, str] = field(default_factory=dict)

    def markdown(self) -> str:
        """The table as Markdown that also reads as text."""
        columns = list(dict.fromkeys(column for row in self.rows for column in row))
        cells = [[_cell(row.get(column)) for column in columns] for row in self.rows]
        skipped = "\n".join(f"- skipped: {title}: {reason}" for title, reason in self.skipped.items())
        parts = [f"### {self.heading}", table(columns, cells), skipped, self.notes]
        return "\n\n".join(part for part in parts if part) + "\n"


def publish(benchmark: str, tables: Iterable[Table], output: str | None = None) -> None:
    """Prints each table as it comes, and all of them as one line of JSON at the end.

    Args:
        benchmark: Name of the script.
        tables: Measured one after the other.
        output: File to add the Markdown to.
    """
    results = []
    for each in tables:
        print(each.markdown(), flush=True)
        if output:
            with Path(output).open("a", encoding="utf-8") as file:
                file.write(each.markdown() + "\n")
        rows = [{column: _number(value) for column, value in row.items()} for row in each.rows]
        results.append({"heading": each.heading, "rows": rows, "skipped": dict(each.skipped), "notes": each.notes})
    print(json.dumps({"benchmark": benchmark, "results": results}), flush=True)


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

    def align(cells: Sequence[str]) -> str:
        first, *others = (
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join([first, *others])} |"

    rule = align(
        [("-" * (width - 1) + ":") if column else ":" + "-" * (width - 1) for column, width in enumerate(widths)]
    )
    return "\n".join([align(lines[0]), rule, *map(align, lines[1:])])


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
    named = "".join(f", {name} {' and '.join(sorted(each))}" for name, each in sorted(all_versions.items()))
    unseen = f" Hidden from all: {', '.join(hidden)}." if hidden else ""
    return (
        f"{_processor()}, {cores} cores, {_memory_gibibytes():.0f} GiB, {platform.system()}, load at the end "
        f"{os.getloadavg()[0]:.1f}; Python {platform.python_version()}{named}.{unseen}"
    )


def _cell(value: object) -> str:
    """A value with four significant digits, or all of those before the point; empty where there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _number(value: object) -> object:
    """A value as JSON has it: six significant digits, null instead of NaN."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None


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
