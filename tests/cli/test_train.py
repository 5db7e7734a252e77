"""`tf-segformer train`: what it rejects before the first step, and how its options change the recipe."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from tests.training.scenes import NAMES, make_scene, write_dataset
from tf_segformer.cli import train as command
from tf_segformer.errors import CheckpointError
from tf_segformer.hub import HubOptions
from tf_segformer.training import trainer

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
    assert "folder/train: 3 images, 4 classes" in result.output
    assert "encoder, norms" in result.output
    assert "step 2: loss" in result.output
    assert json.loads((tmp_path / "run/best/config.json").read_text())["id2label"]["2"] == "house"


def test_written_shards_take_the_place_of_the_files(invoke, arguments_of_train, tmp_path):
    written = invoke("--write-tfrecords", str(tmp_path / "shards"))
    assert f"{tmp_path / 'shards/train'}: 3 examples in 1 shards" in written.output
    assert not arguments_of_train
    result = invoke(data=tmp_path / "shards")
    assert result.exception is None, result.output
    assert [each.name for each in arguments_of_train["data"]] == ["folder/train", "folder/val"]
    assert len(arguments_of_train["data"][0].paths) == 1


@pytest.fixture
def arguments_of_train(monkeypatch):
    """What the command gives to `trainer.train`, which does not run."""
    from tf_segformer.training import trainer

    given = {}

    def train(recipe, data, **options):
        given.update(options, recipe=recipe, data=data)
        return {"mIoU": 0.5, "step": 7}

    monkeypatch.setattr(trainer, "train", train)
    return given


def test_every_option_reaches_the_function(invoke, arguments_of_train, tmp_path):
    more = ["--backend", "tensorflow", "--num-processes", "1", "--no-check", "--revision", "v2"]
    options = "--init random --epochs 3 --batch-size 2 --learning-rate 0.5 --seed 4 --precision bfloat16 --no-jit"
    result = invoke(*options.split(), "--rematerialize", "--devices", "1", "--resume", *more)
    assert result.exception is None, result.output
    assert result.output == "best mIoU 50.00 at step 7\n"
    recipe, (train_data, val_data) = arguments_of_train.pop("recipe"), arguments_of_train.pop("data")
    assert (recipe.name, train_data.size, val_data.size, train_data.class_names) == ("mine", 3, 1, NAMES)
    assert arguments_of_train == {
        "output": tmp_path / "run",
        "model": "random",
        "epochs": 3,
        "steps": None,
        "batch_size": 2,
        "learning_rate": 0.5,
        "seed": 4,
        "precision": "bfloat16",
        "jit_compile": False,
        "rematerialize": True,
        "devices": 1,
        "backend": "tensorflow",
        "coordinator": None,
        "num_processes": 1,
        "process_id": None,
        "resume": True,
        "check": False,
        "parallel_calls": None,
        "hub": HubOptions(revision="v2"),
    }


def test_the_folder_is_enough(scenes, arguments_of_train):
    result = CliRunner().invoke(command.train, ["--data", str(scenes), "--class-weights", "balanced"])
    assert result.exception is None, result.output
    train_data, val_data = arguments_of_train["data"]
    assert (train_data.name, train_data.num_labels, val_data.size) == ("folder/train", 4, 1)
    assert arguments_of_train["recipe"].name == "finetune-b0"
    weights = arguments_of_train["recipe"].loss["class_weights"]
    assert len(weights) == 4 and max(weights) == weights[3] > 1  # the sun is small
    assert "class weights: class 0" in result.output


def test_weights_of_the_recipe_that_cannot_be_had_name_others(scenes, monkeypatch):
    def train(*arguments, **options):
        raise CheckpointError("nvidia/mit-b0: the Hub is out of reach")

    monkeypatch.setattr(trainer, "train", train)
    result = CliRunner().invoke(command.train, ["--data", str(scenes)])
    assert re.search(r"out of reach; or start .*--init camvid-b0.*--init random", str(result.exception))
    result = CliRunner().invoke(command.train, ["--data", str(scenes), "--init", "nvidia/mit-b0"])
    assert str(result.exception) == "nvidia/mit-b0: the Hub is out of reach"


@pytest.mark.slow
def test_a_flat_folder_is_trained_to_the_end_by_the_default_recipe(tmp_path):
    """B0 at crops of 512: the kind, the split, the classes and the recipe follow from the folder."""
    for index in range(6):
        image, labels = make_scene(index)
        labels[labels == 3] = 2
        labels[0, 0] = 3  # 0.02 % of the pixels
        Image.fromarray(image).save(tmp_path / f"{index}.png")
        Image.fromarray(labels).save(tmp_path / f"{index}_mask.png")
    run = tmp_path / "run"
    arguments = ["--data", tmp_path, "--init", "camvid-b0", "--steps", 2, "--batch-size", 1, "--output", run]
    with pytest.warns(UserWarning, match="classifier/bias: newly initialized"):
        result = CliRunner().invoke(command.train, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "below 1 % of the training pixels: class 3" in result.output
    assert "--class-weights balanced" in result.output
    assert "best mIoU" in result.output
    recipe = json.loads((run / "recipe.json").read_text())
    assert (recipe["name"], recipe["phases"][0]["augmentation"]["crop_size"]) == ("finetune-b0", [512, 512])
    config = json.loads((run / "best/config.json").read_text())
    assert list(config["id2label"].values()) == [f"class {index}" for index in range(4)]


def test_class_weights_are_taken_as_they_are(invoke, arguments_of_train):
    assert invoke("--class-weights", "1,2,3,0.5").exception is None
    assert arguments_of_train["recipe"].loss == {"class_weights": [1, 2, 3, 0.5]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--class-weights", "1,2"], "2 numbers for 4 classes"),
        (["--class-weights", "many"], "neither 'balanced' nor numbers"),
        (["--epochs", "1", "--steps", "1"], "exclude each other"),
        (["--devices", "3"], "devices=3"),
        (["--palette", "ff0000"], "1 colors for 4 classes"),
        (["--precision", "int8"], "int8"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_rejected(invoke, options, message):
    result = invoke(*options)
    assert result.exit_code != 0
    assert message in result.output + str(result.exception)
