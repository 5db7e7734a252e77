"""The models give the numbers of transformers 4.49, from the same weights."""

from __future__ import annotations

import numpy as np
import pytest

from tests.transformers import cases

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the port is one of TensorFlow")
TRAINED = [case for case in cases.CASES if case != "encoder"]


@pytest.mark.parametrize("case", cases.CASES)
def test_a_call_gives_the_numbers_of_transformers(case, golden, model_of):
    outputs = model_of(case)(**cases.inputs(case), output_hidden_states=True, output_attentions=True)
    expected = golden[case]
    for name, tolerance in (("logits", 2e-5), ("last_hidden_state", 2e-5), ("loss", 1e-5)):
        assert (name in outputs) == (name in expected)
        if name in expected:
            np.testing.assert_allclose(outputs[name], expected[name], atol=tolerance, rtol=0)
    for stage, states in enumerate(outputs.hidden_states):
        np.testing.assert_allclose(states, expected[f"hidden_{stage}"], atol=2e-5, rtol=0)
    assert len(outputs.attentions) == sum(cases.fields(case)["depths"])
    np.testing.assert_allclose(outputs.attentions[-1], expected["last_attention"], atol=2e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("case", TRAINED)
def test_ten_steps_of_fit_give_the_losses_of_transformers(case, golden, model_of):
    model, inputs = model_of(case), cases.inputs(case)
    model.compile(optimizer=keras.optimizers.Adam(cases.LEARNING_RATE))
    dataset = tf.data.Dataset.from_tensor_slices(inputs).batch(len(inputs["labels"]))
    losses = model.fit(dataset, epochs=cases.STEPS, verbose=0, shuffle=False).history["loss"]
    np.testing.assert_allclose(losses, golden[case]["losses"], atol=1e-3, rtol=0)
    np.testing.assert_allclose(
        model.predict(inputs["pixel_values"], verbose=0).logits, golden[case]["trained_logits"], atol=2e-2, rtol=0
    )
