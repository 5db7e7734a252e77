"""Images and options whose results under transformers 4.49 are stored; made without random numbers, so stable."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image

FILTERS = range(6)


@dataclass(frozen=True)
class Case:
    """One call of the processor: how its image is made, the options, and whether it holds from Pillow 13 on only."""

    name: str
    shape: tuple[int, ...]
    kind: str = "pil"
    options: dict[str, Any] = field(default_factory=dict)
    needs_pillow_13: bool = False


def golden_cases() -> list[Case]:
    """Every filter on every change of size, then every option."""
    sizes = {
        "up": ((17, 23, 3), (61, 80)),
        "down": ((180, 240, 3), (33, 47)),
        "four_to_one": ((64, 128, 3), (16, 32)),
        "one_to_four": ((9, 14, 3), (36, 56)),
        "from_one_pixel": ((1, 1, 3), (9, 7)),
        "to_one_pixel": ((31, 45, 3), (1, 1)),
        "odd": ((97, 131, 3), (64, 64)),
        "wider_and_lower": ((40, 50, 3), (25, 70)),
        "same": ((24, 32, 3), (24, 32)),
        "tall": ((300, 20, 3), (50, 30)),
    }
    goes_down_first = ("wider_and_lower", "tall")  # Pillow 13 changed the order of the two passes for such sizes
    cases = [
        Case(
            f"{name}-{resample}",
            shape,
            options={"size": _size(*target), "resample": resample, "input_data_format": "channels_last"},
            needs_pillow_13=name in goes_down_first and resample != 0,
        )
        for name, (shape, target) in sizes.items()
        for resample in FILTERS
    ]
    plain = (40, 52, 3)
    small = {"size": _size(24, 28)}
    gray = {"image_mean": 0.4, "image_std": [0.3]}
    options = {
        "defaults": Case("", plain),
        "no_rescale": Case("", plain, options={"do_rescale": False}),
        "no_normalize": Case("", plain, options={"do_normalize": False}),
        "no_resize": Case("", plain, options={"do_resize": False}),
        "nothing": Case("", plain, options={"do_resize": False, "do_rescale": False, "do_normalize": False}),
        "factor": Case(
            "", plain, options={"rescale_factor": 1 / 127.5, "image_mean": [1, 1, 1], "image_std": [1, 1, 1]}
        ),
        "scalar_mean": Case("", plain, options={"image_mean": 0.45, "image_std": 0.225}),
        "reduce_labels": Case("", plain, options={"do_reduce_labels": True}),
        "channels_first_out": Case("", plain, options={"data_format": "channels_first"}),
        "array": Case("", plain, "uint8"),
        "array_channels_first": Case("", (3, 40, 52), "uint8"),
        "array_three_high": Case("", (3, 52, 3), "uint8", needs_pillow_13=True),
        "array_three_high_last": Case("", (3, 52, 3), "uint8", {"input_data_format": "channels_last"}),
        "float_scaled": Case("", plain, "float"),
        "float_scaled_no_rescale": Case("", plain, "float", {"do_rescale": False}),
        "float_whole": Case("", plain, "float_whole"),
        "float16": Case("", plain, "float16", {"do_rescale": False, "do_resize": False}),
        "float64": Case("", plain, "float64", {"do_rescale": False, "do_resize": False}),
        "int64": Case("", plain, "int64"),
        "gray_array": Case("", (40, 52, 1), "uint8", gray),
        "gray_pil": Case("", (40, 52, 1), options={"input_data_format": "channels_last", **gray}),
        "sixteen_bit_pil": Case(
            "",
            (40, 52, 1),
            "pil16",
            {
                "do_resize": False,
                "do_normalize": False,
                "input_data_format": "channels_last",
                "rescale_factor": 1 / 65535,
            },
        ),
    }
    cases += [replace(one, name=name, options={**small, **one.options}) for name, one in options.items()]
    return cases


def make_image(shape: tuple[int, ...], kind: str) -> Any:
    """An image with smooth parts, edges and noise, of the type that a case asks for."""
    values = _pattern(shape)
    if kind == "pil16":
        return Image.fromarray(values[..., 0].astype(np.uint16) * 257)
    if kind == "pil":
        return Image.fromarray(values[..., 0] if shape[-1] == 1 else values)
    if kind in ("float", "float16", "float64"):
        return (values.astype(np.float64) / 255).astype({"float": np.float32}.get(kind, kind))
    return values.astype({"float_whole": np.float32}.get(kind, kind))


def make_labels(shape: tuple[int, ...]) -> np.ndarray:
    """A segmentation map (H, W), uint8, with the labels 0 to 19 and 255."""
    height, width = shape[:2] if shape[-1] <= 4 else shape[1:]
    labels = _pattern((height, width, 1))[..., 0] // 12
    return np.where(labels == 21, 255, labels % 20).astype(np.uint8)


def _size(height: int, width: int) -> dict[str, int]:
    return {"height": height, "width": width}


def _pattern(shape: tuple[int, ...]) -> np.ndarray:
    """Integers in [0, 255] that depend on the position alone."""
    first, second, third = np.indices(shape)
    mixed = first * 37 + second * 91 + third * 53 + first * second * 7 + (first // 5 + second // 7) * 60
    return ((mixed + (mixed // 11) * 97) % 256).astype(np.uint8)
