"""How programs call the models: inputs, outputs, the image processor and the configuration."""

from __future__ import annotations

import numpy as np
import pytest

from tests.transformers import cases

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")

from tf_segformer.transformers import (  # noqa: E402
    SegformerConfig,
    SegformerFeatureExtractor,
    SegformerImageProcessor,
    TFSegformerDecodeHead,
    TFSegformerForSemanticSegmentation,
    TFSegformerModel,
)


@pytest.fixture(scope="module")
def model():
    return TFSegformerForSemanticSegmentation(SegformerConfig(**cases.fields("segmentation")))


@pytest.fixture(scope="module")
def batch():
    return cases.inputs("segmentation")


def test_images_are_given_by_position_by_keyword_or_in_a_dictionary(model, batch):
    images = batch["pixel_values"]
    expected = model(images).logits
    assert tuple(expected.shape) == (2, 5, 16, 24)
    for outputs in (
        model(pixel_values=images),
        model({"pixel_values": images}),
        model({"pixel_values": images}, training=False),
        model(images.tolist()),
        model(tf.constant(images)),
    ):
        np.testing.assert_array_equal(outputs.logits, expected)
    np.testing.assert_allclose(model.predict(images, verbose=0).logits, expected, atol=1e-6)
    np.testing.assert_allclose(next(iter(model.predict(images, verbose=0).values())), expected, atol=1e-6)


def test_outputs_are_found_by_attribute_key_and_index_and_absent_ones_are_left_out(model, batch):
    outputs = model(**batch, output_hidden_states=True)
    assert list(outputs) == list(outputs.keys()) == ["loss", "logits", "hidden_states"]
    assert outputs.attentions is None
    assert outputs[0] is outputs.loss is outputs["loss"]
    assert outputs[:2] == outputs.to_tuple()[:2]
    assert outputs.to_tuple()[1] is list(outputs.values())[1]
    assert outputs.loss.shape == (1,)
    assert [tuple(each.shape) for each in outputs.hidden_states][::3] == [(2, 4, 16, 24), (2, 16, 2, 3)]
    with pytest.raises(AttributeError, match="last_hidden_state"):
        _ = outputs.last_hidden_state


def test_a_tuple_is_given_where_no_object_is_wanted(model, batch):
    loss, logits, hidden_states, attentions = model(
        **batch, output_hidden_states=True, output_attentions=True, return_dict=False
    )
    assert (tuple(loss.shape), tuple(logits.shape), len(hidden_states), len(attentions)) == ((1,), (2, 5, 16, 24), 4, 5)
    assert tuple(attentions[0].shape) == (2, 1, 16 * 24, 2 * 3)


def test_the_configuration_says_what_a_call_does_not(batch):
    config = SegformerConfig(**cases.fields("segmentation"), output_hidden_states=True, return_dict=False)
    model = TFSegformerForSemanticSegmentation(config)
    assert len(model(batch["pixel_values"])) == 2
    assert list(model(batch["pixel_values"], return_dict=True)) == ["logits", "hidden_states"]
    assert list(model(batch["pixel_values"], return_dict=True, output_hidden_states=False)) == ["logits"]


@pytest.mark.slow
def test_training_per_call_switches_dropout_on(batch):
    config = SegformerConfig(**{**cases.fields("segmentation"), "classifier_dropout_prob": 0.5})
    model = TFSegformerForSemanticSegmentation(config)
    images = batch["pixel_values"]
    still = model(images).logits
    np.testing.assert_array_equal(model(images, training=False).logits, still)
    assert np.abs(model(images, training=True).logits - model(images, training=True).logits).max() > 0


@pytest.mark.slow
def test_a_graph_takes_images_of_any_size(model, batch):
    run = tf.function(
        lambda images: model(pixel_values=images, output_attentions=True),
        input_signature=[tf.TensorSpec((None, 3, None, None))],
    )
    for height, width in ((64, 96), (33, 47)):
        images = batch["pixel_values"][:, :, :height, :width]
        np.testing.assert_allclose(run(images).logits, model(images).logits, atol=1e-5)


def test_the_parts_run_alone(model, batch):
    features = model.segformer(batch["pixel_values"], output_hidden_states=True)
    logits = model.decode_head(features.hidden_states)
    np.testing.assert_allclose(np.moveaxis(logits.numpy(), -1, 1), model(batch["pixel_values"]).logits, atol=1e-6)
    np.testing.assert_array_equal(features.last_hidden_state, features.hidden_states[-1])
    head = TFSegformerDecodeHead(model.config)
    head.set_weights(model.decode_head.get_weights())
    np.testing.assert_allclose(head(features.hidden_states), logits, atol=1e-6)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((1, 32, 64, 3), "float32"), r"channels first.*their channels last: transpose them to \(0, 3, 1, 2\)"),
        (np.zeros((1, 4, 32, 32), "float32"), r"must be \(batch, 3, height, width\)"),
        (np.zeros((3, 32, 32), "float32"), "makes a batch of one image"),
        (np.zeros((1, 3, 32, 32), "uint8"), "takes normalized floats"),
        (None, "takes an array or tensor of pixel values"),
    ],
)
def test_images_of_another_layout_are_rejected(model, images, message):
    with pytest.raises(ValueError, match=message):
        model(images)


def test_what_a_batch_holds_besides_is_ignored_with_a_warning(model, batch):
    with pytest.warns(UserWarning, match="file_name"):
        model({**batch, "file_name": np.array(["a", "b"])})


def test_channels_are_those_of_the_configuration():
    config = SegformerConfig(**cases.fields("five_channels"))
    model = TFSegformerForSemanticSegmentation(config)
    model.build(input_shape=(1, 5, 512, 512))
    assert tuple(model(model.dummy_inputs).logits.shape) == (1, 3, 16, 16)
    with pytest.raises(ValueError, match=r"must be \(batch, 5, height, width\)"):
        model.build(input_shape=(1, 3, 512, 512))


@pytest.mark.slow
def test_a_functional_model_around_it_gives_the_same(model, batch):
    images = keras.Input((3, 64, 96))
    wrapped = keras.Model(images, model(images).logits)
    np.testing.assert_allclose(wrapped(batch["pixel_values"]), model(batch["pixel_values"]).logits, atol=1e-6)


def test_parts_are_frozen_and_the_summary_has_a_line_for_each(model, capsys):
    assert [layer.name for layer in model.layers] == ["segformer", "decode_head"]
    frozen = TFSegformerForSemanticSegmentation(model.config)
    count = len(frozen.trainable_weights)
    frozen.segformer.encoder.trainable = False
    assert len(frozen.trainable_weights) == len(frozen.decode_head.trainable_weights) < count
    frozen.layers[1].trainable = False
    assert frozen.trainable_weights == []
    frozen.summary()
    assert "decode_head" in capsys.readouterr().out


def test_parameters_are_counted_all_or_those_that_are_trained(model):
    partly = TFSegformerForSemanticSegmentation(model.config)
    getattr(partly, partly.base_model_prefix).trainable = False
    assert partly.num_parameters() == model.num_parameters() == model.count_params()
    trained = sum(each.size for each in map(np.asarray, partly.decode_head.trainable_weights))
    assert partly.num_parameters(only_trainable=True) == trained < model.num_parameters(only_trainable=True)
    assert model.num_parameters(only_trainable=True) == model.num_parameters() - 2 * 12  # the statistics of a norm
    assert (model.config_class, model.main_input_name) == (SegformerConfig, "pixel_values")


def test_the_encoder_alone_gives_its_last_map(batch):
    model = TFSegformerModel(SegformerConfig(**cases.fields("segmentation")))
    outputs = model(batch["pixel_values"])
    assert list(outputs) == ["last_hidden_state"]
    assert tuple(outputs.last_hidden_state.shape) == (2, 16, 2, 3)


def test_the_configuration_keeps_labels_in_agreement():
    config = SegformerConfig(num_labels=3, id2label={0: "a", 1: "b"}, label2id={"a": 0, "b": 1}, note="mine")
    assert (config.num_labels, config.note, config.use_return_dict) == (2, "mine", True)
    config.num_labels = 4
    assert config.id2label == {index: f"LABEL_{index}" for index in range(4)}
    config.id2label = {0: "x", 1: "y", 2: "z"}
    config.output_attentions = True
    again = SegformerConfig.from_dict(config.to_dict())
    assert (again.num_labels, again.output_attentions, again.note, again.model_type) == (3, True, "mine", "segformer")
    with pytest.raises(AttributeError, match="nonsense"):
        _ = config.nonsense
    config.depths = (1, 1)
    with pytest.raises(ValueError, match="depths"):
        TFSegformerForSemanticSegmentation(config)
    with pytest.raises(TypeError, match="from_pretrained"):
        TFSegformerForSemanticSegmentation("nvidia/mit-b0")


@pytest.mark.parametrize("kind", ["tf", "np"])
def test_the_processor_gives_channels_first_by_key_and_attribute(model, kind):
    photo = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    labels = np.arange(40 * 50).reshape(40, 50) % 5
    processor = SegformerImageProcessor(size={"height": 32, "width": 64})
    inputs = processor(images=photo, segmentation_maps=labels, return_tensors=kind)
    assert isinstance(inputs.pixel_values, np.ndarray if kind == "np" else tf.Tensor)
    assert inputs.pixel_values is inputs["pixel_values"]
    assert (tuple(inputs.pixel_values.shape), tuple(inputs.labels.shape)) == ((1, 3, 32, 64), (1, 32, 64))
    assert np.asarray(inputs.labels).dtype == np.int64
    outputs = model(**inputs)
    assert np.isfinite(outputs.loss.numpy()).all()
    np.testing.assert_array_equal(model(inputs).logits, outputs.logits)
    np.testing.assert_allclose(model.predict_on_batch(inputs).logits, outputs.logits, atol=1e-6)
    (class_map,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[(40, 50)])
    assert class_map.shape == (40, 50)
    resized = tf.image.resize(np.moveaxis(outputs.logits.numpy(), 1, -1), (40, 50)).numpy().argmax(-1)
    assert (class_map == resized[0]).mean() > 0.999
    with pytest.raises(AttributeError, match="only pixel_values, labels"):
        _ = inputs.attention_mask


def test_the_processor_gives_lists_and_other_layouts_as_asked():
    photo = np.zeros((40, 50, 3), np.uint8)
    extractor = SegformerFeatureExtractor(reduce_labels=True, size=32)
    inputs = extractor([photo, photo], [np.zeros((40, 50), np.uint8)] * 2)
    assert [each.shape for each in inputs.pixel_values] == [(3, 32, 32)] * 2
    assert (inputs.labels[0] == 255).all()
    assert extractor(photo, return_tensors="np", data_format="channels_last").pixel_values.shape == (1, 32, 32, 3)
    assert extractor(photo, return_tensors="np", size={"height": 16, "width": 8}).pixel_values.shape == (1, 3, 16, 8)
