"""The images hold what they promise: sizes, colors, fractions, and no text that is cut off."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.imaging.golden_cases import make_image
from tf_segformer.evaluation.confusion_plot import draw_confusion_matrix
from tf_segformer.imaging import drawing
from tf_segformer.imaging.labels import LABELS, PALETTES, palette_for
from tf_segformer.imaging.visualize import _WRONG, colorize, draw_boundaries, draw_comparison, draw_overlay

NAMES = LABELS["camvid"]
SIZES = [(1, 1), (3, 40), (120, 160), (300, 400), (40, 1500), (900, 20)]


def image_and_map(size: tuple[int, int]) -> tuple[Image.Image, np.ndarray]:
    rows, columns = np.indices(size)
    return make_image((*size, 3), "pil"), (rows // 40 + columns // 50) % len(NAMES)


@pytest.fixture(autouse=True)
def written_texts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that is painted; one that would cross the edge of its canvas fails the test."""
    texts = []
    draw_text = ImageDraw.ImageDraw.text

    def text(draw, position, content, fill=None, font=None, anchor=None, **options):
        left, top, right, bottom = draw.textbbox(position, content, font=font, anchor=anchor)
        width, height = draw.im.size
        assert left >= 0, content
        assert top >= 0, content
        assert right <= width, content
        assert bottom <= height, content
        texts.append(content)
        return draw_text(draw, position, content, fill, font, anchor, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return texts


def test_colors_are_the_classes_own_and_black_outside_the_palette():
    painted = np.asarray(colorize(np.array([[0, 10, 11, 255, -1]]), PALETTES["camvid"]))
    np.testing.assert_array_equal(painted[0, :2], PALETTES["camvid"][[0, 10]])
    assert (painted[0, 2:] == 0).all()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_overlay_legend_lists_every_class_by_falling_fraction(size: tuple[int, int], written_texts: list[str]):
    image, class_map = image_and_map(size)
    painted = draw_overlay(image, class_map, NAMES)
    names = [text for text in written_texts if text in NAMES]
    fractions = [float(text.strip("<%")) for text in written_texts if text.endswith("%")]
    assert set(names) == {NAMES[index] for index in np.unique(class_map)}
    assert len(names) == len(fractions)
    assert fractions == sorted(fractions, reverse=True)
    assert painted.width > size[1]
    assert painted.height >= size[0]


@pytest.mark.parametrize("alpha", [0, 0.3, 1])
def test_overlay_mixes_image_and_colors_by_alpha(alpha: float):
    image, class_map = image_and_map((120, 160))
    painted = np.asarray(draw_overlay(image, class_map, NAMES, alpha=alpha, legend=False), np.float64)
    expected = (1 - alpha) * np.asarray(image, np.float64) + alpha * PALETTES["camvid"][class_map]
    np.testing.assert_allclose(painted, expected, atol=1)


def test_a_background_is_not_painted_and_its_swatch_is_paper(written_texts: list[str]):
    image, _ = image_and_map((300, 400))
    class_map = np.zeros((300, 400), int)
    class_map[:100] = 1
    painted = np.asarray(draw_overlay(image, class_map, ["Background", "crack"]))
    np.testing.assert_array_equal(painted[100:, :400], np.asarray(image)[100:])
    assert (painted[:100, :400] != np.asarray(image)[:100]).any(axis=-1).all()
    assert {"Background", "crack", "66.7 %", "33.3 %"} <= set(written_texts)
    legend = painted[:, 400:].reshape(-1, 3)
    assert not (legend == palette_for(["Background", "crack"])[0]).all(axis=-1).any()
    other = np.asarray(draw_overlay(image, class_map, ["soil", "crack"], legend=False))
    assert (other[100:] != np.asarray(image)[100:]).any(axis=-1).all()


def test_nodata_is_neither_painted_nor_counted_and_255_of_labels_is(written_texts: list[str]):
    image, _ = image_and_map((300, 400))
    class_map = np.zeros((300, 400), int)
    class_map[:100], class_map[100:200] = 1, 200
    painted = np.asarray(draw_overlay(image, class_map, ["soil", "crack"], nodata=200))
    np.testing.assert_array_equal(painted[100:200, :400], np.asarray(image)[100:200])
    assert written_texts.count("50.0 %") == 2
    assert "unlabelled" not in written_texts
    draw_overlay(image, np.full((300, 400), 200), ["soil", "crack"], nodata=200)
    assert "unlabelled" not in written_texts
    painted = np.asarray(draw_overlay(image, class_map, ["soil", "crack"], alpha=1, legend=False))
    assert (painted[100:200] == 0).all()
    draw_overlay(image, class_map, ["soil", "crack"])
    assert "unlabelled" in written_texts


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_comparison_and_errors_fit_any_image(size: tuple[int, int], written_texts: list[str]):
    image, target = image_and_map(size)
    prediction = np.roll(target, 7, axis=1)
    target = np.where(np.indices(size)[0] == size[0] - 1, 255, target) if size[0] > 1 else target
    draw_comparison(image, prediction, target, NAMES)
    draw_boundaries(image, target, NAMES)
    assert {"Image", "Prediction", "Target"} <= set(written_texts)
    assert ("unlabelled" in written_texts) == (size[0] > 1)


def test_comparison_counts_and_marks_the_wrong_pixels_only(written_texts: list[str]):
    image = Image.new("RGB", (400, 300), "white")
    target = np.zeros((300, 400), int)
    prediction = target.copy()
    prediction[:30] = 1
    target[-30:] = 255
    painted = np.asarray(draw_comparison(image, prediction, target, NAMES))
    assert "Errors (11.1 % of labelled pixels)" in written_texts
    wrong = (painted == _WRONG).all(axis=-1)
    assert wrong.sum() == 30 * 400
    rows, columns = np.nonzero(wrong)
    errors = painted[rows.min() : rows.min() + 300, columns.min() : columns.min() + 400]
    assert (errors[:30] == _WRONG).all()
    assert (errors[30:-30] == 255).all()
    assert (errors[-30:] == 0).all()


def test_boundaries_leave_the_inside_of_segments_alone():
    image, _ = image_and_map((700, 800))
    class_map = np.repeat([[0, 3]], 400, axis=1).repeat(700, axis=0)
    painted = np.asarray(draw_boundaries(image, class_map, NAMES))[:, :800]
    changed = (painted != np.asarray(image)).any(axis=-1)
    assert changed[:, 390:410].any(axis=1).all()
    assert not changed[:, :390].any()
    assert not changed[:, 410:].any()


def test_150_classes_have_all_their_names_in_the_legend(written_texts: list[str]):
    class_map = np.arange(150).repeat(200).reshape(150, 200)
    draw_overlay(Image.new("RGB", (200, 150)), class_map, LABELS["ade20k"])
    assert set(LABELS["ade20k"]) <= set(written_texts)


@pytest.mark.parametrize("dataset", ["camvid", "ade20k"])
def test_confusion_matrix_writes_every_name_twice_and_percentages_of_rows(dataset: str, written_texts: list[str]):
    names = LABELS[dataset]
    matrix = np.diag(np.full(len(names), 30.0))
    matrix[0, 1] = 10
    draw_confusion_matrix(matrix, names, title="CamVid, 101 images")
    assert all(written_texts.count(name) == 2 for name in names)
    assert written_texts.count("75") == (dataset == "camvid")


def test_confusion_matrix_with_a_row_without_pixels_has_no_division_by_zero():
    with np.errstate(all="raise"):
        draw_confusion_matrix(np.zeros((3, 3)), ["a", "b", "a name that is much longer than all the others"])


def test_sizes_that_differ_are_rejected():
    with pytest.raises(ValueError, match="height, width"):
        draw_overlay(Image.new("RGB", (4, 5)), np.zeros((4, 5), int), NAMES)
    with pytest.raises(ValueError, match="alpha"):
        draw_overlay(Image.new("RGB", (4, 5)), np.zeros((5, 4), int), NAMES, alpha=2)
    with pytest.raises(ValueError, match="3 class names"):
        draw_confusion_matrix(np.eye(2), ["a", "b", "c"])


def test_legend_grows_into_columns_instead_of_beyond_the_image():
    entries = [((9, 9, 9), f"class {index}", "1 %") for index in range(40)]
    panel = drawing.legend_panel(entries, drawing.scalable_font(13), 200)
    assert panel.height == 200
    assert panel.width > 300
