"""Five bands of 16 bits, end to end: from a checkpoint of RGB to training, evaluation, prediction and export."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from PIL import Image

from tests.data.test_bands import bands_of, write_bands
from tests.training.scenes import NAMES
from tf_segformer import (
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    SegmentationPredictor,
    evaluate,
    export_saved_model,
)
from tf_segformer.cli import cli
from tf_segformer.data import Augmentation, open_splits
from tf_segformer.training.recipes import Phase, Recipe
from tf_segformer.training.trainer import train

RECIPE = Recipe("bands", "b0", "folder", (Phase(2, 2, Augmentation((32, 32))),), warmup_steps=1, validate_every=1)


def tiny(channels: int) -> SegformerForSemanticSegmentation:
    config = SegformerConfig(
        num_channels=channels,
        num_labels=len(NAMES),
        depths=(1, 1, 1, 1),
        hidden_sizes=(8, 8, 8, 8),
        num_attention_heads=(1, 1, 1, 1),
        decoder_hidden_size=8,
    )
    return SegformerForSemanticSegmentation(config)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bands")
    return write_bands(folder, lambda path, seed: np.save(f"{path}.npy", bands_of(seed)))


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """The folder of a run that started from a checkpoint of 8-bit RGB, and what it printed."""
    folder = tmp_path_factory.mktemp("run")
    tiny(3).save_pretrained(folder / "rgb")
    SegformerImageProcessor(size=64).save_pretrained(folder / "rgb")
    with pytest.warns(UserWarning, match="a first kernel of 3 channels, the model takes 5"):
        train(RECIPE, open_splits(None, data, NAMES), folder / "run", model=folder / "rgb", check=False)
    return folder / "run"


def test_a_run_finds_the_processor_of_its_bands_and_keeps_it(run, data):
    fields = json.loads((run / "best/preprocessor_config.json").read_text())
    assert (len(fields["image_mean"]), len(fields["value_range"]), fields["value_type"]) == (5, 5, "uint16")
    assert json.loads((run / "best/config.json").read_text())["num_channels"] == 5
    processor = SegformerImageProcessor.from_pretrained(run / "best")
    pixels = np.concatenate([processor(bands_of(seed))["pixel_values"].reshape(-1, 5) for seed in range(4)])
    np.testing.assert_allclose(pixels.mean(axis=0)[3:], 0, atol=0.01)
    train_more = replace(RECIPE, name="more", phases=(Phase(1, 2, Augmentation((32, 32))),))
    model = SegformerForSemanticSegmentation.from_pretrained(run / "best")
    train(train_more, open_splits(None, data, NAMES), run / "more", model=run / "best", check=False)
    assert SegformerImageProcessor.from_pretrained(run / "more/best") == processor
    assert model.config.num_channels == 5


def test_evaluation_and_prediction_take_arrays_and_files(run, data, tmp_path):
    model = SegformerForSemanticSegmentation.from_pretrained(run / "best")
    predictor = SegmentationPredictor(model, SegformerImageProcessor.from_pretrained(run / "best"))
    _, val = open_splits(None, data, NAMES)
    assert evaluate(predictor, val)["images"] == 2
    arguments = ["predict", str(data / "val/images/000.npy"), "--model", str(run / "best"), "-o", str(tmp_path)]
    finished = CliRunner().invoke(cli, arguments)
    assert finished.exit_code == 0, finished.output
    (expected,) = predictor(bands_of(1000))
    with Image.open(tmp_path / "000_mask.png") as mask:
        np.testing.assert_array_equal(np.asarray(mask), expected.class_map)
    assert (tmp_path / "000_overlay.png").is_file()


def test_models_and_processors_of_other_bands_are_errors(data, tmp_path):
    splits = open_splits(None, data, NAMES)
    with pytest.raises(ValueError, match=r"takes images of 3 channels, folder/train has images of 5 bands of uint16"):
        train(RECIPE, splits, tmp_path / "a", model=tiny(3), check=False)
    with pytest.raises(ValueError, match="5 bands of uint16, the processor is for 3 bands of uint8: leave it out"):
        train(RECIPE, splits, tmp_path / "b", model=tiny(5), processor=SegformerImageProcessor(), check=False)


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, {"do_resize": False}], ids=str)
def test_the_export_takes_arrays_of_the_data_s_type(run, tmp_path, fields):
    model = SegformerForSemanticSegmentation.from_pretrained(run / "best")
    processor = SegformerImageProcessor.from_pretrained(run / "best", **{"do_resize": True, "size": 64, **fields})
    signatures = tf.saved_model.load(export_saved_model(model, tmp_path, processor)).signatures
    assert set(signatures) == {"class_map", "serving_default", "tensor"}
    (images,) = signatures["serving_default"].structured_input_signature[1].values()
    assert (images.dtype, images.shape.as_list()) == (tf.uint16, [None, None, None, 5])
    scene = bands_of(1000)[:40, :52]
    found = signatures["serving_default"](images=tf.constant(scene[None]))["class_map"].numpy()[0]
    (expected,) = SegmentationPredictor(model, processor)(scene)
    assert (found == expected.class_map).mean() > 0.999


@pytest.mark.slow
def test_the_guide_s_program_runs_as_written(data, tmp_path, monkeypatch, capsys):
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "bands.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    (tmp_path / "my-scenes").symlink_to(data)
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="a first kernel of 3 channels, the model takes 5"):
        exec(compile(program, "bands.md", "exec"), {})
    assert "5 bands of uint16" in capsys.readouterr().out
    assert (tmp_path / "exported/1/saved_model.pb").is_file()
