"""What `predict` writes: one group of files per image, each complete or absent."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from tf_segformer.imaging.stored import open_for_eye
from tf_segformer.imaging.visualize import draw_overlay, mask_image
from tf_segformer.inference.results import SegmentationResult, WrittenResult
from tf_segformer.io import atomic_write

_MOST_OVERLAY_PIXELS = 32_000_000  # overlays of larger images are painted at 1/2, 1/3, ... of their size
_OVERLAY_COMPRESSION = 3  # of a photo, 4 % more bytes in 0.4 of the time that zlib's default, 6, takes

KINDS = {"overlay": "_overlay.png", "mask": "_mask.png", "json": ".json", "logits": "_logits.npy"}


class OutputFolder:
    """Writes the files of many images into one folder; images of equal names get numbers.

    Args:
        folder: Where to write; made where it is missing.
        kinds: Some of `KINDS`.
        inputs: The images, which no output may replace.
        alpha: Weight of the colors in the overlay.
        apply_exif_orientation: Whether the images were turned before they were segmented.
    """

    def __init__(
        self,
        folder: Path,
        kinds: Iterable[str],
        inputs: Iterable[Path],
        alpha: float = 0.5,
        apply_exif_orientation: bool = False,
    ) -> None:
        self.folder = folder
        self.kinds = [kind for kind in KINDS if kind in set(kinds)]
        self._taken = {os.path.abspath(path).casefold() for path in inputs}
        self.alpha = alpha
        self._apply_exif_orientation = apply_exif_orientation

    def paths_for(self, result: SegmentationResult) -> dict[str, Path]:
        """The paths of the files of one result, by kind; no later result gets them.

        Args:
            result: The result of an image that came from a file.

        Returns:
            Path by kind.
        """
        assert result.source is not None  # `predict` passes paths
        return self.free_paths(Path(result.source).stem, {kind: KINDS[kind] for kind in self.kinds})

    def write(self, result: SegmentationResult, paths: Mapping[str, Path]) -> list[Path]:
        """Writes the files of one result; several threads may write at the same time.

        Args:
            result: The result of an image that came from a file.
            paths: What `paths_for` gave.

        Returns:
            The paths of the files.

        Raises:
            OSError: Where the folder cannot be written.
        """
        for kind, path in paths.items():
            with atomic_write(path) as partial:
                getattr(self, f"_write_{kind}")(partial, result)
        copied = _copy_world_file(Path(result.source or ""), paths["mask"]) if "mask" in paths else []
        return [*paths.values(), *copied]

    def write_json(self, path: Path, result: WrittenResult) -> None:
        """Writes what is known of a raster or video."""
        with atomic_write(path) as partial:
            self._write_json(partial, result)

    def free_paths(self, stem: str, suffixes: Mapping[str, str]) -> dict[str, Path]:
        """Paths of one input's files that no other input of this run has, nor is itself an input.

        Args:
            stem: Name of the input without its suffix.
            suffixes: What follows the stem, by kind.

        Returns:
            Path by kind.
        """
        number = 1
        while True:
            name = stem if number == 1 else f"{stem}_{number}"
            paths = {kind: self.folder / f"{name}{suffix}" for kind, suffix in suffixes.items()}
            keys = {os.path.abspath(path).casefold() for path in paths.values()}
            if not keys & self._taken:
                self._taken |= keys
                return paths
            number += 1

    def _write_mask(self, path: Path, result: SegmentationResult) -> None:
        mask_image(result.class_map, list(result.labels.values()), result.palette).save(path, "PNG")

    def _write_overlay(self, path: Path, result: SegmentationResult) -> None:
        assert result.source is not None
        image = open_for_eye(result.source, self._apply_exif_orientation)
        step = math.ceil(math.sqrt(result.class_map.size / _MOST_OVERLAY_PIXELS))
        if step > 1:
            image = image.reduce(step)
        class_map = result.class_map[::step, ::step]
        labels = list(result.labels.values())
        overlay = draw_overlay(image, class_map, labels, palette=result.palette, alpha=self.alpha)
        overlay.save(path, "PNG", compress_level=_OVERLAY_COMPRESSION)

    def _write_json(self, path: Path, result: SegmentationResult | WrittenResult) -> None:
        path.write_text(json.dumps(result.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def _write_logits(self, path: Path, result: SegmentationResult) -> None:
        assert result.logits is not None  # asked for with --save logits
        with path.open("wb") as file:  # np.save would add a suffix to the name
            np.save(file, result.logits)


def _copy_world_file(image: Path, mask: Path) -> list[Path]:
    """Keeps the place of an image that has a world file (.jgw, .jpgw, .wld), and its .prj, next to its mask."""
    ending = image.suffix[1:]
    names = [f".{ending[:1]}{ending[-1:]}w", f".{ending}w", ".wld"]
    found = next((path for name in names if (path := image.with_suffix(name)).is_file()), None)
    if found is None:
        return []
    copies = {found: mask.with_suffix(".pgw")}
    if (projection := image.with_suffix(".prj")).is_file():
        copies[projection] = mask.with_suffix(".prj")
    for source, target in copies.items():
        with atomic_write(target) as partial:
            shutil.copyfile(source, partial)
    return list(copies.values())
