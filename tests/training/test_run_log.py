"""The log of a run: one line per validation, and curves that show even a single one."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from PIL import Image

from tf_segformer.training.run_log import RunLog, draw_curves

NAMES = ["road", "sky"]


def row(step, miou):
    return {
        "step": step,
        "learning_rate": 1e-3,
        "head_learning_rate": 1e-2,
        "loss": 0.5,
        "val_loss": 0.6,
        "mIoU": miou,
        "aAcc": 0.7,
        "images_per_second": 3.0,
        "IoU road": 0.2,
        "IoU sky": 0.9,
    }


def panes(path):
    """The four quarters of the image of the curves, without frame, title and legend: (H, W) of saturated colors."""
    pixels = np.asarray(Image.open(path).convert("HSV"))[..., 1] > 100
    height, width = (side // 2 for side in pixels.shape)
    return [pixels[y : y + height, x : x + width] for y in (0, height) for x in (0, width)]


def test_curves_of_one_validation_have_a_point_in_every_pane(tmp_path):
    draw_curves([row(500, 0.4)], NAMES, tmp_path / "one.png")
    draw_curves([], NAMES, tmp_path / "none.png")
    for with_point, without in zip(panes(tmp_path / "one.png"), panes(tmp_path / "none.png"), strict=True):
        assert with_point.sum() > without.sum() + 20  # the points, besides the legend's lines


def test_every_pane_says_what_it_shows(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    draw_curves([row(500, 0.4), row(900, 0.6)], NAMES, tmp_path / "curves.png")
    titles = {axes.get_title(): (axes.get_xlabel(), axes.get_ylabel()) for axes in drawn[0].axes}
    assert titles == {
        "Loss": ("step", ""), "Validation metrics": ("step", "%"), "Validation IoU by class": ("step", "%"),
        "Learning rate": ("step", ""),
    }  # fmt: skip
    _, metrics, classes, _ = drawn[0].axes
    assert metrics.get_ylim() == classes.get_ylim() == (0, 100)
    assert metrics.lines[0].get_ydata().tolist() == [40, 60]
    assert [line.get_label() for line in classes.lines] == NAMES


def test_values_are_scalars_and_examples_images_of_tensorboard(tmp_path):
    log = RunLog(tmp_path, NAMES, [])
    image = np.zeros((8, 8, 3), np.uint8)
    examples = [(image, image[..., 0], image[..., 0])]
    metrics = {"loss": 0.6, "mIoU": 0.5, "aAcc": 0.7, "IoU": [0.2, 0.8], "examples": examples}
    log.add(2, 0.4, {"learning_rate": 1e-3, "head_learning_rate": 1e-2}, 3.0, metrics)
    log.finish()
    plugins = {}
    for path in tmp_path.rglob("events.*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            plugins |= {value.tag: value.metadata.plugin_data.plugin_name for value in event.summary.value}
    assert plugins["mIoU"] == plugins["IoU/road"] == "scalars" and plugins["examples/0"] == "images"
    assert (tmp_path / "curves.png").is_file()


def test_best_row_is_the_first_of_the_highest_miou_and_is_said(tmp_path, capsys):
    log = RunLog(tmp_path, NAMES, [row(1, 0.3)])
    metrics = {"loss": 0.6, "mIoU": 0.5, "aAcc": 0.7, "IoU": [0.2, 0.8], "examples": []}
    assert log.add(2, 0.4, {"learning_rate": 1e-3, "head_learning_rate": 1e-2}, 3.0, metrics)
    assert not log.add(3, 0.4, {"learning_rate": 1e-3, "head_learning_rate": 1e-2}, 3.0, metrics)
    log.finish()
    assert log.best["step"] == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "step 2: loss 0.4000, val loss 0.6000, mIoU 50.00 (best), 3.0 images/s"
    assert lines[1] == "  road 20.0  sky 80.0"
    assert "best" not in lines[2]
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 4
