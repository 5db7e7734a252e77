"""The inference pass of a model as one graph over weights that are stored once, with the decode head folded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from tf_segformer.deploy.formats import PRECISIONS
from tf_segformer.modeling.decode_head import SegformerDecodeHead
from tf_segformer.modeling.models import SegformerForImageClassification, SegformerForSemanticSegmentation
from tf_segformer.modeling.quantization import quantized_layers
from tf_segformer.ops.chunked_head import fused_head
from tf_segformer.ops.tracing import share_traces


class InferenceNetwork(tf.Module):
    """Pixel values to logits, with copies of a model's weights and nothing else of it.

    Keras' own export tracks the model next to the functions traced from it, and so stores the weights twice. Here the
    Keras layers are only traced: they read variables of this module in place of their own, and nothing of them is
    saved. The decode head's linear maps and batch norm are multiplied out when the module is made.

    Args:
        model: A semantic segmentation or image classification model.
        weights_dtype: Type in which weights are stored: "float32", "float16" or "bfloat16"; they are computed with in
            the model's own type.

    Raises:
        ValueError: Another kind of model, an unknown type, or a Keras backend other than TensorFlow.

    Example:
        >>> from tf_segformer import SegformerConfig
        >>> network = InferenceNetwork(SegformerForSemanticSegmentation(SegformerConfig(num_labels=3)))
        >>> network(tf.zeros((1, 64, 64, 3))).shape
        TensorShape([1, 16, 16, 3])
    """

    def __init__(self, model: keras.Model, weights_dtype: str = "float32") -> None:
        super().__init__(name="network")
        check_exportable(model)
        if weights_dtype not in PRECISIONS["saved_model"]:
            raise ValueError(f"weights_dtype={weights_dtype!r}: choose one of {', '.join(PRECISIONS['saved_model'])}")
        self.stored: list[tf.Variable] = []
        self._weights_dtype = weights_dtype
        encoder = self._with_stored_weights(
            model.segformer, lambda pixel_values: model.segformer(pixel_values, training=False)
        )
        if isinstance(model, SegformerForSemanticSegmentation):
            head, taken = self._decode_head(model.decode_head), "hidden_states"
        else:
            pool, classifier = model.get_layer("pool"), model.get_layer("classifier")
            head = self._with_stored_weights(classifier, lambda last: classifier(pool(last)))
            taken = "last_hidden_state"
        self._run = lambda pixel_values: head(encoder(pixel_values)[taken])
        shape = (None, None, None, model.config.num_channels)
        self.call = tf.function(
            lambda pixel_values: tf.identity(self.trace(pixel_values), name="logits"),
            input_signature=[tf.TensorSpec(shape, tf.float32, name="pixel_values")],
            autograph=False,
        )

    def __call__(self, pixel_values: tf.Tensor) -> tf.Tensor:
        """(B, H, W, C) float32 -> float32 logits: (B, ceil(H/4), ceil(W/4), K), or (B, K) for classification.

        All callers share one graph with open sizes; `trace` adds the same to the caller's own graph, for its sizes.
        """
        return self.call(pixel_values)

    def trace(self, pixel_values: tf.Tensor) -> tf.Tensor:
        """Traces the network into the graph that is being made."""
        with share_traces(len(self.stored)):
            return self._run(pixel_values)

    def _store(self, value: Any, trainable: bool = True) -> tf.Variable:
        """Keeps a weight as a variable of this module."""
        variable = tf.Variable(tf.cast(ops.convert_to_tensor(value), self._weights_dtype), trainable=trainable)
        self.stored.append(variable)
        return variable

    def _with_stored_weights(self, layer: Any, run: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """The function `run` of a Keras layer, reading stored copies in place of the layer's weights."""
        copies = [(weight, self._store(weight, weight.trainable)) for weight in layer.weights]

        def run_with_copies(inputs: Any) -> Any:
            mapping = [(weight, tf.cast(copy, weight.dtype)) for weight, copy in copies]
            with keras.StatelessScope(state_mapping=mapping):
                return run(inputs)

        return run_with_copies

    def _decode_head(self, head: Any) -> Callable[[Any], Any]:
        """The decode head at inference; mmsegmentation's has activations between its linear maps and stays as it is."""
        if not isinstance(head, SegformerDecodeHead):
            return self._with_stored_weights(head, lambda maps: head(maps, training=False))
        kernels, bias = head.composed_weights(fold_batch_norm=True)
        kernels, bias = [self._store(kernel) for kernel in kernels], self._store(bias)

        def run(maps: Any) -> Any:
            composed = [tf.cast(each, tf.float32) for each in kernels]
            return fused_head(maps, composed, tf.cast(bias, tf.float32), head.classifier)

        return self._with_stored_weights(head.classifier, run)


def check_exportable(model: Any) -> None:
    """Rejects what has no inference graph in TensorFlow.

    Args:
        model: A Keras model.

    Raises:
        ValueError: Neither a segmentation nor a classification model, or a Keras backend other than TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"Keras runs on {keras.backend.backend()}, export needs TensorFlow: save the model with save_pretrained "
            "and export it in a process started with KERAS_BACKEND=tensorflow."
        )
    check_task(model)


def check_task(model: Any) -> None:
    """Rejects models without classes, and quantized ones.

    Args:
        model: A Keras model.

    Raises:
        ValueError: Neither a segmentation nor a classification model, or one whose layers are quantized.
    """
    if not isinstance(model, (SegformerForSemanticSegmentation, SegformerForImageClassification)):
        raise ValueError(
            f"{type(model).__name__} cannot be exported: it must be a SegformerForSemanticSegmentation or a "
            "SegformerForImageClassification."
        )
    if quantized_layers(model):
        raise ValueError(
            "the model is quantized, which the exported formats do for themselves: export it before quantize(); "
            "`precision` says how weights are stored."
        )
