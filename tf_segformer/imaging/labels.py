"""Names and colors of the classes of ADE20K, Cityscapes, CamVid and Pascal VOC, and colors for any others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np


def _names(text: str) -> tuple[str, ...]:
    """Reads names separated by commas."""
    return tuple(" ".join(name.split()) for name in text.split(","))


def _colors(text: str) -> np.ndarray:
    """Reads colors written as rrggbb into an array (K, 3), uint8."""
    colors = np.frombuffer(bytes.fromhex(text), np.uint8).reshape(-1, 3)
    colors.flags.writeable = False
    return colors


LABELS: dict[str, tuple[str, ...]] = {
    "ade20k": _names(
        """
    wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth,
    door, table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, flip, rug,
    field, armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column,
    signboard, chest of drawers, counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path,
    stairs, runway, case, pool table, pillow, screen door, stairway, river, bridge, bookcase, blind, coffee
    table, toilet, flower, book, hill, bench, countertop, stove, palm, kitchen island, computer, swivel chair,
    boat, bar, arcade machine, hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight, booth,
    television receiver, airplane, dirt track, apparel, pole, land, bannister, escalator, ottoman, bottle,
    buffet, poster, stage, van, ship, fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool,
    barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name, microwave,
    pot, animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic light, tray,
    ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock, flag
        """
    ),
    "cityscapes": _names(
        """
        road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation, terrain, sky, person,
        rider, car, truck, bus, train, motorcycle, bicycle
        """
    ),
    "camvid": _names("Sky, Building, Pole, Road, Pavement, Tree, SignSymbol, Fence, Car, Pedestrian, Bicyclist"),
    "voc": _names(
        """
        background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, horse,
        motorbike, person, pottedplant, sheep, sofa, train, tvmonitor
        """
    ),
}
"""Class names by dataset, in the order of the class indices (the order of the Hub's checkpoints)."""

# The colors that the datasets' own tools use.
PALETTES: dict[str, np.ndarray] = {
    "ade20k": _colors(
        """
    787878 b47878 06e6e6 503232 04c803 787850 8c8c8c cc05ff e6e6e6 04fa07 e005ff ebff07 96053d 787846 08ff33
    ff0652 8fff8c ccff04 ff3307 cc4603 0066c8 3de6fa ff0633 0b66ff ff0747 ff09e0 0907e6 dcdcdc ff095c 7009ff
    08ffd6 07ffe0 ffb806 0aff47 ff290a 07ffff e0ff08 6608ff ff3d06 ffc207 ff7a08 00ff14 ff0829 ff0599 0633ff
    eb0cff a09614 00a3ff 8c8c8c fa0a0f 14ff00 1fff00 ff1f00 ffe000 99ff00 0000ff ff4700 00ebff 00adff 1f00ff
    0bc8c8 ff5200 00fff5 003dff 00ff70 00ff85 ff0000 ffa300 ff6600 c2ff00 008fff 33ff00 0052ff 00ff29 00ffad
    0a00ff adff00 00ff99 ff5c00 ff00ff ff00f5 ff0066 ffad00 ff0014 ffb8b8 001fff 00ff3d 0047ff ff00cc 00ffc2
    00ff52 000aff 0070ff 3300ff 00c2ff 007aff 00ffa3 ff9900 00ff0a ff7000 8fff00 5200ff a3ff00 ffeb00 08b8aa
    8500ff 00ff5c b800ff ff001f 00b8ff 00d6ff ff0070 5cff00 00e0ff 70e0ff 46b8a0 a300ff 9900ff 47ff00 ff00a3
    ffcc00 ff008f 00ffeb 85ff00 ff00eb f500ff ff007a fff500 0abed4 d6ff00 00ccff 1400ff ffff00 0099ff 0029ff
    00ffcc 2900ff 29ff00 ad00ff 00f5ff 4700ff 7a00ff 00ffb8 005cff b8ff00 0085ff ffd600 19c2c2 66ff00 5c00ff
        """
    ),
    "cityscapes": _colors(
        """
        804080 f423e8 464646 66669c be9999 999999 faaa1e dcdc00 6b8e23 98fb98 4682b4 dc143c ff0000 00008e 000046
        003c64 005064 0000e6 770b20
        """
    ),
    "camvid": _colors("808080 800000 c0c080 804080 3c28de 808000 c08080 404080 400080 404000 0080c0"),
    "voc": _colors(
        """
        000000 800000 008000 808000 000080 800080 008080 808080 400000 c00000 408000 c08000 400080 c00080 408080
        c08080 004000 804000 00c000 80c000 004080
        """
    ),
}
"""Colors (K, 3), uint8, by dataset."""

# Cityscapes' files have label ids from 0 to 33; these are the ids of the 19 classes that are evaluated.
_CITYSCAPES_EVALUATED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
CITYSCAPES_TRAIN_IDS = np.full(256, 255, np.uint8)
"""Training index (0 to 18, 255 to be ignored) of every Cityscapes label id: `CITYSCAPES_TRAIN_IDS[label_ids]`."""
CITYSCAPES_TRAIN_IDS[list(_CITYSCAPES_EVALUATED)] = np.arange(19)
CITYSCAPES_TRAIN_IDS.flags.writeable = False

IGNORED_COLOR = (0, 0, 0)
"""Color of pixels without a class."""

BACKGROUND_NAMES = ("background", "_background_", "__background__")
"""What tools call the class of all that is no object, in lower case."""


def palette_for(labels: str | int | Sequence[str]) -> np.ndarray:
    """Colors for a set of classes.

    Args:
        labels: Name of a dataset in `PALETTES`, the class names themselves, or their number.

    Returns:
        Colors (K, 3), uint8: those of the dataset where the names are a dataset's (in any case), generated ones
        otherwise. The generated colors of k classes are the first k of those of more classes.

    Raises:
        ValueError: An unknown dataset, or no class at all.

    Example:
        >>> palette_for("cityscapes")[0].tolist(), palette_for(["sky", "road"]).shape
        ([128, 64, 128], (2, 3))
    """
    if isinstance(labels, str):
        if labels not in PALETTES:
            raise ValueError(f"There is no palette {labels!r}, only {', '.join(PALETTES)}.")
        return PALETTES[labels]
    if isinstance(labels, int):
        return generate_palette(labels)
    names = _comparable(labels)
    dataset = next((key for key, known in LABELS.items() if _comparable(known) == names), None)
    return PALETTES[dataset] if dataset else generate_palette(len(names))


def names_of_classes(labels: Mapping[int, str]) -> dict[int, str]:
    """The classes of class maps, of which a model with one logit has two: sigmoid at 0.5 decides between them.

    Args:
        labels: Name of each logit.

    Returns:
        Name of each class; of a single logit "background" for 0 and its own for 1.

    Example:
        >>> names_of_classes({0: "crack"})
        {0: 'background', 1: 'crack'}
    """
    return {0: "background", 1: labels[0]} if len(labels) == 1 else {index: labels[index] for index in sorted(labels)}


def names_or_numbers(labels: Mapping[int, str] | None, num_classes: int) -> dict[int, str]:
    """The names of the classes of class maps, or their numbers where nobody named them.

    Args:
        labels: Name of each logit, or None.
        num_classes: Number of classes K.

    Returns:
        Name of each class.

    Raises:
        ValueError: Another number of names.

    Example:
        >>> names_or_numbers(None, 2)
        {0: 'class 0', 1: 'class 1'}
    """
    names = names_of_classes(labels or {index: f"class {index}" for index in range(num_classes)})
    if len(names) != num_classes:
        raise ValueError(f"there are {len(names)} labels for the {num_classes} classes of the model")
    return names


def checkpoint_palette(config: Any, num_labels: int) -> np.ndarray | None:
    """The colors that a checkpoint brings along for its classes.

    Args:
        config: The model's configuration; its `extra["palette"]` is read, one (red, green, blue) per class.
        num_labels: Number of classes K.

    Returns:
        Colors (K, 3), uint8; None where there are none, or what is there does not fit.

    Example:
        >>> checkpoint_palette(None, 2) is None
        True
    """
    colors = getattr(config, "extra", {}).get("palette")
    try:
        palette = np.asarray(colors)
    except ValueError:  # rows of different lengths
        return None
    if palette.shape != (num_labels, 3) or palette.dtype.kind not in "iu" or palette.min() < 0 or palette.max() > 255:
        return None
    return palette.astype(np.uint8)


def colors_of(config: Any, labels: Sequence[str]) -> np.ndarray:
    """The colors of a model's classes: those of its checkpoint, or else those of `palette_for`.

    Args:
        config: The model's configuration, as for `checkpoint_palette`.
        labels: Names of the K classes.

    Returns:
        Colors (K, 3), uint8.

    Example:
        >>> colors_of(None, ["sky", "road"]).shape
        (2, 3)
    """
    palette = checkpoint_palette(config, len(labels))
    return palette_for(labels) if palette is None else palette


@lru_cache(maxsize=8)
def generate_palette(count: int) -> np.ndarray:
    """Colors that people with and without color blindness can tell apart.

    Okabe and Ito's seven colors come first. Each further color is the one of a grid with the largest distance, in CIE
    Lab, to all colors before it; the distance is the smallest of normal, protanope and deuteranope vision.

    Args:
        count: Number of classes, at least 1.

    Returns:
        Colors (count, 3), uint8, the same in every run; after 1,500 they repeat.

    Raises:
        ValueError: A count below 1.

    Source: Okabe and Ito 2008, "Color Universal Design"; Viénot, Brettel and Mollon 1999 for the simulation.

    Example:
        >>> bool((generate_palette(30)[:5] == generate_palette(5)).all())
        True
    """
    if count < 1:
        raise ValueError(f"A palette needs at least one class, not {count}.")
    levels = np.linspace(0, 255, 13).round()
    grid: np.ndarray = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lightness = _as_seen(grid)[0, :, 0]
    grid = grid[(lightness > 38) & (lightness < 94)]  # unlike the black of ignored pixels and the white of the page
    candidates = np.concatenate([_OKABE_ITO, grid])
    seen = _as_seen(candidates)  # (vision, candidate, Lab)
    chosen = list(range(min(count, len(_OKABE_ITO))))
    distance = np.full(len(candidates), np.inf)
    for index in chosen:
        distance = np.minimum(distance, np.linalg.norm(seen - seen[:, index : index + 1], axis=-1).min(axis=0))
    while len(chosen) < min(count, _DISTINCT_COLORS):
        chosen.append(int(np.argmax(distance)))
        distance = np.minimum(distance, np.linalg.norm(seen - seen[:, chosen[-1:]], axis=-1).min(axis=0))
    palette = candidates[np.resize(chosen, count)].astype(np.uint8)
    palette.flags.writeable = False
    return palette


_DISTINCT_COLORS = 1500
_OKABE_ITO = _colors("0072b2 e69f00 009e73 cc79a7 56b4e9 d55e00 f0e442").astype(np.float64)

# Linear RGB as a protanope and a deuteranope see it (Viénot, Brettel and Mollon 1999), after normal vision.
_VISIONS = np.array(
    [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
        [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
    ]
)
_RGB_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
_WHITE = _RGB_TO_XYZ.sum(axis=1)


def _as_seen(colors: np.ndarray) -> np.ndarray:
    """Returns sRGB colors (K, 3) as CIE Lab (3, K, 3), one for each kind of vision."""
    linear = np.where(colors <= 10, colors / 255 / 12.92, ((colors / 255 + 0.055) / 1.055) ** 2.4)
    ratio = np.clip(linear @ _VISIONS.transpose(0, 2, 1), 0, 1) @ _RGB_TO_XYZ.T / _WHITE
    x, y, z = np.moveaxis(np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def _comparable(names: Sequence[str]) -> list[str]:
    """Class names without case and outer spaces."""
    return [str(name).strip().lower() for name in names]
