"""Layouts of Keras: keras-hub, and the TensorFlow port of transformers 4.49."""

from __future__ import annotations

import numpy as np

from tests.checkpoints.layout_packing import (
    DEPTHS,
    HEAD_WIDTH,
    HEADS,
    HUGGING_FACE,
    IMAGE,
    LABELS,
    REDUCTIONS,
    WIDTHS,
    pack,
    scratch,
    values,
)


def write_keras_hub() -> None:
    import keras
    import keras_hub

    encoder = keras_hub.models.MiTBackbone(
        layerwise_depths=list(DEPTHS),
        num_layers=4,
        layerwise_num_heads=list(HEADS),
        layerwise_sr_ratios=list(REDUCTIONS),
        max_drop_path_rate=0.1,
        layerwise_patch_sizes=[7, 3, 3, 3],
        layerwise_strides=[4, 2, 2, 2],
        image_shape=(64, 64, 3),
        hidden_dims=list(WIDTHS),
    )
    backbone = keras_hub.models.SegFormerBackbone(image_encoder=encoder, projection_filters=HEAD_WIDTH)
    converter = keras_hub.layers.SegFormerImageConverter(height=64, width=64)
    preprocessor = keras_hub.models.SegFormerImageSegmenterPreprocessor(image_converter=converter)
    model = keras_hub.models.SegFormerImageSegmenter(backbone, num_classes=LABELS, preprocessor=preprocessor)
    for variable in model.weights:
        if "seed" not in variable.path:
            variable.assign(values(variable.path, tuple(variable.shape)))
    classifier = next(layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D))
    image = IMAGE[..., :64].transpose(0, 2, 3, 1)  # its attention takes squares only
    logits = np.asarray(classifier(backbone(image, training=False)))
    for name, write in {
        "keras_hub_archive": lambda folder: model.save(folder / "best.keras"),
        "keras_hub_preset": lambda folder: model.save_to_preset(folder),
        "keras_hub_weights": lambda folder: model.save_weights(folder / "segformer.weights.h5"),
    }.items():
        folder = scratch()
        write(folder)
        pack(name, folder, logits, image)


def write_tensorflow() -> None:
    import tensorflow as tf
    import tf_keras
    from transformers import SegformerConfig, TFSegformerForSemanticSegmentation

    config = SegformerConfig(**HUGGING_FACE)

    def make():
        model = TFSegformerForSemanticSegmentation(config)
        model(tf.zeros((1, 3, 64, 96)))
        for variable in model.variables:
            variable.assign(values(variable.name, tuple(variable.shape)))
        return model

    def logits(model):
        return model(IMAGE, training=False).logits.numpy()

    def labels():
        return np.zeros((1, 64, 96), "int32")

    def train(model, optimizer):
        """One step, for the slots of the optimizer; the weights stay simple."""
        kept = [variable.numpy() for variable in model.variables]
        model.compile(optimizer=optimizer)
        model.fit({"pixel_values": IMAGE, "labels": labels()}, verbose=0)
        for variable, value in zip(model.variables, kept, strict=True):
            variable.assign(value)
        return model

    plain = make()
    for name, write in {
        "tf_save_pretrained": lambda folder: plain.save_pretrained(folder),
        "tf_save_weights_h5": lambda folder: plain.save_weights(folder / "best.h5"),
    }.items():
        folder = scratch()
        write(folder)
        pack(name, folder, logits(plain))
    for name, optimizer in {
        "tf_checkpoint": tf_keras.optimizers.SGD(0.0, momentum=0.9),
        "tf_checkpoint_with_slots": tf_keras.optimizers.legacy.SGD(0.0, momentum=0.9),
    }.items():
        folder, model = scratch(), train(make(), optimizer)
        model.save_weights(folder / "epoch_7")
        pack(name, folder, logits(model))
    folder, model = scratch(), train(make(), tf_keras.optimizers.SGD(0.0))
    tf_keras.Model.save(model, folder, save_traces=False)
    pack("tf_saved_model", folder, logits(model))
    inner = make()
    image = tf_keras.Input((3, 64, 96))
    whole = tf_keras.Model(image, inner(image).logits)
    whole.compile(tf_keras.optimizers.SGD(0.0, momentum=0.9), "mse")
    whole.optimizer.build(whole.trainable_variables)
    folder = scratch()
    whole.save(folder / "model_fullmodel.h5")
    pack("tf_whole_model_h5", folder, logits(inner))
