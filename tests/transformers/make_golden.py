"""Writes the golden numbers of transformers 4.49's TensorFlow port; run it in an environment of its own.

    python3 -m venv reference && reference/bin/pip install transformers==4.49 tensorflow tf-keras
    cd tests/transformers && ../../reference/bin/python make_golden.py

For each case of cases.py, golden.npz holds the random weights under the names that Keras 2 gives them, the outputs of a
call, the losses of ten steps of `fit` from the same weights, and the logits after them.
"""

from __future__ import annotations

import os
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import cases
import numpy as np
import tensorflow as tf
import transformers

GOLDEN = Path(__file__).parent / "golden.npz"


def make(case: str) -> dict[str, np.ndarray]:
    """The numbers of a case."""
    tf.keras.utils.set_random_seed(len(case))
    config = transformers.SegformerConfig(**{**cases.fields(case), "initializer_range": 0.2})
    model = getattr(transformers, f"TFSegformer{cases.CASES[case][0]}")(config)
    inputs = cases.inputs(case)
    model(inputs["pixel_values"])
    random = np.random.default_rng(0)
    for variable in model.weights:  # gains, biases and statistics that matter
        if variable.shape.rank == 1:
            noise = random.uniform(-0.2, 0.2, variable.shape)
            variable.assign_add(noise.astype("float32"))
    names = [f"{variable.name} {','.join(map(str, variable.shape))}" for variable in model.weights]
    weights = np.concatenate([variable.numpy().ravel() for variable in model.weights])
    outputs = model(**inputs, output_hidden_states=True, output_attentions=True)
    golden = {name: np.asarray(outputs[name]) for name in ("loss", "logits", "last_hidden_state") if name in outputs}
    golden |= {f"hidden_{index}": each.numpy() for index, each in enumerate(outputs.hidden_states)}
    golden["last_attention"] = outputs.attentions[-1].numpy()
    if "labels" in inputs:
        model.compile(optimizer=tf.keras.optimizers.Adam(cases.LEARNING_RATE))
        dataset = tf.data.Dataset.from_tensor_slices(inputs).batch(len(inputs["labels"]))
        golden["losses"] = np.array(model.fit(dataset, epochs=cases.STEPS, verbose=0).history["loss"])
        golden["trained_logits"] = model.predict(inputs["pixel_values"], verbose=0).logits
    numbers = {name: value.astype("float32") for name, value in {**golden, "weights": weights}.items()}
    return {f"{case}/{name}": value for name, value in {**numbers, "names": np.array("\n".join(names))}.items()}


if __name__ == "__main__":
    golden: dict[str, np.ndarray] = {}
    for each in cases.CASES:
        golden |= make(each)
    np.savez_compressed(GOLDEN, **golden)
