"""A run learns, keeps its best weights and every log, calls the user's callbacks and says why it cannot go on."""

from __future__ import annotations

import contextlib
import csv
import json
import threading
from dataclasses import replace

import keras
import numpy as np
import pytest

from tests.other_backends import output_on
from tests.training.runs import CROPS, DETERMINISTIC, PROCESSOR, RECIPE, losses_of_fit, make_model, run, splits
from tests.training.scenes import NAMES, make_scene, write_dataset
from tf_segformer import SegformerForSemanticSegmentation, SegformerImageProcessor, SegmentationPredictor
from tf_segformer.errors import CheckpointError, SegformerError
from tf_segformer.evaluation.metrics import MeanIoU
from tf_segformer.training import trainer
from tf_segformer.training.callbacks import StepCounter, ema_weights, stop_on_signal
from tf_segformer.training.recipes import Phase
from tf_segformer.training.run_log import RunLog


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "scenes", train=6, val=2)


class Recorder(keras.callbacks.Callback):
    """A callback of a user: what it was called with."""

    def __init__(self):
        super().__init__()
        self.trainings, self.epochs, self.batches = 0, [], 0

    def on_train_begin(self, logs=None):
        self.trainings += 1

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append((epoch, self.batches, logs["val_mIoU"], logs["val_loss"]))


@pytest.fixture(scope="module")
def finished(scenes, tmp_path_factory):
    """The model, best row, folder and callback of a run of eight steps in two phases, validated every three."""
    folder, recorder = tmp_path_factory.mktemp("runs") / "run", Recorder()
    return *run(scenes, folder, callbacks=[recorder]), folder, recorder


def rows_of(folder):
    return list(csv.DictReader((folder / "log.csv").read_text().splitlines()))


def test_run_leaves_best_and_last_weights_and_every_log(finished):
    model, best, folder, _ = finished
    rows = rows_of(folder)
    assert [int(row["step"]) for row in rows] == [3, 6, 8]
    assert {"learning_rate", "head_learning_rate", "loss", "val_loss", "mIoU", "IoU sky", "IoU sun"} <= set(rows[0])
    assert best["mIoU"] == pytest.approx(max(float(row["mIoU"]) for row in rows), abs=1e-5)
    assert float(rows[0]["head_learning_rate"]) == pytest.approx(10 * float(rows[0]["learning_rate"]), rel=1e-4)
    assert float(rows[-1]["learning_rate"]) == 0
    assert SegformerImageProcessor.from_pretrained(folder / "best") == PROCESSOR
    assert (folder / "curves.png").is_file()
    last = SegformerForSemanticSegmentation.from_pretrained(folder / "last")
    for ours, saved in zip(model.trainable_variables, last.trainable_variables, strict=True):
        np.testing.assert_array_equal(ours, saved)
    assert not [path for path in folder.rglob("*") if "partial" in path.name]


def test_last_weights_are_the_average_and_the_state_holds_those_in_training(finished):
    model, _, folder, _ = finished
    state = np.load(folder / "state.npz")
    trained = {tuple(state[name].shape): state[name] for name in state.files if name.startswith("model/")}
    kernel = model.decode_head.classifier.kernel
    assert (np.array(kernel) != trained[tuple(kernel.shape)]).any()


def test_users_callbacks_see_one_training_whose_epochs_are_the_validations(finished):
    _, _, folder, recorder = finished
    rows = rows_of(folder)
    assert recorder.trainings == 1
    assert [each[:2] for each in recorder.epochs] == [(0, 3), (1, 6), (2, 8)]
    for (_, _, miou, loss), row in zip(recorder.epochs, rows, strict=True):
        assert miou == pytest.approx(float(row["mIoU"]), abs=1e-5)
        assert loss == pytest.approx(float(row["val_loss"]), rel=1e-4)


def test_best_weights_predict_what_was_validated(finished, scenes):
    _, best, folder, _ = finished
    model = SegformerForSemanticSegmentation.from_pretrained(folder / "best")
    predictor = SegmentationPredictor(model, SegformerImageProcessor.from_pretrained(folder / "best"))
    metric = MeanIoU(len(NAMES))
    for example in splits(scenes)[1]:
        (result,) = predictor(example.read_image())
        metric.update_state(example.read_labels()[None], result.class_map[None])
    assert metric.metrics()["mIoU"] == pytest.approx(best["mIoU"], abs=1e-6)


def test_tensorboard_has_learning_rates_and_example_predictions(finished):
    import tensorflow as tf

    (file,) = (finished[2] / "tensorboard").glob("events.*")
    values = {
        value.tag: value
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator()
        for event in [tf.compat.v1.Event.FromString(record)]
        for value in event.summary.value
        if event.step == 8
    }
    assert tf.make_ndarray(values["head_learning_rate"].tensor) == pytest.approx(0, abs=1e-9)
    width, height, png = tf.make_ndarray(values["examples/0"].tensor)
    assert tf.io.decode_png(png).shape[:2] == (int(height), int(width))
    assert values["examples/0"].metadata.plugin_data.plugin_name == "images"


def test_folder_of_a_run_is_neither_overwritten_nor_resumed_with_another_recipe(finished, scenes, tmp_path):
    model, _, folder, _ = finished
    with pytest.raises(CheckpointError, match="holds a run already"):
        run(scenes, folder, model=model)
    with pytest.raises(CheckpointError, match="another recipe"):
        run(scenes, folder, replace(RECIPE, learning_rate=1.0), model, resume=True)
    (tmp_path / "recipe.json").write_bytes(b"\xff" * 10)
    with pytest.raises(CheckpointError, match="another recipe"):
        run(scenes, tmp_path, model=model, resume=True)
    with pytest.raises(CheckpointError, match="no training state"):
        run(scenes, tmp_path / "nothing", model=model, resume=True)


def test_complete_run_is_resumed_to_its_result_without_a_step(finished, scenes):
    model, best, folder, recorder = finished
    before = (folder / "last/model.safetensors").read_bytes()
    _, again = run(scenes, folder, model=model, resume=True, callbacks=[recorder])
    assert again["mIoU"] == best["mIoU"]
    assert recorder.batches == 8
    assert (folder / "last/model.safetensors").read_bytes() == before


def test_average_comes_and_goes_without_changing_a_bit():
    model = make_model()
    weights = [np.array(variable) for variable in model.trainable_variables]
    averages = [variable for variable in model.optimizer.variables if variable.path.endswith("_average")]
    assert len(averages) == len(weights)
    for average in averages:
        average.assign(np.full(average.shape, 0.1))
    with ema_weights(model):
        assert all((np.array(variable) == np.float32(0.1)).all() for variable in model.trainable_variables)
    for variable, value in zip(model.trainable_variables, weights, strict=True):
        np.testing.assert_array_equal(variable, value)


@pytest.fixture
def counter(tmp_path):
    """Makes the counter of a run of 8 steps, validated every 3, on a model that only keeps `stop_training`."""

    def make(step=0):
        counter = StepCounter(RECIPE, step, threading.Event(), RunLog(tmp_path, NAMES, []))
        counter.set_model(keras.Sequential())
        counter.model.stop_training = False
        return counter

    return make


def epoch_of(counter, epoch=0):
    """Runs one epoch as `fit` does and returns its number of batches."""
    for batch in range(RECIPE.validate_every):
        counter.on_train_batch_end(batch, {"loss": 1.0})
        if counter.model.stop_training:
            break
    counter.on_epoch_end(epoch)
    return batch + 1


def test_epochs_end_at_validations_also_after_an_interruption_between_two(counter):
    whole, resumed = counter(), counter(step=4)
    assert (list(whole.epochs), list(resumed.epochs)) == ([0, 1, 2], [1, 2])
    assert [epoch_of(whole), epoch_of(whole), epoch_of(whole)] == [3, 3, 2]
    assert [epoch_of(resumed), epoch_of(resumed)] == [2, 2]
    assert whole.model.stop_training


def test_signal_ends_the_epoch_after_the_current_batch(counter):
    import os
    import signal

    stopped = counter()
    with stop_on_signal() as stopped.stop:
        epoch_of(stopped)
        os.kill(os.getpid(), signal.SIGTERM)
        assert epoch_of(stopped) == 1
    assert stopped.model.stop_training
    assert not stopped.validation_is_due
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_user_who_stops_the_training_is_obeyed(counter):
    stopped = counter()
    stopped.on_train_batch_end(0, {"loss": 1.0})
    stopped.model.stop_training = True  # by another callback
    stopped.on_epoch_end(0)
    assert stopped.model.stop_training


def test_nan_loss_ends_the_run_with_its_reason(counter):
    with pytest.raises(SegformerError, match=r"loss became NaN before step 1: .*state\.npz"):
        counter().on_train_batch_end(0, {"loss": float("nan")})


def test_loss_ignores_what_the_configuration_says(small_config):
    model = SegformerForSemanticSegmentation(small_config.replace(semantic_loss_ignore_index=2))
    trainer.compile_model(model, RECIPE)
    assert model.loss.ignore_index == 2


def make_tiny_pretrained(folder, **processor):
    make_model().save_pretrained(folder)
    SegformerImageProcessor(**processor).save_pretrained(folder)
    return folder


def test_processor_is_that_of_the_checkpoint_except_for_resizing_and_labels(tmp_path):
    folder = make_tiny_pretrained(tmp_path / "model", image_mean=0.5, size=64, do_reduce_labels=True)
    assert trainer._make_processor(folder, RECIPE) == SegformerImageProcessor(
        image_mean=0.5, size=64, do_resize=False, do_reduce_labels=False
    )
    assert trainer._make_processor(folder, replace(RECIPE, dataset="ade20k")).do_reduce_labels
    assert trainer._make_processor(None, RECIPE) == SegformerImageProcessor(do_resize=False)
    (folder / "preprocessor_config.json").unlink()
    with pytest.warns(UserWarning, match=r"has no preprocessor_config\.json: .* ImageNet's mean and std.*`processor`"):
        assert trainer._make_processor(folder, RECIPE) == SegformerImageProcessor(do_resize=False)


@pytest.fixture
def fit_arguments(monkeypatch):
    """What `train` gives to `fit_recipe`, which does not run."""
    given = {}

    def fit_recipe(model, recipe, train_data, val_data, output, **options):
        given.update(options, model=model, recipe=recipe, data=(train_data, val_data), output=output)
        return {"mIoU": 0.5, "step": 1}

    monkeypatch.setattr(trainer, "fit_recipe", fit_recipe)
    return given


def test_train_opens_a_folder_checks_it_and_starts_from_a_checkpoint(fit_arguments, scenes, tmp_path, capsys):
    folder = make_tiny_pretrained(tmp_path / "model", image_mean=0.5)
    trainer.train(
        RECIPE, scenes, tmp_path / "run", model=folder, class_names=list("abcd"), epochs=4, batch_size=3,
        learning_rate=0.5, seed=7, precision="bfloat16", devices=1,
    )  # fmt: skip
    assert "folder/train: 6 images, 4 classes" in capsys.readouterr().out
    recipe = fit_arguments["recipe"]
    assert (recipe.steps, recipe.phases[0].batch_size, recipe.learning_rate, recipe.seed) == (8, 3, 0.5, 7)
    assert fit_arguments["model"].config.id2label == dict(enumerate("abcd"))
    assert fit_arguments["model"].dtype_policy.name == "mixed_bfloat16"
    assert fit_arguments["processor"].image_mean == 0.5


def test_train_takes_a_model_and_datasets_as_they_are(fit_arguments, scenes):
    model, data = make_model(), splits(scenes)
    trainer.train(RECIPE, data, model=model, processor=PROCESSOR, check=False, callbacks=["mine"], resume=True)
    assert fit_arguments["model"] is model
    assert fit_arguments["data"] == data
    assert fit_arguments["processor"] is PROCESSOR
    assert (fit_arguments["callbacks"], fit_arguments["resume"]) == (["mine"], True)
    assert str(fit_arguments["output"]) == "runs/tiny"


def test_train_names_arguments_out_of_range(scenes):
    with pytest.raises(ValueError, match="precision='int8'"):
        trainer.train(RECIPE, splits(scenes), precision="int8")
    with pytest.raises(ValueError, match="epochs and steps"):
        trainer.train(RECIPE, splits(scenes), epochs=1, steps=1)
    with pytest.raises(SegformerError, match="devices=3"):
        trainer.train(RECIPE, splits(scenes), devices=3, check=False)


def test_accumulation_on_several_devices_is_rejected_before_a_model_is_built(scenes, monkeypatch):
    monkeypatch.setattr(trainer, "device_scope", lambda devices: contextlib.nullcontext(2))
    with pytest.raises(SegformerError, match="one GPU only: train with devices=1"):
        trainer.train(replace(RECIPE, accumulation_steps=2), splits(scenes), check=False)


@pytest.mark.slow
def test_fit_overfits_eight_scenes():
    from tests.training.runs import TINY
    from tf_segformer import SegformerConfig
    from tf_segformer.training.losses import SegmentationLoss
    from tf_segformer.training.optimization import create_optimizer

    images, labels = map(np.stack, zip(*(make_scene(seed) for seed in range(8)), strict=True))
    pixel_values = SegformerImageProcessor(do_resize=False)(list(images))["pixel_values"]
    wider = {**TINY, "hidden_sizes": (16, 24, 32, 48), "decoder_hidden_size": 48}
    config = SegformerConfig.from_variant("b0", num_labels=4, drop_path_rate=0.0, classifier_dropout_prob=0.0, **wider)
    model = SegformerForSemanticSegmentation(config)
    optimizer = create_optimizer(3e-3, 240, weight_decay=0.0, head_lr_multiplier=1.0)
    model.compile(optimizer, loss=SegmentationLoss(), metrics=[MeanIoU(4)], jit_compile=False)
    model.fit(pixel_values, labels, batch_size=4, epochs=120, verbose=0)
    assert model.evaluate(pixel_values, labels, verbose=0, return_dict=True)["mean_iou"] > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_trains(scenes, tmp_path, precision):
    recipe = replace(RECIPE.with_steps(4), accumulation_steps=2)
    model, best = run(scenes, tmp_path / "run", recipe, make_model(recipe, dtype=precision))
    assert np.isfinite(best["loss"])
    has_loss_scale = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert has_loss_scale is (precision == "mixed_float16")
    saved = SegformerForSemanticSegmentation.from_pretrained(tmp_path / "run/last")
    assert all(np.isfinite(np.array(variable)).all() for variable in saved.trainable_variables)


@pytest.mark.slow
def test_phases_of_other_sizes_and_batches_follow_each_other_in_one_fit(scenes, tmp_path):
    phases = (Phase(2, 2, CROPS), Phase(1, 3, replace(CROPS, crop_size=(48, 32))), Phase(2, 2, CROPS))
    recorder = Recorder()
    run(scenes, tmp_path / "run", replace(RECIPE, phases=phases, validate_every=5), callbacks=[recorder])
    assert (recorder.trainings, recorder.batches) == (1, 5)


@pytest.mark.slow
def test_xla_gives_the_same_losses():
    plain = losses_of_fit(make_model(DETERMINISTIC))
    compiled = make_model(DETERMINISTIC)
    trainer.compile_model(compiled, DETERMINISTIC, jit_compile=True)
    np.testing.assert_allclose(losses_of_fit(compiled), plain, rtol=1e-4)  # XLA adds up in another order


BACKEND_SCRIPT = """
import json, pathlib, sys, tempfile
import keras
assert keras.backend.backend() == sys.argv[1]
from tests.training.runs import DETERMINISTIC, run
from tests.training.scenes import write_dataset
from dataclasses import replace
folder = pathlib.Path(tempfile.mkdtemp())
scenes = write_dataset(folder / "scenes", train=4, val=1)
run(scenes, folder / "run", replace(DETERMINISTIC, ema_momentum=0.5))
_, best = run(scenes, folder / "run", replace(DETERMINISTIC, ema_momentum=0.5), resume=True)
print(json.dumps(json.loads(str(__import__("numpy").load(folder / "run/state.npz")["__meta__"]))["rows"]))
"""


@pytest.mark.slow
def test_trainer_runs_on_torch(tmp_path):
    """Of JAX test_runs_on_jax.py says more."""
    rows = json.loads(output_on("torch", BACKEND_SCRIPT).splitlines()[-1])
    scenes = write_dataset(tmp_path / "scenes", train=4, val=1)
    recipe = replace(DETERMINISTIC, ema_momentum=0.5)
    run(scenes, tmp_path / "run", recipe)
    expected = json.loads(str(np.load(tmp_path / "run/state.npz")["__meta__"]))["rows"]
    assert [row["step"] for row in rows] == [3, 6, 8]
    for ours, theirs in zip(rows, expected, strict=True):
        # the random initial weights are those of Keras' NumPy-like seeds on each backend: only their scale agrees
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.2)
        assert np.isfinite(ours["val_loss"])
