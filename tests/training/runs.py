"""A recipe and a model so small that a run takes seconds, for the tests of the trainer."""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np

from tests.training.scenes import NAMES
from tf_segformer import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor
from tf_segformer.data import Augmentation, find_dataset
from tf_segformer.training import trainer
from tf_segformer.training.recipes import Phase, Recipe

TINY = {
    "depths": (1, 1, 1, 1),
    "hidden_sizes": (8, 8, 16, 16),
    "num_attention_heads": (1, 1, 2, 2),
    "decoder_hidden_size": 16,
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
PROCESSOR = SegformerImageProcessor(do_resize=False, image_mean=(0.4, 0.5, 0.6), image_std=0.25)
# without what differs between backends and devices
DETERMINISTIC = replace(
    RECIPE, warmup_steps=0, ema_momentum=None, model={**TINY, "drop_path_rate": 0.0, "classifier_dropout_prob": 0.0}
)


def splits(scenes):
    """Training and validation split of `write_dataset`."""
    return tuple(find_dataset("folder", scenes, split, class_names=NAMES) for split in ("train", "val"))


def make_model(recipe=RECIPE, **options):
    """The recipe's model, compiled."""
    keras.utils.set_random_seed(recipe.seed)
    config = SegformerConfig.from_variant(recipe.variant, num_labels=len(NAMES), **recipe.model)
    model = SegformerForSemanticSegmentation(config, **options)
    trainer.compile_model(model, recipe, jit_compile=False)
    return model


def run(scenes, output, recipe=RECIPE, model=None, **options):
    """A run of `fit_recipe`: the model and the best row."""
    model = model or make_model(recipe)
    best = trainer.fit_recipe(
        model, recipe, *splits(scenes), output, **{"processor": PROCESSOR, "parallel_calls": 1, **options}
    )
    return model, best


def losses_of_fit(model, steps=3, batch_size=4):
    """The losses of some steps on random images."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(steps * batch_size, 32, 32, 3)).astype("float32")
    labels = rng.integers(0, 4, (steps * batch_size, 32, 32))
    labels[::2, :20] = 255  # devices that share a batch see different numbers of labelled pixels
    losses = []
    follow = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: losses.append(logs["loss"]))
    model.fit(images, labels, batch_size=batch_size, shuffle=False, verbose=0, callbacks=[follow])
    return np.array(losses)
