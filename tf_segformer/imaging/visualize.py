"""Paints class maps: overlay with legend, comparison with the target and its errors, boundaries of segments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageFont

from tf_segformer.imaging.drawing import PAPER, font_for, framed, legend_panel, side_by_side, stacked, titled
from tf_segformer.imaging.labels import BACKGROUND_NAMES, IGNORED_COLOR, palette_for
from tf_segformer.imaging.postprocess import class_fractions

_ROWS = 256  # painted at once: indices of a whole large image would need gigabytes
_WRONG = (213, 64, 0)
_MIN_SIDE = 240  # smaller images are enlarged by a whole factor, so that their pixels can be seen
_MIN_OUTLINED_SIDE = 640  # the same where outlines are drawn


def colorize(class_map: np.ndarray, palette: np.ndarray) -> Image.Image:
    """Paints each pixel in its class's color.

    Args:
        class_map: Class indices (H, W); those outside the palette (255, for one) become black.
        palette: Colors (K, 3), uint8, as from `labels.palette_for`.

    Returns:
        RGB image of the same size.

    Example:
        >>> colorize(np.zeros((4, 6), int), palette_for("camvid")).getpixel((0, 0))
        (128, 128, 128)
    """
    class_map = np.asarray(class_map)
    table = np.concatenate([palette, [IGNORED_COLOR]]).astype(np.uint8)
    painted = np.empty((*class_map.shape, 3), np.uint8)
    for top in range(0, len(class_map), _ROWS):
        part = class_map[top : top + _ROWS]
        painted[top : top + _ROWS] = table[np.where((part >= 0) & (part < len(palette)), part, len(palette))]
    return Image.fromarray(painted)


def mask_image(class_map: np.ndarray, labels: Sequence[str], palette: np.ndarray | None = None) -> Image.Image:
    """A class map as an image whose pixel values are the classes, for programs and image viewers alike.

    Args:
        class_map: (H, W) classes.
        labels: Class names.
        palette: Colors (K, 3), uint8; None takes `palette_for(labels)`.

    Returns:
        An 8-bit image with the classes' colors as its palette; a 16-bit one for more than 256 classes.

    Example:
        >>> mask_image(np.eye(3, dtype=int), ["sky", "road"]).getpixel((0, 0))
        1
    """
    if len(labels) > 256:
        return Image.fromarray(class_map.astype(np.uint16))
    image = Image.fromarray(class_map.astype(np.uint8))
    image.putpalette((palette_for(labels) if palette is None else palette).tobytes())
    return image


def draw_overlay(
    image: Image.Image | np.ndarray,
    class_map: np.ndarray,
    labels: Sequence[str],
    *,
    palette: np.ndarray | None = None,
    alpha: float = 0.5,
    legend: bool = True,
    nodata: int | None = None,
) -> Image.Image:
    """Blends the class colors with the image and adds a legend of the classes, the largest first.

    A class named "background" is not painted: there the image stays as it is.

    Args:
        image: The image, RGB, of the size of the class map.
        class_map: Class indices (H, W).
        labels: Names of the K classes.
        palette: Colors (K, 3), uint8, such as `result.palette`; None takes `palette_for(labels)`.
        alpha: Weight of the colors, 0 (image only) to 1 (colors only).
        legend: Whether to add the legend at the right: the fraction of the image that each class covers.
        nodata: Value of pixels that are not of the image: they are not painted and count in no fraction.

    Returns:
        RGB image. Without the legend it has the size of the input; with it, images below 240 pixels are enlarged.

    Raises:
        ValueError: Sizes that differ, or alpha out of range.

    Example:
        >>> draw_overlay(Image.new("RGB", (60, 40)), np.zeros((40, 60), int), ["sky"], legend=False).size
        (60, 40)
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], but is {alpha}.")
    palette = palette_for(labels) if palette is None else palette
    image, [class_map] = _checked(image, class_map)
    background = [index for index, name in enumerate(labels) if str(name).lower() in BACKGROUND_NAMES]
    bare = np.isin(class_map, background if nodata is None else [*background, nodata])
    blended = Image.blend(image, colorize(class_map, palette), alpha)
    blended.paste(image, mask=Image.fromarray(bare.astype(np.uint8) * 255))
    if not legend:
        return blended
    swatches = palette.copy()
    swatches[background] = PAPER
    return _with_legend(_enlarged(blended), [class_map], labels, swatches, nodata=nodata)


def draw_comparison(
    image: Image.Image | np.ndarray,
    prediction: np.ndarray,
    target: np.ndarray,
    labels: Sequence[str],
    *,
    palette: np.ndarray | None = None,
    ignore_index: int = 255,
) -> Image.Image:
    """Shows the image, the prediction, the target and the errors next to each other, with one legend.

    Args:
        image: The image, RGB, of the size of the maps.
        prediction: Predicted class indices (H, W).
        target: True class indices (H, W).
        labels: Names of the K classes.
        palette: Colors (K, 3), uint8, such as `result.palette`; None takes `palette_for(labels)`.
        ignore_index: Label of the target that counts neither as right nor as wrong; painted black.

    Returns:
        RGB image; the legend gives the fractions of the prediction.

    Raises:
        ValueError: Sizes that differ.

    Example:
        >>> maps = np.zeros((40, 60), int)
        >>> draw_comparison(Image.new("RGB", (60, 40)), maps, maps, ["sky"]).mode
        'RGB'
    """
    palette = palette_for(labels) if palette is None else palette
    image, [prediction, target] = _checked(image, prediction, target)
    wrong, counted = _errors(prediction, target, ignore_index)
    panels = {
        "Image": image,
        "Prediction": colorize(prediction, palette),
        "Target": colorize(target, palette),
        f"Errors ({_percent(wrong / max(counted, 1))} of labelled pixels)": _paint_errors(
            image, prediction, target, ignore_index
        ),
    }
    panels = {title: _enlarged(panel) for title, panel in panels.items()}
    first = panels["Image"]
    font = font_for(first)
    gap = round(font.size * 0.75)
    with_titles = [titled(panel, title, font) for title, panel in panels.items()]
    per_row = 1 if first.width > 2.2 * first.height else 4 if first.height > 1.6 * first.width else 2
    rows = [side_by_side(with_titles[start : start + per_row], gap) for start in range(0, 4, per_row)]
    grid = stacked(rows, gap)
    return framed(_with_legend(grid, [prediction, target], labels, palette, font), gap)


def draw_boundaries(
    image: Image.Image | np.ndarray,
    class_map: np.ndarray,
    labels: Sequence[str],
    *,
    palette: np.ndarray | None = None,
) -> Image.Image:
    """Draws the outlines of the segments in the colors of their classes, with a legend; the image stays visible.

    Args:
        image: The image, RGB, of the size of the class map.
        class_map: Class indices (H, W).
        labels: Names of the K classes.
        palette: Colors (K, 3), uint8, such as `result.palette`; None takes `palette_for(labels)`.

    Returns:
        RGB image with the legend at its right. Images below 640 pixels are enlarged by a whole factor.

    Raises:
        ValueError: Sizes that differ.

    Example:
        >>> draw_boundaries(Image.new("RGB", (800, 800)), np.eye(800, dtype=int), ["sky", "road"]).height
        800
    """
    palette = palette_for(labels) if palette is None else palette
    image, [class_map] = _checked(image, class_map)
    image = _enlarged(image, _MIN_OUTLINED_SIDE)
    factor = image.height // class_map.shape[0]
    segments = np.repeat(np.repeat(class_map, factor, axis=0), factor, axis=1)
    radius = max(2, round(min(segments.shape) / 250))
    outer, inner = _near_boundary(segments, radius + 1), _near_boundary(segments, radius)
    pixels = np.asarray(image).copy()
    pixels[outer] = 255  # a white rim keeps dark colors visible on dark ground
    pixels[inner] = np.asarray(colorize(segments, palette))[inner]
    return _with_legend(Image.fromarray(pixels), [class_map], labels, palette)


def as_rgb(image: Image.Image | np.ndarray) -> np.ndarray:
    """An image of any bands and type for the eye.

    Args:
        image: Pillow image, or (H, W, C).

    Returns:
        (H, W, 3) uint8: the first three bands, or the first one in gray; values that are not 8-bit are stretched from
        the 2nd to the 98th percentile of each band.

    Example:
        >>> as_rgb(np.full((2, 2, 5), 900, np.uint16)).shape
        (2, 2, 3)
    """
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    bands = np.asarray(image)
    bands = bands[..., None] if bands.ndim == 2 else bands
    bands = np.repeat(bands[..., :1], 3, axis=-1) if bands.shape[-1] < 3 else bands[..., :3]
    if bands.dtype == np.uint8:
        return np.ascontiguousarray(bands)
    low, high = np.percentile(bands.astype(np.float64), (2, 98), axis=(0, 1))  # (3,) each
    return (np.clip((bands - low) / np.maximum(high - low, 1e-9), 0, 1) * 255).astype(np.uint8)


def _checked(image: Image.Image | np.ndarray, *class_maps: np.ndarray) -> tuple[Image.Image, list[np.ndarray]]:
    """Returns the image in RGB and the maps as arrays, if they have the same size."""
    if not isinstance(image, Image.Image):
        image = Image.fromarray(as_rgb(image))
    checked = [np.asarray(class_map) for class_map in class_maps]
    for class_map in checked:
        if class_map.shape != (image.height, image.width):
            size = (image.height, image.width)
            raise ValueError(f"The image is {size} (height, width), but a class map is {class_map.shape}.")
    return image.convert("RGB"), checked


def _enlarged(image: Image.Image, min_side: int = _MIN_SIDE) -> Image.Image:
    """Enlarges an image by a whole factor until its longer side has at least `min_side` pixels."""
    factor = -(-min_side // max(image.size))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _errors(prediction: np.ndarray, target: np.ndarray, ignore_index: int) -> tuple[int, int]:
    """Counts the wrong and the counted pixels."""
    counted = target != ignore_index
    return int(np.count_nonzero((prediction != target) & counted)), int(np.count_nonzero(counted))


def _paint_errors(image: Image.Image, prediction: np.ndarray, target: np.ndarray, ignore_index: int) -> Image.Image:
    """Paints wrong pixels over a pale copy of the image."""
    pale = np.asarray(Image.blend(image.convert("L").convert("RGB"), Image.new("RGB", image.size, PAPER), 0.6)).copy()
    pale[(prediction != target) & (target != ignore_index)] = _WRONG
    pale[target == ignore_index] = IGNORED_COLOR
    return Image.fromarray(pale)


def _near_boundary(class_map: np.ndarray, radius: int) -> np.ndarray:
    """Marks the pixels with another class at most `radius` rows or columns away."""
    near = np.zeros(class_map.shape, bool)
    for step in range(1, radius + 1):
        for axis in (0, 1):
            if step >= class_map.shape[axis]:
                continue
            ahead, behind = [slice(None)] * 2, [slice(None)] * 2
            ahead[axis], behind[axis] = slice(step, None), slice(None, -step)
            differs = class_map[tuple(ahead)] != class_map[tuple(behind)]
            near[tuple(ahead)] |= differs
            near[tuple(behind)] |= differs
    return near


def _with_legend(
    image: Image.Image,
    class_maps: Sequence[np.ndarray],
    labels: Sequence[str],
    palette: np.ndarray,
    font: ImageFont.FreeTypeFont | None = None,
    nodata: int | None = None,
) -> Image.Image:
    """Adds a legend of the classes in the maps; the fractions are those of the first map without its nodata."""
    fractions = np.stack([class_fractions(class_map, len(palette), nodata) for class_map in class_maps])
    present = np.flatnonzero(fractions.any(axis=0))
    order = sorted(present.tolist(), key=lambda index: (-fractions[0, index], index))
    entries = [(tuple(palette[index].tolist()), _name(labels, index), _percent(fractions[0, index])) for index in order]
    if fractions.sum(axis=1).min() < 1 - 0.5 / class_maps[0].size and (class_maps[0] != nodata).any():
        entries.append((IGNORED_COLOR, "unlabelled", ""))
    return side_by_side([image, legend_panel(entries, font or font_for(image), image.height)], gap=0)


def _name(labels: Sequence[str], index: int) -> str:
    """Name of a class, or its number where it has none."""
    name = str(labels[index]).strip() if index < len(labels) else f"class {index}"
    return name if len(name) <= 40 else name[:39] + "..."


def _percent(fraction: float) -> str:
    """A fraction as a short percentage."""
    return "<0.1 %" if 0 < fraction < 0.001 else f"{fraction:.1%}".replace("%", " %")
