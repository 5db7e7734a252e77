"""The functional models: sizes, outputs, parameters, precision, compilation and serialization."""

from __future__ import annotations

import copy
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_segformer import (
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerModel,
    losses,
    metrics,
)
from tf_segformer.modeling.inputs import check_pixel_values
from tf_segformer.ops.initialization import skip_initialization

# Trainable parameters as PyTorch counts them: encoder, segmenter with 150 and 19 labels, classifier with 1000.
PARAMETERS = {
    "b0": (3_319_392, 3_752_694, 3_719_027, 3_576_392),
    "b1": (13_151_424, 13_715_798, 13_682_131, 13_664_424),
    "b2": (24_196_288, 27_461_974, 27_361_235, 24_709_288),
    "b3": (44_072_128, 47_337_814, 47_237_075, 44_585_128),
    "b4": (60_842_688, 64_108_374, 64_007_635, 61_355_688),
    "b5": (81_443_008, 84_708_694, 84_607_955, 81_956_008),
}
TWO_STAGES = SegformerConfig(
    num_encoder_blocks=2,
    depths=(1, 1),
    sr_ratios=(2, 1),
    hidden_sizes=(6, 10),
    patch_sizes=(3, 3),
    strides=(2, 2),
    num_attention_heads=(2, 5),
    mlp_ratios=(2, 2.5),
    decoder_hidden_size=8,
    num_labels=3,
)
TASKS = (SegformerModel, SegformerForImageClassification, SegformerForSemanticSegmentation)


def trainable_parameters(model: keras.Model) -> int:
    return sum(int(np.prod(each.shape)) for each in model.trainable_variables)


@pytest.mark.parametrize(
    "variant", [pytest.param(name, marks=() if name == "b0" else pytest.mark.slow) for name in PARAMETERS]
)
def test_parameter_counts_are_those_of_the_paper_s_networks(variant):
    encoder, segmenter_150, segmenter_19, classifier = PARAMETERS[variant]
    assert trainable_parameters(SegformerModel(SegformerConfig.from_variant(variant))) == encoder
    for labels, expected in ((150, segmenter_150), (19, segmenter_19)):
        model = SegformerForSemanticSegmentation(SegformerConfig.from_variant(variant, num_labels=labels))
        assert trainable_parameters(model) == expected
        statistics = [each for each in model.non_trainable_variables if "moving" in each.path]
        assert sum(each.shape[0] for each in statistics) == 2 * model.config.decoder_hidden_size
    model = SegformerForImageClassification(SegformerConfig.from_variant(variant, num_labels=1000))
    assert trainable_parameters(model) == classifier


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 7), (32, 32), (33, 70), (97, 131), (64, 96)])
def test_any_size_gives_logits_at_a_quarter_rounded_up(small_config, size):
    model = SegformerForSemanticSegmentation(small_config, output_hidden_states=True, output_attentions=True)
    outputs = model(np.ones((1, *size, 3), "float32"))
    quarter = [-(-side // 4) for side in size]
    assert outputs["logits"].shape == (1, *quarter, 5)
    assert np.isfinite(outputs["logits"]).all()
    for stage, state in enumerate(outputs["hidden_states"]):
        assert state.shape == (1, *[-(-side // (4 * 2**stage)) for side in size], small_config.hidden_sizes[stage])
    assert len(outputs["attentions"]) == sum(small_config.depths)
    for attention in outputs["attentions"]:
        np.testing.assert_allclose(np.sum(attention, -1), 1, atol=1e-5)


def test_the_symbolic_shapes_are_those_that_come_out(small_config, pixel_values):
    fixed = keras.Input((65, 97, 3))
    for model_class in TASKS:
        model = model_class(small_config)
        assert model(fixed).shape[1:] == model(pixel_values).shape[1:]
        assert model.output.shape[-1] == model(pixel_values).shape[-1]


@pytest.mark.parametrize("channels", [1, 4])
def test_any_number_of_channels(small_config, channels):
    model = SegformerModel(small_config.replace(num_channels=channels))
    assert model(np.ones((1, 40, 72, channels), "float32")).shape == (1, 2, 3, 32)


def test_any_number_of_stages():
    assert SegformerForSemanticSegmentation(TWO_STAGES)(np.ones((1, 17, 9, 3), "float32")).shape == (1, 9, 5, 3)


def test_a_dictionary_is_taken_whole_and_one_without_images_rejected(small_config, pixel_values):
    model = SegformerForSemanticSegmentation(small_config)
    inputs = {"pixel_values": pixel_values, "labels": np.zeros((2, 65, 97), "int32")}
    np.testing.assert_array_equal(model(inputs), model(pixel_values))
    np.testing.assert_allclose(model.predict(inputs, verbose=0), model(pixel_values), atol=1e-5)
    with pytest.raises(ValueError, match='Missing data for input "pixel_values"'):
        model({"images": pixel_values})


@pytest.mark.parametrize("name", ["output_attentions", "output_hidden_states", "return_dict"])
def test_what_a_model_gives_is_not_chosen_when_it_is_called(small_config, pixel_values, name):
    with pytest.raises(TypeError, match=f"a call takes no {name}: .* said when it is made"):
        SegformerModel(small_config)(pixel_values, **{name: True})


@pytest.mark.parametrize("name", ["output_hidden_states", "output_attentions", "rematerialize"])
def test_what_a_model_gives_is_part_of_its_description(small_config, name):
    config = small_config.replace(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = SegformerModel.from_config(SegformerModel(config, **{name: True}).get_config())
    assert {key: value for key, value in model.arguments.items() if value} == {name: True}


def test_images_in_a_dictionary_are_checked_as_well(small_config, pixel_values):
    with pytest.raises(ValueError, match="uint8: the model takes normalized floats"):
        SegformerModel(small_config)({"pixel_values": pixel_values.astype("uint8")})


def test_the_optimizer_has_its_variables_before_the_first_step_is_traced(small_config):
    model = SegformerForSemanticSegmentation(small_config)
    model.compile(keras.optimizers.AdamW())
    model.make_train_function()
    assert model.optimizer.built and len(model.optimizer.variables) > 2 * len(model.trainable_variables)


def test_a_precision_by_its_name_is_taken_from_a_description(small_config):
    described = SegformerModel(small_config, dtype="mixed_bfloat16").get_config()
    model = SegformerModel.from_config({**described, "dtype": "mixed_bfloat16"})
    assert model.dtype_policy.name == "mixed_bfloat16"


def test_images_of_no_known_rank_are_left_to_keras():
    """What tf.data gives after a numpy_function."""
    check_pixel_values(tf.TensorSpec(None, tf.float32), 3)


def test_outputs_that_were_not_asked_for_are_not_given(small_config, pixel_values):
    plain = SegformerForImageClassification(small_config)
    assert plain(pixel_values).shape == (2, 5)
    states = SegformerForImageClassification(small_config, output_hidden_states=True)(pixel_values)
    assert set(states) == {"logits", "hidden_states"}
    attentions = SegformerModel(small_config, output_attentions=True)(pixel_values)
    assert set(attentions) == {"last_hidden_state", "attentions"}


@pytest.mark.parametrize("model_class", TASKS)
def test_a_saved_model_comes_back_the_same(small_config, pixel_values, model_class, tmp_path):
    model = model_class(small_config, output_hidden_states=True, name="kept")
    model.save(tmp_path / "model.keras")
    model.save(tmp_path / "model.h5")
    copies = [*(keras.models.load_model(tmp_path / f"model.{each}") for each in ("keras", "h5")), copy.deepcopy(model)]
    for again in copies:
        assert type(again) is model_class and again.name == "kept" and again.config == small_config
        flat, expected = (keras.tree.flatten(each(pixel_values)) for each in (again, model))
        for ours, theirs in zip(flat, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_a_precision_is_saved_with_the_model(small_config, tmp_path):
    SegformerForSemanticSegmentation(small_config, dtype="mixed_bfloat16").save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.dtype_policy.name == "mixed_bfloat16"
    assert again.segformer.get_layer("block_0_0").compute_dtype == "bfloat16"


@pytest.mark.parametrize(
    ("dtype", "jit_compile"),
    [
        ("float32", False),
        ("mixed_bfloat16", False),
        pytest.param("float32", True, marks=pytest.mark.slow),
        pytest.param("mixed_float16", False, marks=pytest.mark.slow),
        pytest.param("mixed_float16", True, marks=pytest.mark.slow),
        pytest.param("mixed_bfloat16", True, marks=pytest.mark.slow),
    ],
)
def test_one_step_of_fit_moves_every_weight(pixel_values, dtype, jit_compile):
    # two stages, since XLA takes a second for each layer; no drop path, since a dropped branch has no gradient
    config = TWO_STAGES.replace(drop_path_rate=0.0, initializer_range=0.2)
    model = SegformerForSemanticSegmentation(config, dtype=dtype)
    before = [each.numpy() for each in model.trainable_variables]
    labels = np.random.default_rng(0).integers(0, 3, (2, 33, 49))
    model.compile(
        keras.optimizers.Adam(1e-2),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit_compile,
    )
    history = model.fit(pixel_values, labels, batch_size=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    # a bias of the keys adds the same to all scores of a query, so softmax does not see it
    still = [
        variable.path
        for variable, old in zip(model.trainable_variables, before, strict=True)
        if np.array_equal(variable.numpy(), old) and not variable.path.endswith("key/bias")
    ]
    assert not still
    assert np.isfinite(model.predict(pixel_values, verbose=0)).all()


@pytest.mark.parametrize(
    "dtype",
    [
        "mixed_float16",
        "bfloat16",
        *(pytest.param(each, marks=pytest.mark.slow) for each in ("float16", "mixed_bfloat16")),
    ],
)
def test_half_precision_gives_float32_logits_close_to_full_precision(small_config, pixel_values, dtype):
    full = SegformerForSemanticSegmentation(small_config.replace(initializer_range=0.2))
    expected = full.predict(pixel_values, verbose=0)
    tolerance = 8e-2 if "bfloat" in dtype else 1e-2  # 8 and 11 bits through 20 layers
    half = SegformerForSemanticSegmentation(full.config, dtype=dtype)
    half.set_weights(full.get_weights())
    logits = half.predict(pixel_values, verbose=0)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def test_dropped_branches_are_scaled_so_that_their_mean_stays():
    from tf_segformer.modeling.layers import DropPath

    dropped = np.asarray(DropPath(0.25)(np.ones((4000, 1, 1, 2), "float32"), training=True))
    assert set(np.unique(dropped)) == {np.float32(0), np.float32(4 / 3)}
    assert abs(dropped.mean() - 1) < 0.03  # three standard deviations of 4000 draws
    assert (dropped[..., 0] == dropped[..., 1]).all()


def test_drop_path_grows_linearly_over_all_blocks():
    model = SegformerModel(SegformerConfig.from_variant("b0", drop_path_rate=0.7))
    rates = [layer.drop_path.rate for layer in model.layers if layer.name.startswith("block")]
    np.testing.assert_allclose(rates, np.linspace(0, 0.7, 8))


def test_initial_weights_follow_the_reference():
    model = SegformerForSemanticSegmentation(SegformerConfig.from_variant("b0", num_labels=19, initializer_range=0.05))
    kernels = {each.path: each.numpy() for each in model.trainable_variables if each.path.endswith("kernel")}
    large = {path: kernel for path, kernel in kernels.items() if kernel.size > 20_000}
    assert len(large) > 30
    for kernel in large.values():
        assert abs(kernel.std() - 0.05) < 0.002 and abs(kernel.mean()) < 0.002
    first, second = (kernels[f"block_2_{block}/mlp/dense_1/kernel"] for block in (0, 1))
    assert np.abs(first - second).max() > 0.01  # no two layers draw the same numbers
    for variable in model.trainable_variables:
        if variable.path.endswith(("gamma", "beta", "bias")):
            assert (variable.numpy() == (1 if variable.path.endswith("gamma") else 0)).all()


def test_freezing_the_encoder_leaves_the_head_trainable(small_config):
    model = SegformerForSemanticSegmentation(small_config)
    model.segformer.trainable = False
    assert {each.path.split("/")[0] for each in model.trainable_variables} == {"decode_head"}


def test_new_sizes_do_not_retrace_a_graph_of_dynamic_size(small_config):
    model = SegformerForSemanticSegmentation(small_config)
    traces = []

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3))])
    def run(pixels):
        traces.append(1)
        return model(pixels)

    for size in ((33, 70), (5, 7), (64, 64)):
        image = np.random.default_rng(0).standard_normal((1, *size, 3)).astype("float32")
        np.testing.assert_allclose(run(image), model(image), atol=2e-6)
    assert len(traces) == 1


def test_gradients_reach_the_image_of_one_pixel(small_config):
    model = SegformerForSemanticSegmentation(small_config)
    image = tf.ones((1, 1, 1, 3))
    with tf.GradientTape() as tape:
        tape.watch(image)
        total = tf.reduce_sum(model(image) ** 2)
    assert np.isfinite(tape.gradient(total, image)).all()


def test_skipped_initialization_leaves_the_encoder_at_zero(small_config):
    with skip_initialization():
        model = SegformerForSemanticSegmentation(small_config)
    kernels = {weight.path: np.asarray(weight) for weight in model.weights if weight.path.endswith("kernel")}
    assert all((np.abs(kernel).max() > 0) == ("decode_head" in path) for path, kernel in kernels.items())
    drawn = SegformerForSemanticSegmentation(small_config)
    assert all(np.abs(weight).max() > 0 for weight in drawn.weights if weight.path.endswith("kernel"))


def test_keras_onnx_export_says_in_one_line_what_it_needs(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(ImportError, match=r"^model.export.* tf2onnx: pip install tf_segformer\[keras-onnx\]; .*$"):
        SegformerForSemanticSegmentation(TWO_STAGES).export(tmp_path / "model.onnx", format="onnx")


@pytest.mark.filterwarnings("ignore:In the future `np.object`:FutureWarning")
def test_a_model_that_was_never_called_is_exported_to_onnx_by_keras(pixel_values, tmp_path):
    pytest.importorskip("tf2onnx", reason='needs the extra "keras-onnx"')
    onnxruntime = pytest.importorskip("onnxruntime")
    model = SegformerForSemanticSegmentation(TWO_STAGES.replace(num_attention_heads=(1, 2)))  # one, as B0 to B5 begin
    path = str(tmp_path / "model.onnx")
    model.export(path, format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"pixel_values": pixel_values})
    np.testing.assert_allclose(logits, model(pixel_values), rtol=0, atol=1e-6)


def test_a_batch_of_transformers_is_called_and_trained_on(small_config, pixel_values):
    """`model(**batch)` and a dataset of {"pixel_values", "labels"} in `fit`, as its programs have them."""
    model = SegformerForSemanticSegmentation(small_config)
    labels = np.random.default_rng(0).integers(0, 5, (2, 65, 97))
    batch = {"pixel_values": pixel_values, "labels": labels}
    logits = model(pixel_values)
    for outputs in (model(pixel_values=pixel_values), model(**batch), model(batch), model(**batch, training=False)):
        np.testing.assert_array_equal(outputs, logits)
    model.compile("sgd", losses.SegmentationLoss(), metrics=[metrics.MeanIoU(5, name="mIoU")], run_eagerly=True)
    expected = model.evaluate(pixel_values, labels, verbose=0, return_dict=True)
    assert expected["loss"] == pytest.approx(float(losses.SegmentationLoss()(labels, logits)), abs=1e-5)
    dataset = tf.data.Dataset.from_tensor_slices(batch).batch(2)
    assert model.evaluate(dataset, verbose=0, return_dict=True) == pytest.approx(expected)
    fresh = SegformerForSemanticSegmentation(small_config)
    fresh.compile("sgd", losses.SegmentationLoss(), metrics=[metrics.MeanIoU(5, name="mIoU")], run_eagerly=True)
    history = fresh.fit(dataset, validation_data=dataset, verbose=0, shuffle=False).history
    assert set(history) == {"loss", "mIoU", "val_loss", "val_mIoU"}
    with pytest.raises(TypeError, match=r"SegformerForSemanticSegmentation\(config, output_hidden_states=True\)"):
        model(pixel_values, output_hidden_states=True)
