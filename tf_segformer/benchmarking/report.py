"""What `benchmark` measured, as a table, as JSON and as a plot."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tf_segformer.benchmarking.measure import Row
from tf_segformer.io import atomic_write

_COLUMNS = ("form", "MB", "load s", "ms", "ratio", "peak MB", "agreement", "mIoU")  # as wide as a terminal


def table_of(rows: Sequence[Row], title: str) -> Any:
    """A table of rich of the forms that were measured, the fastest first.

    Args:
        rows: From `benchmark`.
        title: What stands above.

    Returns:
        A `rich.table.Table`.

    Example:
        >>> table_of([Row("checkpoint:float32", ms=10.0, bytes=2_000_000)], "camvid-b0").row_count
        1
    """
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name == _COLUMNS[0] else "right", no_wrap=True)
    first = rows[0].ms
    for row in _measured(rows):
        relative = None if first is None or row.ms is None else row.ms / first
        numbers = (_scaled(row.bytes), row.load_seconds, row.ms)
        table.add_row(
            row.form,
            *(_number(each, 1) for each in numbers),
            _number(relative, 2),
            _number(_scaled(row.peak_bytes), 0),
            _percent(row.agreement),
            _percent(row.miou),
        )
    return table


def reasons_of(rows: Sequence[Row]) -> list[str]:
    """Why the other forms were not measured, a line each.

    Args:
        rows: From `benchmark`.

    Returns:
        The lines.

    Example:
        >>> reasons_of([Row("onnx:float32", skipped="onnxruntime is not installed")])
        ['onnx:float32: onnxruntime is not installed']
    """
    return [f"{row.form}: {row.skipped}" for row in rows if row.skipped]


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows as JSON has them: only what was measured, null for what is not a number.

    Args:
        rows: From `benchmark`.

    Returns:
        One object for each form.

    Example:
        >>> as_json([Row("onnx:float32", skipped="not installed")])
        [{'form': 'onnx:float32', 'skipped': 'not installed'}]
    """
    return [
        {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in dataclasses.asdict(row).items()
            if value is not None
        }
        for row in rows
    ]


def save_plot(rows: Sequence[Row], path: Path, title: str) -> Path:
    """Plots the time of each form as a bar, with its size, and its mIoU or agreement.

    Args:
        rows: From `benchmark`.
        path: PNG file to write.
        title: What stands above.

    Returns:
        The path.
    """
    from matplotlib.figure import Figure

    measured = _measured(rows)[::-1]  # the fastest at the top
    figure = Figure(figsize=(9, 1.2 + 0.4 * len(measured)), layout="constrained")
    axes = figure.add_subplot()
    times = [row.ms or 0.0 for row in measured]
    colors = ["#2c7fb8" if row is not rows[0] else "#7f7f7f" for row in measured]
    bars = axes.barh([row.form for row in measured], times, color=colors)
    axes.bar_label(bars, [_note(row) for row in measured], padding=4, fontsize=9)
    axes.set_xlim(0, 1.75 * max(times, default=1))  # the notes stand to the right of the bars
    axes.set_xlabel("ms for a batch, median")
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_write(path) as partial:
        figure.savefig(partial, format="png", dpi=120)
    return path


def _note(row: Row) -> str:
    quality = f"agreement {_percent(row.agreement)} %" if row.miou is None else f"mIoU {_percent(row.miou)} %"
    return f"{_number(row.ms, 1)} ms, {_number(_scaled(row.bytes), 1)} MB, {quality}"


def _measured(rows: Sequence[Row]) -> list[Row]:
    """The rows with a time, the fastest first."""
    return sorted((row for row in rows if row.ms is not None), key=lambda row: row.ms or 0.0)


def _scaled(count: int | None) -> float | None:
    return None if count is None else count / 1e6


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _percent(fraction: float | None) -> str:
    return "" if fraction is None or math.isnan(fraction) else f"{100 * fraction:.2f}"
