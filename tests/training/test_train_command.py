"""`tf-segformer train`: what it rejects before the first step, and how its options change the recipe."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from tests.training.scenes import NAMES, write_dataset
from tf_segformer.cli import train as command
from tf_segformer.data.datasets import find_dataset
from tf_segformer.training.recipes import load_recipe

RECIPE = """
from tf_segformer.data.augmentation import Augmentation
from tf_segformer.training.recipes import Phase, Recipe
RECIPE = Recipe("mine", "b0", "folder", (Phase(2, 2, Augmentation((32, 32))),), validate_every=2, warmup_steps=0,
    model={"depths": (1, 1, 1, 1), "hidden_sizes": (8, 8, 16, 16), "num_attention_heads": (1, 1, 2, 2),
           "decoder_hidden_size": 16})
"""


@pytest.fixture
def scenes(tmp_path):
    return write_dataset(tmp_path / "scenes", train=3, val=1)


@pytest.fixture
def invoke(tmp_path, scenes):
    (tmp_path / "recipe.py").write_text(RECIPE)

    def run(*options, data=scenes):
        arguments = ["--recipe", str(tmp_path / "recipe.py"), "--data", str(data), "--output", str(tmp_path / "run")]
        return CliRunner().invoke(command.train, [*arguments, "--class-names", ",".join(NAMES), *options])

    return run


def cut_a_jpeg(root):
    path = root / "train/images/cut.jpg"
    Image.open(root / "train/images/000.png").save(path)
    path.write_bytes(path.read_bytes()[:700])
    (root / "train/labels/cut.png").write_bytes((root / "train/labels/000.png").read_bytes())


def write_sixteen_bits(root):
    Image.fromarray(np.full((64, 64), 1000, np.uint16)).save(root / "train/labels/001.png")


def write_colors(root):
    Image.new("RGB", (64, 64), (9, 9, 9)).save(root / "val/labels/000.png")


def empty_the_folder(root):
    for path in (root / "train/images").iterdir():
        path.unlink()
    for path in (root / "train/labels").iterdir():
        path.unlink()


def lose_a_pair(root):
    (root / "train/labels/002.png").unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut_a_jpeg, ["cut.jpg", "truncated"]),
        (write_sixteen_bits, ["labels/001.png", "1000"]),
        (write_colors, ["labels/000.png", "one channel"]),
        (empty_the_folder, ["no images for the split 'train'"]),
        (lose_a_pair, ["labels/002.png", "no such file"]),
    ],
)
def test_hostile_data_is_named_before_training_starts(invoke, scenes, tmp_path, damage, words):
    damage(scenes)
    result = invoke()
    assert result.exception is not None
    assert all(word in str(result.exception) for word in words), result.exception
    assert not (tmp_path / "run").exists()


def test_command_trains_and_prints_the_optimizers_groups(invoke, scenes, tmp_path):
    result = invoke()
    assert result.exception is None, result.output
    assert "folder/train: 3 images checked" in result.output
    assert "encoder, norms" in result.output
    assert "step 2: loss" in result.output
    assert json.loads((tmp_path / "run/best/config.json").read_text())["id2label"]["2"] == "house"


def test_written_shards_train_like_the_files(invoke, scenes, tmp_path):
    assert invoke("--write-tfrecords", str(tmp_path / "shards")).exception is None
    assert (tmp_path / "shards/train/shards.json").is_file()
    assert not (tmp_path / "run").exists()
    result = invoke(data=tmp_path / "shards")
    assert result.exception is None, result.output
    assert "best mIoU" in result.output


NO_CHANGE = dict.fromkeys(("initial_weights", "epochs", "steps", "batch_size", "learning_rate", "seed"))


def test_options_change_the_recipe(scenes):
    data = find_dataset("folder", scenes, "train", NAMES)
    recipe = load_recipe("ade20k-b1")

    def change(**options):
        return command._change(recipe, data, **{**NO_CHANGE, **options})

    assert change() == recipe
    assert change(steps=16).steps == 16
    assert change(steps=1600).warmup_steps == 15
    assert change(epochs=32, batch_size=2).steps == 48  # 32 passes over three images, two a step
    assert change(initial_weights="random").initial_weights is None
    assert change(initial_weights="folder").initial_weights == "folder"
    assert change(learning_rate=1.0, seed=5).seed == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epochs", "1", "--steps", "1"], "exclude each other"),
        (["--devices", "3"], "--devices 3"),
        (["--palette", "ff0000"], "1 colors for 4 classes"),
        (["--precision", "int8"], "int8"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_rejectd(invoke, options, message):
    result = invoke(*options)
    assert result.exit_code != 0
    assert message in result.output + str(result.exception)
