"""Outputs of small checkpoints that transformers wrote, on every backend that is installed."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tests.modeling.make_golden import CHECKPOINTS, FOLDER, SIZES, image
from tests.other_backends import output_on
from tf_segformer import SegformerForImageClassification, SegformerForSemanticSegmentation, SegformerModel

CLASSES = {
    "SegformerForSemanticSegmentation": SegformerForSemanticSegmentation,
    "SegformerForImageClassification": SegformerForImageClassification,
}
TOLERANCE = 5e-6  # of the largest reference magnitude: float32 sums in another order


def relative_difference(ours, reference: np.ndarray) -> float:
    ours = np.asarray(keras.ops.convert_to_numpy(ours))
    assert ours.shape == reference.shape
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_logits_equal_transformers(name, size):
    golden = np.load(FOLDER / f"{name}.npz")
    model = CLASSES[CHECKPOINTS[name][0]].from_pretrained(FOLDER / name)
    logits = model(image(size, model.config.num_channels))
    assert relative_difference(logits, golden[f"{size[0]}x{size[1]}.logits"]) < TOLERANCE


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_hidden_states_and_attentions_equal_transformers(name):
    golden = np.load(FOLDER / f"{name}.npz")
    model = CLASSES[CHECKPOINTS[name][0]].from_pretrained(
        FOLDER / name, output_hidden_states=True, output_attentions=True
    )
    size = SIZES[-1]
    outputs = model(image(size, model.config.num_channels))
    for kind, count in (("hidden_states", len(model.config.depths)), ("attentions", sum(model.config.depths))):
        assert len(outputs[kind]) == count
        for index, array in enumerate(outputs[kind]):
            assert relative_difference(array, golden[f"{size[0]}x{size[1]}.{kind}.{index}"]) < TOLERANCE


def test_the_encoder_of_a_segmenter_gives_its_last_hidden_state():
    encoder = SegformerModel.from_pretrained(FOLDER / "segmentation")
    size = SIZES[-1]
    golden = np.load(FOLDER / "segmentation.npz")
    assert relative_difference(encoder(image(size, 3)), golden[f"{size[0]}x{size[1]}.hidden_states.3"]) < TOLERANCE


ON_ANOTHER_BACKEND = """
import sys
sys.modules["tensorflow"] = None  # modeling must not need it
if sys.argv[1] == "openvino":  # which computes in bfloat16 where the CPU can
    import functools, openvino
    openvino.compile_model = functools.partial(openvino.compile_model, config={"INFERENCE_PRECISION_HINT": "f32"})
import keras, numpy as np
from tests.modeling.make_golden import FOLDER, SIZES, image
from tf_segformer import SegformerForSemanticSegmentation
assert keras.backend.backend() == sys.argv[1]
golden = np.load(FOLDER / "segmentation.npz")
model = SegformerForSemanticSegmentation.from_pretrained(FOLDER / "segmentation")
for size in SIZES[:2]:
    reference = golden[f"{size[0]}x{size[1]}.logits"]
    logits = model.predict(image(size, 3), verbose=0)
    print(np.abs(logits - reference).max() / np.abs(reference).max())
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "jax", "openvino"])
def test_logits_equal_transformers_on_a_backend_without_tensorflow(backend):
    differences = [float(line) for line in output_on(backend, ON_ANOTHER_BACKEND).split()]
    assert len(differences) == 2 and max(differences) < 1e-5
