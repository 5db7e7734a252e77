"""This project and its peers on one training step: forward, loss at the labels' size, backward, AdamW."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.harness.case import Case, Engine, Peer
from benchmarks.harness.inference_peers import HUGGING_FACE_IMPORTS, set_tensorflow_threads
from benchmarks.harness.keras_hub_model import keras_hub_segmenter

_RATE, _WEIGHT_DECAY = 6e-5, 0.01  # the paper's


def _ours(case: Case) -> Engine:
    """Keras' own training step with this project's loss."""
    from tf_segformer import SegformerForSemanticSegmentation
    from tf_segformer.training.losses import SegmentationLoss

    set_tensorflow_threads(case.threads)
    return _keras(case, SegformerForSemanticSegmentation.from_pretrained(case.weights), SegmentationLoss())


def _keras_hub(case: Case) -> Engine:
    """Keras' own training step; keras-hub's model resizes its logits to the image by itself."""
    import keras

    set_tensorflow_threads(case.threads)
    model = keras_hub_segmenter(case)
    to_logits = keras.Model(model.input, model.output_segmentation_head.output)
    model = keras.Model(model.input, model.output)  # the same layers without its `compile`, which adds a metric
    return _keras(case, model, keras.losses.SparseCategoricalCrossentropy(from_logits=True), to_logits)


def _keras(case: Case, model: Any, loss: Any, to_logits: Any = None) -> Engine:
    import keras

    model.compile(keras.optimizers.AdamW(_RATE, weight_decay=_WEIGHT_DECAY), loss=loss, jit_compile=False)
    pixel_values, labels = case.pixel_values(), case.labels()

    def step() -> float:
        return float(model.train_on_batch(pixel_values, labels))

    return Engine(run=step, output=lambda: np.asarray((to_logits or model)(pixel_values, training=False)))


def _hugging_face(compile_model: bool) -> Callable[[Case], Engine]:
    """PyTorch's training loop, eager or through torch.compile with its default options."""

    def load(case: Case) -> Engine:
        import torch
        from transformers import SegformerForSemanticSegmentation

        torch.set_num_threads(case.threads)
        model = SegformerForSemanticSegmentation.from_pretrained(case.weights)
        optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=_WEIGHT_DECAY)
        forward = torch.compile(model) if compile_model else model
        pixel_values = torch.tensor(case.pixel_values()).permute(0, 3, 1, 2).contiguous()  # (B, 3, H, W)
        labels = torch.tensor(case.labels()).long()

        def step() -> float:
            model.train()
            optimizer.zero_grad()
            loss = forward(pixel_values=pixel_values, labels=labels).loss
            loss.backward()
            optimizer.step()
            return float(loss.detach())

        def output() -> np.ndarray:
            with torch.inference_mode():
                return model.eval()(pixel_values=pixel_values).logits.numpy().transpose(0, 2, 3, 1)

        return Engine(run=step, output=output)

    return load


def _tf_port(case: Case) -> Engine:
    """The TensorFlow port's own loss in a graph."""
    import tensorflow as tf
    import tf_keras
    from transformers.models.segformer.modeling_tf_segformer import TFSegformerForSemanticSegmentation

    set_tensorflow_threads(case.threads)
    model = TFSegformerForSemanticSegmentation.from_pretrained(case.weights)
    optimizer = tf_keras.optimizers.AdamW(_RATE, weight_decay=_WEIGHT_DECAY)
    pixel_values = tf.constant(np.ascontiguousarray(case.pixel_values().transpose(0, 3, 1, 2)))
    labels = tf.constant(case.labels())

    @tf.function
    def update() -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model(pixel_values, labels=labels, training=True).loss)
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    def output() -> np.ndarray:
        return model(pixel_values, training=False).logits.numpy().transpose(0, 2, 3, 1)

    return Engine(run=lambda: float(update()), output=output)


PEERS: dict[str, Peer] = {
    "ours": Peer("this project", ("tensorflow", "keras"), _ours),
    "keras-hub": Peer("keras-hub", ("tensorflow", "keras_hub"), _keras_hub, square_only=True),
    "torch-compile": Peer("HF PyTorch, torch.compile", HUGGING_FACE_IMPORTS, _hugging_face(compile_model=True)),
    "torch": Peer("HF PyTorch, eager", HUGGING_FACE_IMPORTS, _hugging_face(compile_model=False)),
    "tf-port": Peer(
        "HF TensorFlow port",
        ("tensorflow", "tf_keras", "transformers.models.segformer.modeling_tf_segformer"),
        _tf_port,
        needs_tf_port=True,
    ),
}
