"""Public names are documented, and the examples in every docstring give what they say."""

from __future__ import annotations

import doctest
import inspect
import pkgutil
import re
import shutil
import threading
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from PIL import Image

import tf_segformer
from tf_segformer.data.augmentation import Augmentation
from tf_segformer.data.datasets import find_dataset
from tf_segformer.data.tfrecords import write_tfrecords
from tf_segformer.training import callbacks, recipes, run_log, trainer

ROOT = Path(__file__).parents[1]
MODULES = ["tf_segformer"] + [
    module.name
    for module in pkgutil.walk_packages(tf_segformer.__path__, "tf_segformer.")
    if not module.name.endswith("__main__")
]
EXTRAS = {
    "tf_segformer.batch.": "pyarrow",
    "tf_segformer.deploy.onnx.": "onnx",
    "tf_segformer.deploy.openvino": "openvino",
    "tf_segformer.deploy.tf_serving.client": "tensorflow_serving",
    "tf_segformer.inference.video": "av",
    "tf_segformer.raster.": "rasterio",
}
SLOW = {
    "tf_segformer.training.trainer",
    "tf_segformer.deploy.litert",
    "tf_segformer.deploy.network",
    "tf_segformer.deploy.saved_model",
}
_NAMES = re.compile(r"\b(model|dataset|find_dataset|load_recipe|log|val_data|processor|counter|recipe)\b")
PUBLIC_CLASSES = [name for name in tf_segformer.__all__ if name[0] == "S"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """What the examples of training and data find in their folder: a dataset, its shards, label maps, a photograph."""
    folder = tmp_path_factory.mktemp("examples")
    spec = spec_from_file_location("scenes", ROOT / "tests" / "training" / "scenes.py")
    scenes = module_from_spec(spec)
    spec.loader.exec_module(scenes)
    scenes.write_dataset(folder / "CamVid", train=4, val=2)
    write_tfrecords(find_dataset("camvid", folder / "CamVid", "train"), folder / "shards" / "train")
    (folder / "labels").mkdir()
    Image.new("P", (8, 6), 3).save(folder / "labels" / "0001.png")
    photo = ROOT / "examples" / "china.jpg"
    shutil.copy(photo, folder / "photo.jpg")
    return folder


@pytest.fixture
def training_names(small_config):
    """A function that makes what the examples of training call by name: a compiled model, data, a recipe."""

    def make():
        model = tf_segformer.SegformerForSemanticSegmentation(small_config.replace(num_labels=11))
        recipe = recipes.Recipe(
            "two-steps", "b0", "camvid", (recipes.Phase(2, 2, Augmentation((32, 32))),), warmup_steps=0
        )
        trainer.compile_model(model, recipe)
        train_data, val_data = (find_dataset("camvid", "CamVid", split) for split in ("train", "val"))
        log = run_log.RunLog("logs", val_data.class_names, [])
        processor = tf_segformer.SegformerImageProcessor(do_resize=False)
        counter = callbacks.StepCounter(recipe, 0, threading.Event(), log)
        metrics = {"mIoU": 0.5, "aAcc": 0.5, "loss": 1.0, "IoU": [0.5] * 11, "examples": []}
        names = {"find_dataset": find_dataset, "load_recipe": recipes.load_recipe, "dataset": train_data}
        names |= {"tf_segformer": tf_segformer}
        return {**names, **{name: value for name, value in locals().items() if name not in ("names", "small_config")}}

    return make


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in MODULES]
)
def test_docstring_examples_give_what_they_say(name, files, training_names, tmp_path, monkeypatch):
    for beginning, module_of_extra in EXTRAS.items():
        if name.startswith(beginning):
            pytest.importorskip(module_of_extra)
    uses_data = name.startswith(("tf_segformer.training", "tf_segformer.data"))
    if uses_data:
        shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    module = import_module(name)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, name):
        source = "".join(example.source for example in test.examples)
        if uses_data and _NAMES.search(source):
            for key, value in training_names().items():
                test.globs.setdefault(key, value)
        runner.run(test, out=report.append)
    assert not runner.summarize(verbose=False).failed, "".join(report)


def test_no_example_is_skipped():
    for path in (ROOT / "tf_segformer").rglob("*.py"):
        assert "+SKIP" not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize("name", PUBLIC_CLASSES)
def test_public_classes_say_what_they_take_and_show_an_example(name):
    text = inspect.getdoc(getattr(tf_segformer, name))
    assert ">>> " in text
    assert "Args:" in text


@pytest.mark.parametrize("module", ["losses", "metrics", "optimization"])
def test_every_function_of_the_public_modules_shows_an_example(module):
    room = getattr(tf_segformer, module)
    for name, value in vars(room).items():
        if not name.startswith("_") and getattr(value, "__module__", None) == room.__name__:
            assert ">>> " in (inspect.getdoc(value) or ""), f"{room.__name__}.{name} has no example"
