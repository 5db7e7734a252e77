"""The image of a confusion matrix: which class was taken for which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tf_segformer.imaging.drawing import FRAME, INK, PAPER, scalable_font, text_size

# From white to dark blue through steps of equal lightness, as in ColorBrewer's "Blues".
_ANCHORS = np.array([[255, 255, 255], [222, 235, 247], [158, 202, 225], [66, 146, 198], [8, 81, 156], [8, 48, 107]])


def draw_confusion_matrix(
    matrix: np.ndarray, labels: Sequence[str], *, title: str = "Confusion matrix", font_size: int = 15
) -> Image.Image:
    """Draws a confusion matrix in percent of each true class.

    Args:
        matrix: Counts (K, K): pixels of true class (row) that were predicted as a class (column).
        labels: Names of the K classes.
        title: Heading.
        font_size: Height of the letters in pixels; everything else follows from it.

    Returns:
        RGB image. A row without pixels is grey. Numbers are written for at most 40 classes.

    Raises:
        ValueError: A matrix that is not (K, K) with K names.

    Example:
        >>> draw_confusion_matrix(np.eye(3), ["sky", "road", "car"]).mode
        'RGB'
    """
    matrix = np.asarray(matrix, np.float64)
    count = len(labels)
    if matrix.shape != (count, count):
        raise ValueError(f"The matrix has shape {matrix.shape}, but there are {count} class names.")
    totals = matrix.sum(axis=1, keepdims=True)
    percent = 100 * matrix / np.maximum(totals, 1e-300)

    font, heading = scalable_font(font_size), scalable_font(round(1.25 * font_size))
    with_numbers = count <= 40
    line = text_size("", font)[1]
    cell = max(line + 6, (text_size("100", font)[0] + 10) if with_numbers else 0)
    names = [str(name).strip() for name in labels]
    name_width = max(text_size(name, font)[0] for name in names)
    pad = line
    left = pad + line + pad // 2 + name_width + pad // 2  # margin, axis title, row names
    top = pad + text_size("", heading)[1] + pad + line + pad // 2 + name_width + pad // 2
    side = cell * count
    bar_width = text_size("100 %", font)[0] + 2 * pad
    subtitle = "Percent of the pixels of each true class"
    width = max(left + side + pad + bar_width + pad, 2 * pad + text_size(title, heading)[0])
    canvas = Image.new(
        "RGB", (max(width, 2 * pad + text_size(subtitle, font)[0]), top + side + pad + line + pad), PAPER
    )
    draw = ImageDraw.Draw(canvas)

    draw.text((pad, pad), title, INK, heading)
    draw.text((pad, top + side + pad), subtitle, INK, font)
    draw.text((left, pad + text_size("", heading)[1] + pad), "Predicted class", INK, font)
    _paste_vertical(canvas, "True class", font, (pad, top))
    for index, name in enumerate(names):
        middle = index * cell + cell // 2
        draw.text((left - pad // 2, top + middle), name, INK, font, anchor="rm")
        _paste_vertical(canvas, name, font, (left + middle - line // 2, top - pad // 2 - text_size(name, font)[0]))
    for row in range(count):
        for col in range(count):
            x, y = left + col * cell, top + row * cell
            value = percent[row, col]
            color = _color(value / 100) if totals[row] else (236, 236, 236)
            draw.rectangle((x, y, x + cell - 1, y + cell - 1), fill=color)
            if with_numbers and totals[row] and value >= 0.5:
                draw.text((x + cell / 2, y + cell / 2), f"{value:.0f}", _ink_on(color), font, anchor="mm")
    draw.rectangle((left - 1, top - 1, left + side, top + side), outline=FRAME)
    _draw_scale(draw, (left + side + pad, top), max(min(side, 12 * line), 3 * line), font, line)
    return canvas


def _color(fraction: float) -> tuple[int, int, int]:
    """Color of a fraction in [0, 1]."""
    position = fraction * (len(_ANCHORS) - 1)
    red, green, blue = (round(float(np.interp(position, range(len(_ANCHORS)), channel))) for channel in _ANCHORS.T)
    return red, green, blue


def _ink_on(color: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever reads better on a color."""
    return INK if color[0] * 0.3 + color[1] * 0.59 + color[2] * 0.11 > 140 else PAPER


def _paste_vertical(canvas: Image.Image, text: str, font: ImageFont.FreeTypeFont, corner: tuple[int, int]) -> None:
    """Writes a text from bottom to top, its upper left corner at `corner`."""
    width, line = text_size(text, font)
    line_image = Image.new("RGB", (width + 2, line), PAPER)  # some letters lean out to the left
    ImageDraw.Draw(line_image).text((2, 0), text, INK, font)
    canvas.paste(line_image.transpose(Image.Transpose.ROTATE_90), corner)


def _draw_scale(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], height: int, font: ImageFont.FreeTypeFont, line: int
) -> None:
    """Draws the color scale from 0 to 100 percent."""
    x, y = corner
    for step in range(height):
        draw.line((x, y + step, x + line, y + step), fill=_color(1 - step / (height - 1)))
    draw.rectangle((x, y, x + line, y + height - 1), outline=FRAME)
    for percent in (0, 50, 100):
        at = y + (height - 1) * (1 - percent / 100)
        draw.text(
            (x + line + line // 3, min(max(at, y + line / 2), y + height - line / 2)),
            f"{percent}",
            INK,
            font,
            anchor="lm",
        )
