"""A run learns, keeps its best weights, survives kill -9 bit for bit, and gives the same on two devices as on one."""

from __future__ import annotations

import collections
import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.reference import image_size
from tests.training.scenes import NAMES, make_scene, write_dataset
from tf_segformer import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor
from tf_segformer.data.augmentation import Augmentation
from tf_segformer.data.datasets import find_dataset
from tf_segformer.errors import CheckpointError, SegformerError
from tf_segformer.evaluation.metrics import MeanIoU
from tf_segformer.training import trainer
from tf_segformer.training.callbacks import ema_weights
from tf_segformer.training.losses import SegmentationLoss
from tf_segformer.training.optimization import create_optimizer
from tf_segformer.training.recipes import Phase, Recipe, known_recipes, load_recipe
from tf_segformer.training.state import load_state, save_state

TINY = {
    "depths": (1, 1, 1, 1),
    "hidden_sizes": (16, 24, 32, 48),
    "num_attention_heads": (1, 1, 2, 2),
    "decoder_hidden_size": 48,
}
CROPS = Augmentation((32, 32))
RECIPE = Recipe(
    name="tiny",
    variant="b0",
    dataset="folder",
    phases=(Phase(4, 2, CROPS), Phase(4, 2, replace(CROPS, scale_range=(1.0, 2.0)))),
    learning_rate=1e-3,
    warmup_steps=2,
    ema_momentum=0.5,
    validate_every=3,
    model=TINY,
)
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "scenes", train=6, val=2)


def splits(scenes):
    return [find_dataset("folder", scenes, split, class_names=NAMES) for split in ("train", "val")]


def make_model(recipe=RECIPE, **options):
    keras.utils.set_random_seed(recipe.seed)
    config = SegformerConfig.from_variant(recipe.variant, num_labels=len(NAMES), **recipe.model)
    model = SegformerForSemanticSegmentation(config, **options)
    trainer.compile_model(model, recipe, jit_compile=False)
    return model


def run(scenes, output, recipe=RECIPE, model=None, **options):
    model = model or make_model(recipe)
    best = trainer.fit_recipe(
        model,
        recipe,
        *splits(scenes),
        output,
        processor=SegformerImageProcessor(do_resize=False),
        parallel_calls=1,
        **options,
    )
    return model, best


def test_fit_overfits_eight_scenes():
    images, labels = map(np.stack, zip(*(make_scene(seed) for seed in range(8)), strict=True))
    pixel_values = SegformerImageProcessor(do_resize=False)(list(images))["pixel_values"]
    config = SegformerConfig.from_variant("b0", num_labels=4, drop_path_rate=0.0, classifier_dropout_prob=0.0, **TINY)
    model = SegformerForSemanticSegmentation(config)
    optimizer = create_optimizer(3e-3, 240, weight_decay=0.0, head_lr_multiplier=1.0)
    model.compile(optimizer, loss=SegmentationLoss(), metrics=[MeanIoU(4)], jit_compile=False)
    model.fit(pixel_values, labels, batch_size=4, epochs=120, verbose=0)
    assert model.evaluate(pixel_values, labels, verbose=0, return_dict=True)["mean_iou"] > 0.95


@pytest.fixture(scope="module")
def finished(scenes, tmp_path_factory):
    """The model, best row and folder of a run of eight steps."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    return *run(scenes, folder), folder


def test_run_leaves_best_and_last_weights_and_every_log(finished):
    model, best, folder = finished
    rows = list(csv.DictReader((folder / "log.csv").open()))
    assert [int(row["step"]) for row in rows] == [3, 6, 8]
    assert {"learning_rate", "head_learning_rate", "loss", "val_loss", "mIoU", "IoU sky", "IoU sun"} <= set(rows[0])
    assert best["mIoU"] == pytest.approx(max(float(row["mIoU"]) for row in rows), abs=1e-5)
    assert image_size(folder / "curves.png") > (500, 500)
    assert SegformerImageProcessor.from_pretrained(folder / "best").do_resize is False
    last = SegformerForSemanticSegmentation.from_pretrained(folder / "last")
    for ours, saved in zip(model.trainable_variables, last.trainable_variables, strict=True):
        np.testing.assert_array_equal(ours, saved)
    assert not list(folder.glob("*.partial"))


def test_tensorboard_has_learning_rates_and_example_predictions(finished):
    import tensorflow as tf

    (file,) = (finished[2] / "tensorboard").glob("events.*")
    values = {
        value.tag: value
        for event in tf.compat.v1.train.summary_iterator(str(file))
        for value in event.summary.value
        if event.step == 8
    }
    assert tf.make_ndarray(values["head_learning_rate"].tensor) == pytest.approx(0, abs=1e-9)
    width, height, png = tf.make_ndarray(values["examples/0"].tensor)
    assert tf.io.decode_png(png).shape[:2] == (int(height), int(width))
    assert values["examples/0"].metadata.plugin_data.plugin_name == "images"


def test_average_is_kept_beside_the_weights_and_comes_and_goes(finished):
    model = finished[0]
    before = [np.array(variable) for variable in model.trainable_variables]
    with ema_weights(model):
        assert any((np.array(v) != b).any() for v, b in zip(model.trainable_variables, before, strict=True))
    for variable, value in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_folder_of_a_run_is_neither_overwritten_nor_resumed_with_another_recipe(finished, scenes, tmp_path):
    model, _, folder = finished
    with pytest.raises(CheckpointError, match="holds a run already"):
        run(scenes, folder, model=model)
    with pytest.raises(CheckpointError, match="another recipe"):
        run(scenes, folder, replace(RECIPE, learning_rate=1.0), model, resume=True)
    with pytest.raises(CheckpointError, match="no training state"):
        run(scenes, tmp_path / "nothing", model=model, resume=True)


def test_validation_is_that_of_whole_images(scenes):
    model = make_model()
    _, val_data = splits(scenes)
    scores = trainer.make_validation(model, val_data)()
    metric = MeanIoU(len(NAMES))
    for example in val_data.examples:
        inputs = SegformerImageProcessor(do_resize=False)(Image.open(example.image), Image.open(example.labels))
        metric.update_state(inputs["labels"], model(inputs["pixel_values"], training=False))
    assert scores["mIoU"] == pytest.approx(metric.metrics()["mIoU"], abs=1e-3)
    assert len(scores["examples"]) == 2


def test_state_of_another_model_is_rejectd_and_changes_nothing(tmp_path):
    model = make_model()
    save_state(tmp_path / "state.npz", model, {"step": 3})
    other = make_model(replace(RECIPE, model={**TINY, "decoder_hidden_size": 24}))
    before = [np.array(variable) for variable in other.variables]
    with pytest.raises(CheckpointError, match="another model or optimizer"):
        load_state(tmp_path / "state.npz", other)
    assert all((np.array(v) == b).all() for v, b in zip(other.variables, before, strict=True))
    (tmp_path / "state.npz").write_bytes((tmp_path / "state.npz").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="not a readable training state"):
        load_state(tmp_path / "state.npz", model)


def test_nan_loss_ends_the_run_with_its_reason(scenes, tmp_path):
    model = make_model()
    model.trainable_variables[0].assign(np.full(model.trainable_variables[0].shape, np.nan))
    with pytest.raises(SegformerError, match="loss became NaN"):
        run(scenes, tmp_path / "run", model=model)


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_trains(scenes, tmp_path, precision):
    recipe = replace(RECIPE.with_steps(4), accumulation_steps=2)
    model, best = run(scenes, tmp_path / "run", recipe, make_model(recipe, dtype=precision))
    assert np.isfinite(best["loss"])
    has_loss_scale = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert has_loss_scale is (precision == "mixed_float16")
    saved = SegformerForSemanticSegmentation.from_pretrained(tmp_path / "run/last")
    assert all(np.isfinite(np.array(variable)).all() for variable in saved.trainable_variables)


def losses_of_fit(model, steps=3, batch_size=4):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(steps * batch_size, 32, 32, 3)).astype("float32")
    labels = rng.integers(0, 4, (steps * batch_size, 32, 32))
    labels[::2, :20] = 255  # the devices see different numbers of labelled pixels
    losses = []
    follow = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: losses.append(logs["loss"]))
    model.fit(images, labels, batch_size=batch_size, shuffle=False, verbose=0, callbacks=[follow])
    return np.array(losses)


STILL = replace(
    RECIPE, warmup_steps=0, ema_momentum=None, model={**TINY, "drop_path_rate": 0.0, "classifier_dropout_prob": 0.0}
)


def test_rematerialization_changes_memory_not_losses():
    plain = losses_of_fit(make_model(STILL))
    again = make_model(STILL)
    trainer.rematerialize(again)
    np.testing.assert_allclose(losses_of_fit(again), plain, rtol=1e-5)


@pytest.mark.parametrize("rematerialized", [False, True])
def test_rematerialization_computes_the_inside_of_every_block_twice(rematerialized):
    model = make_model(STILL)
    if rematerialized:
        trainer.rematerialize(model)
    calls = collections.Counter()
    for layer in model._flatten_layers():
        if layer.name in ("query", "dense_1"):

            def count(x, layer=layer, call=layer.call, **options):
                calls[layer.path] += 1
                return call(x, **options)

            layer.call = count
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(np.zeros((1, 32, 32, 3), "float32"), training=True))
    tape.gradient(loss, model.trainable_variables)
    assert len(calls) == 2 * sum(model.config.depths)
    assert set(calls.values()) == {2 if rematerialized else 1}


@pytest.mark.slow
def test_xla_gives_the_same_losses():
    plain = losses_of_fit(make_model(STILL))
    compiled = make_model(STILL)
    trainer.compile_model(compiled, STILL, jit_compile=True)
    np.testing.assert_allclose(losses_of_fit(compiled), plain, rtol=1e-4)  # XLA adds up in another order


@pytest.mark.slow
def test_two_devices_give_the_losses_of_one():
    """In a process of its own: the logical devices must exist before TensorFlow is used."""
    script = """
import sys
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from tests.training import test_trainer as tests
from tf_segformer.ops import chunked_head
from tf_segformer.training import trainer
from tf_segformer.training.callbacks import ema_weights
from tf_segformer.training.devices import synchronize_batch_norm
chunked_head.CHANNELS_AT_ONCE = 12  # four blocks, each with moments of both devices
one = tests.losses_of_fit(tests.make_model(tests.STILL))
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    model = tests.make_model(tests.STILL)
    trainer.synchronize_batch_norm(model)
two = tests.losses_of_fit(model)
print(one, two)
np.testing.assert_allclose(two, one, rtol=1e-5)
"""
    result = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]


RECIPE_FILE = f"""
from tf_segformer.data.augmentation import Augmentation
from tf_segformer.training.recipes import Phase, Recipe
CROPS = Augmentation((32, 32))
RECIPE = Recipe("killed", "b0", "folder", (Phase(10, 2, CROPS), Phase(14, 2, Augmentation((48, 48)))),
    learning_rate=1e-3, warmup_steps=4, ema_momentum=0.9, clip_norm=1.0, accumulation_steps=2, validate_every=6,
    model={TINY!r})
"""


def start_command(folder, scenes, output, *options):
    command = [sys.executable, "-m", "tf_segformer", "train", "--recipe", str(folder / "recipe.py"), "--data"]
    command += [str(scenes), "--output", str(output), "--class-names", ",".join(NAMES), "--threads", "1", *options]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(path, process):
    """Until the file is there and the process still runs."""
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@pytest.fixture(scope="module")
def uninterrupted(scenes, tmp_path_factory):
    """The folder of a run that nobody interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "recipe.py").write_text(RECIPE_FILE)
    process = start_command(folder, scenes, folder / "run")
    _, message = process.communicate(timeout=300)
    assert process.returncode == 0, message
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM], ids=["kill -9", "SIGTERM"])
def test_killed_and_resumed_run_ends_bit_equal_to_an_uninterrupted_one(scenes, tmp_path, uninterrupted, kill):
    (tmp_path / "recipe.py").write_text(RECIPE_FILE)
    killed = start_command(tmp_path, scenes, tmp_path / "run")
    wait_for(tmp_path / "run/state.npz", killed)
    os.kill(killed.pid, kill)
    _, message = killed.communicate(timeout=300)
    if kill == signal.SIGKILL:
        assert killed.returncode == -signal.SIGKILL
    else:
        assert killed.returncode == 2
        assert "continue with --resume" in message
    step = json.loads(str(np.load(tmp_path / "run/state.npz")["__meta__"]))["step"]
    assert 0 < step < 24, "the run was not interrupted"
    resumed = start_command(tmp_path, scenes, tmp_path / "run", "--resume")
    _, message = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, message
    one, other = np.load(uninterrupted / "state.npz"), np.load(tmp_path / "run/state.npz")
    assert set(one.files) == set(other.files)
    for name in set(one.files) - {"__meta__"}:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    weights = [(folder / "last/model.safetensors").read_bytes() for folder in (uninterrupted, tmp_path / "run")]
    assert weights[0] == weights[1]


def test_recipes_are_those_of_the_paper():
    recipes = known_recipes()
    assert {f"{data}-b{i}" for data in ("ade20k", "cityscapes", "finetune") for i in range(6)} | {"camvid-b0"} <= set(
        recipes
    )
    for variant in ("b0", "b5"):
        ade = recipes[f"ade20k-{variant}"]
        assert (ade.steps, ade.phases[0].batch_size, ade.learning_rate, ade.weight_decay) == (160_000, 16, 6e-5, 0.01)
        assert (ade.warmup_steps, ade.power, ade.head_lr_multiplier) == (1500, 1.0, 10.0)
    assert recipes["ade20k-b4"].phases[0].augmentation.crop_size == (512, 512)
    assert recipes["ade20k-b5"].phases[0].augmentation.crop_size == (640, 640)
    cityscapes = recipes["cityscapes-b3"].phases[0]
    assert (cityscapes.batch_size, cityscapes.augmentation.crop_size) == (8, (1024, 1024))


def test_recipe_scales_every_phase_with_the_steps():
    recipe = Recipe("x", "b0", "folder", (Phase(300, 2, CROPS), Phase(100, 2, CROPS)), warmup_steps=40, decay_start=200)
    short = recipe.with_steps(40)
    assert [phase.steps for phase in short.phases] == [30, 10]
    assert (short.warmup_steps, short.decay_start, short.steps) == (4, 20, 40)
    assert [phase.steps for phase in recipe.with_steps(2).phases] == [1, 1]
    with pytest.raises(ValueError, match="steps=1"):
        recipe.with_steps(1)


def test_recipe_of_a_file_is_read_and_a_wrong_one_named(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(RECIPE_FILE)
    assert load_recipe(path).name == "killed"
    path.write_text("X = 1")
    with pytest.raises(SegformerError, match=r"mine\.py: defines no RECIPE"):
        load_recipe(path)
    with pytest.raises(SegformerError, match="no recipe 'unknown'"):
        load_recipe("unknown")


def test_a_run_whose_recipe_is_no_text_is_not_resumed(tmp_path):
    (tmp_path / "recipe.json").write_bytes(b"\xff" * 100)
    with pytest.raises(CheckpointError, match="another recipe"):
        trainer._start(None, RECIPE, tmp_path, resume=True)
