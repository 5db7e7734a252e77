"""The one definition of where the pixels of a resized image lie in the original, for every array library."""

from __future__ import annotations

from typing import Any


def source_positions(pixels: Any, size_in: Any, size_out: Any) -> Any:
    """Positions of target pixels among source pixels with half-pixel centres (torch's align_corners=False).

    Computed in the dtype of the arguments: in float32 the positions are torch's to the last bit, so that class maps
    equal its own; in float64 they are those of the definition. Positions may lie half a source pixel outside.

    Args:
        pixels: Indices of target pixels, a floating array or tensor of any library.
        size_in: Length of the source in pixels, a number or scalar of that dtype.
        size_out: Length of the target, likewise.

    Returns:
        Array or tensor of the shape and dtype of `pixels`.

    Example:
        >>> import numpy as np
        >>> source_positions(np.arange(4, dtype=np.float32), np.float32(2), np.float32(4)).tolist()
        [-0.25, 0.25, 0.75, 1.25]
    """
    return (pixels + 0.5) * (size_in / size_out) - 0.5
