"""A reduced view of a raster with its classes laid over, as an image with a legend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike

import numpy as np

from tf_segformer.imaging.drawing import PAPER
from tf_segformer.imaging.visualize import draw_overlay
from tf_segformer.io import atomic_write
from tf_segformer.raster.read import color_bands, open_raster

_MOST_PIXELS = 4_000_000
_PERCENTILES = (2, 98)


def raster_overlay(
    path: str | PathLike,
    classes: str | PathLike,
    overlay: str | PathLike,
    labels: dict[int, str],
    bands: Sequence[int] | None = None,
    alpha: float = 0.5,
) -> None:
    """Draws the first three bands, or the first one in gray, from the 2nd to the 98th percentile where not 8-bit.

    Pixels without a class are white, and the fractions in the legend are those of the others.

    Args:
        path: The raster.
        classes: Its class raster, whose color table is used.
        overlay: PNG to write; at most 4 million pixels, so without a place of its own.
        labels: Class names by index.
        bands: Which bands to show, from 1; None takes all but alpha.
        alpha: Weight of the colors.
    """
    with open_raster(path) as source, open_raster(classes) as predicted:
        step = max(1.0, math.sqrt(source.width * source.height / _MOST_PIXELS))
        shape = (max(1, round(source.height / step)), max(1, round(source.width / step)))
        chosen = list(bands or color_bands(source))
        chosen = chosen[:3] if len(chosen) >= 3 else chosen[:1] * 3
        pixels = np.moveaxis(source.read(chosen, out_shape=(3, *shape)), 0, -1)
        class_map = predicted.read(1, out_shape=shape)
        nodata = predicted.nodata
        table = predicted.colormap(1)
    palette = np.array([table[index][:3] for index in range(len(labels))], np.uint8)
    image = _as_8_bit(pixels, class_map != nodata)
    image[class_map == nodata] = PAPER
    painted = draw_overlay(image, class_map, list(labels.values()), palette=palette, alpha=alpha, nodata=int(nodata))
    with atomic_write(overlay) as partial:
        painted.save(partial, "PNG")


def _as_8_bit(pixels: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8; other types are stretched between percentiles of the valid pixels of each band."""
    if pixels.dtype == np.uint8:
        return pixels
    if not valid.any():
        return np.zeros(pixels.shape, np.uint8)
    low, high = np.percentile(pixels[valid].astype(np.float64), _PERCENTILES, axis=0)  # (3,) each
    scaled = (np.where(valid[..., None], pixels, low) - low) / np.maximum(high - low, 1e-9)
    return (np.clip(scaled, 0, 1) * 255).astype(np.uint8)
