"""Which images a command line means: files, folders, patterns, a list on standard input."""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterable
from pathlib import Path

from tf_segformer.imaging.arrays import ARRAY_SUFFIXES
from tf_segformer.imaging.files import IMAGE_SUFFIXES
from tf_segformer.inference import video
from tf_segformer.raster.read import DRIVERS

SUFFIXES = {*IMAGE_SUFFIXES, *ARRAY_SUFFIXES, *DRIVERS, *video.SUFFIXES}
"""What `predict` takes from a folder: images, arrays, rasters and videos."""


def expand_inputs(arguments: Iterable[str]) -> tuple[list[Path], list[str]]:
    """Turns arguments into files.

    Args:
        arguments: Files; folders, whose files with one of `SUFFIXES` are taken, not those of folders below; patterns
            such as "photos/*.jpg" that the shell left alone; "-" for one path a line on standard input.

    Returns:
        The files in order, each once, whether they exist or not; and messages on arguments that name no image.
    """
    files: dict[Path, None] = {}
    problems: list[str] = []
    for argument in arguments:
        if argument == "-":
            found = [Path(line) for line in sys.stdin.read().splitlines() if line.strip()]
            problem = "-: there is no path on standard input"
        elif Path(argument).is_dir():
            found = sorted(
                path for path in Path(argument).iterdir() if path.suffix.lower() in SUFFIXES and path.is_file()
            )
            problem = f"{argument}: there is no image, raster or video in this folder"
        elif glob.has_magic(argument) and not Path(argument).exists():
            found = sorted(Path(path) for path in glob.glob(argument, recursive=True) if Path(path).is_file())
            problem = f"{argument}: no file matches this pattern"
        else:
            found, problem = [Path(argument)], ""
        if not found:
            problems.append(problem)
        files.update(dict.fromkeys(found))
    return list(files), problems
