"""Names, colors and indices of the datasets are those of the datasets' own tools."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from tf_segformer.imaging.labels import (
    CITYSCAPES_TRAIN_IDS,
    LABELS,
    PALETTES,
    checkpoint_palette,
    generate_palette,
    palette_for,
)


@pytest.mark.parametrize(("dataset", "count"), [("ade20k", 150), ("cityscapes", 19), ("camvid", 11), ("voc", 21)])
def test_every_dataset_has_one_color_a_name(dataset: str, count: int):
    assert len(LABELS[dataset]) == len(PALETTES[dataset]) == count
    assert all(name == " ".join(name.split()) and name for name in LABELS[dataset])


def test_known_names_stand_at_their_indices():
    assert [LABELS["ade20k"][index] for index in (0, 2, 12, 64, 149)] == [
        "wall",
        "sky",
        "person",
        "coffee table",
        "flag",
    ]
    assert [LABELS["cityscapes"][index] for index in (0, 10, 18)] == ["road", "sky", "bicycle"]
    assert [LABELS["camvid"][index] for index in (0, 10)] == ["Sky", "Bicyclist"]
    assert [LABELS["voc"][index] for index in (0, 15, 20)] == ["background", "person", "tvmonitor"]


def test_known_colors_stand_at_their_indices():
    assert PALETTES["ade20k"][[0, 1, 149]].tolist() == [[120, 120, 120], [180, 120, 120], [92, 0, 255]]
    assert PALETTES["cityscapes"][[0, 18]].tolist() == [[128, 64, 128], [119, 11, 32]]
    assert PALETTES["voc"][[1, 20]].tolist() == [[128, 0, 0], [0, 64, 128]]


def test_voc_colors_follow_their_rule():
    for index, color in enumerate(PALETTES["voc"]):
        bits = [(index >> bit) & 1 for bit in range(8)]
        expected = [sum(bits[3 * place + channel] << (7 - place) for place in range(2)) for channel in range(3)]
        assert color.tolist() == expected


def test_palette_is_found_by_the_names_whatever_their_case():
    assert palette_for([name.upper() for name in LABELS["cityscapes"]]) is PALETTES["cityscapes"]
    assert palette_for("voc") is PALETTES["voc"]
    assert palette_for(["a", "b"]).shape == (2, 3)
    with pytest.raises(ValueError, match="coco"):
        palette_for("coco")


def test_generated_colors_are_stable_and_apart():
    palette = generate_palette(200)
    np.testing.assert_array_equal(generate_palette(20), palette[:20])
    assert len(np.unique(palette, axis=0)) == 200
    assert palette.max(axis=1).min() > 0  # none is the black of ignored pixels


def test_generated_colors_stay_apart_for_deuteranopes():
    # Viénot's projection: red and green become one channel.
    red, green, blue = (generate_palette(12) / 255.0).T ** 2.2
    seen = np.stack([0.29 * red + 0.71 * green, blue], axis=-1) ** (1 / 2.2) * 255
    distance = np.linalg.norm(seen[:, None] - seen[None], axis=-1) + 1e9 * np.eye(12)
    assert distance.min() > 15


def test_cityscapes_ids_become_training_ids():
    assert CITYSCAPES_TRAIN_IDS[[7, 8, 33]].tolist() == [0, 1, 18]
    assert CITYSCAPES_TRAIN_IDS[[0, 6, 29, 30, 34, 255]].tolist() == [255] * 6
    assert sorted(CITYSCAPES_TRAIN_IDS[CITYSCAPES_TRAIN_IDS != 255].tolist()) == list(range(19))


@pytest.mark.parametrize(
    "palette",
    [None, "red", [[1, 2, 3]], [[1, 2, 3], [4, 5]], [[1, 2, 3], [4, 5, 256]], [[0.5, 0, 0], [1, 1, 1]], {"a": 1}],
)
def test_colors_that_do_not_fit_the_classes_are_not_taken(palette):
    assert checkpoint_palette(SimpleNamespace(extra={"palette": palette}), 2) is None


def test_colors_of_a_checkpoint_are_taken():
    config = SimpleNamespace(extra={"palette": [[1, 2, 3], [4, 5, 255]]})
    np.testing.assert_array_equal(checkpoint_palette(config, 2), np.array([[1, 2, 3], [4, 5, 255]], np.uint8))
