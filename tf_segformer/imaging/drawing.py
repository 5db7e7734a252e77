"""Text, legends and frames around images: their sizes follow from the text as measured, so nothing is cut off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from PIL import Image, ImageDraw, ImageFont

PAPER = (255, 255, 255)
INK = (32, 32, 32)
FRAME = (128, 128, 128)

_FARTHEST = 10  # sizes of the image

Entry = tuple[tuple[int, int, int], str, str]
"""One line of a legend: color, name, and the text at the right."""


def scalable_font(pixels: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font with letters of this height."""
    return cast(ImageFont.FreeTypeFont, ImageFont.load_default(pixels))


def font_for(image: Image.Image) -> ImageFont.FreeTypeFont:
    """The font in a size that can be read next to an image, however large or oblong it is."""
    return scalable_font(max(13, round((image.width * image.height) ** 0.5 / 32)))


def text_size(text: str, font: ImageFont.FreeTypeFont) -> tuple[int, int]:
    """Width of a text and height of a line with accents and descenders, in pixels."""
    ascent, descent = font.getmetrics()
    return round(font.getlength(text)) + 1, ascent + descent


def side_by_side(images: Sequence[Image.Image], gap: int) -> Image.Image:
    """Puts images side by side, aligned at the top."""
    canvas = Image.new(
        "RGB",
        (sum(each.width for each in images) + gap * (len(images) - 1), max(each.height for each in images)),
        PAPER,
    )
    left = 0
    for each in images:
        canvas.paste(each, (left, 0))
        left += each.width + gap
    return canvas


def stacked(images: Sequence[Image.Image], gap: int) -> Image.Image:
    """Puts images below one another, aligned at the left."""
    canvas = Image.new(
        "RGB",
        (max(each.width for each in images), sum(each.height for each in images) + gap * (len(images) - 1)),
        PAPER,
    )
    top = 0
    for each in images:
        canvas.paste(each, (0, top))
        top += each.height + gap
    return canvas


def framed(image: Image.Image, margin: int) -> Image.Image:
    """Adds a white margin around an image."""
    canvas = Image.new("RGB", (image.width + 2 * margin, image.height + 2 * margin), PAPER)
    canvas.paste(image, (margin, margin))
    return canvas


def titled(image: Image.Image, title: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """Adds a heading above an image; a heading wider than the image widens the result."""
    width, line = text_size(title, font)
    pad = max(2, line // 4)
    canvas = Image.new("RGB", (max(image.width, width + 2 * pad), image.height + line + 2 * pad), PAPER)
    ImageDraw.Draw(canvas).text((pad, pad), title, INK, font)
    canvas.paste(image, (0, line + 2 * pad))
    return canvas


def legend_panel(entries: Sequence[Entry], font: ImageFont.FreeTypeFont, height: int) -> Image.Image:
    """Draws a legend in as many columns as its entries need at the given height."""
    line = round(text_size("", font)[1] * 1.35)
    pad = line // 2
    rows = max(1, (height - 2 * pad) // line)
    columns = [entries[start : start + rows] for start in range(0, len(entries), rows)] or [[]]
    return side_by_side([_legend_column(part, font, line, pad, height) for part in columns], gap=0)


def _legend_column(
    entries: Sequence[Entry], font: ImageFont.FreeTypeFont, line: int, pad: int, height: int
) -> Image.Image:
    """Draws one column: swatches, names, and numbers aligned at the right."""
    name_width = max((text_size(name, font)[0] for _, name, _ in entries), default=0)
    number_width = max((text_size(number, font)[0] for _, _, number in entries), default=0)
    swatch = round(line * 0.7)
    right = pad + swatch + pad // 2 + name_width + pad + number_width
    panel = Image.new("RGB", (right + pad, max(height, line * len(entries) + 2 * pad)), PAPER)
    draw = ImageDraw.Draw(panel)
    for row, (color, name, number) in enumerate(entries):
        middle = pad + row * line + line // 2
        draw.rectangle((pad, middle - swatch // 2, pad + swatch, middle + swatch // 2), fill=color, outline=FRAME)
        draw.text((pad + swatch + pad // 2, middle), name, INK, font, anchor="lm")
        draw.text((right, middle), number, INK, font, anchor="rm")
    return panel


def fill_polygon(image: Image.Image, points: Sequence[tuple[float, float]], value: int) -> None:
    """Fills a polygon of at least three points (x, y), its outline too, in an image of one band."""
    if len(points) < 3:
        raise ValueError("a polygon needs three points")
    _assert_near(image, [number for point in points for number in point])
    ImageDraw.Draw(image).polygon(list(points), fill=value, outline=value)


def fill_circle(image: Image.Image, x: float, y: float, radius: float, value: int) -> None:
    """Fills a circle, its outline too, in an image of one band."""
    _assert_near(image, [x, y, radius])
    ImageDraw.Draw(image).ellipse([x - radius, y - radius, x + radius, y + radius], fill=value, outline=value)


def _assert_near(image: Image.Image, numbers: Sequence[float]) -> None:
    """Rejects what lies far outside of an image: Pillow goes along an outline step by step, also where nothing is."""
    if not all(abs(number) <= _FARTHEST * max(image.size) for number in numbers):
        raise ValueError(f"a point more than {_FARTHEST} times the image's size away")
