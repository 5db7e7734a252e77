"""The models of transformers 4's TensorFlow port, channels first, made of this project's encoder and decode head."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tf_segformer.configuration import SegformerConfig as NativeConfig
from tf_segformer.modeling import decode_head, models
from tf_segformer.modeling.base import registered
from tf_segformer.modeling.inputs import PixelLabelsMixin
from tf_segformer.training.losses import SegmentationLoss
from tf_segformer.transformers.pretrained import PretrainedModel
from tf_segformer.transformers.processing import EncoderOutput, ModelOutput, SegformerConfig, TaskOutput

_OWN_LOSS = ("auto", "auto_with_warning", "passthrough")


def channels_last(x: Any) -> Any:
    """(B, C, H, W) -> (B, H, W, C)."""
    return ops.transpose(x, (0, 2, 3, 1))


def channels_first(x: Any) -> Any:
    """(B, H, W, C) -> (B, C, H, W)."""
    return ops.transpose(x, (0, 3, 1, 2))


class TFSegformerMainLayer(keras.layers.Layer):
    """The hierarchical Mix Transformer encoder as the models have it.

    Args:
        config: The architecture.
        **options: Arguments of a Keras layer.
    """

    def __init__(self, config: SegformerConfig, **options: Any) -> None:
        super().__init__(**options)
        self.config = config
        self.encoder = models.SegformerModel(config, output_hidden_states=True, dtype=self.dtype_policy, name="encoder")
        self.built = True

    def call(
        self,
        pixel_values: Any,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool = False,
    ) -> Any:
        """(B, C, H, W) -> `EncoderOutput`, or a tuple with `return_dict=False`."""
        pixel_values = channels_last(pixel_values)
        attentions: Sequence[Any] | None = None
        if _chosen(self.config, "output_attentions", output_attentions):
            hidden_states, attentions = models.run_stages(pixel_values, self._stages(), True, training=training)
            attentions = tuple(attentions)
        else:
            hidden_states = self.encoder(pixel_values, training=training)["hidden_states"]
        hidden_states = tuple(map(channels_first, hidden_states))
        return _collected(
            EncoderOutput,
            _chosen(self.config, "return_dict", return_dict),
            last_hidden_state=hidden_states[-1],
            hidden_states=hidden_states if _chosen(self.config, "output_hidden_states", output_hidden_states) else None,
            attentions=attentions,
        )

    def _stages(self) -> list[tuple[Any, list[Any], Any]]:
        """Patch embedding, transformer blocks and norm of each stage."""
        layer = self.encoder.get_layer
        return [
            (
                layer(f"patch_embedding_{stage}"),
                [layer(f"block_{stage}_{block}") for block in range(depth)],
                layer(f"stage_norm_{stage}"),
            )
            for stage, depth in enumerate(self.config.depths)
        ]


def _chosen(config: SegformerConfig, name: str, value: bool | None) -> bool:
    """An option as the call says it, or else the configuration."""
    return bool(getattr(config, name) if value is None else value)


def _collected(kind: type[ModelOutput], as_object: bool, **outputs: Any) -> Any:
    """The outputs that there are, as an object or as a tuple."""
    output = kind((name, value) for name, value in outputs.items() if value is not None)
    return output if as_object else output.to_tuple()


@registered
class TFSegformerModel(PretrainedModel):
    """The hierarchical Mix Transformer encoder.

    Args:
        config: The architecture.
        name: Name of the model.
        dtype: Keras dtype policy; the global one by default.
        trainable: Whether training changes its weights.

    A call takes `pixel_values` (B, C, H, W) and gives an `EncoderOutput`, a tuple with `return_dict=False`.

    Source: `TFSegformerModel` of Hugging Face transformers 4.49 (names and behavior).

    Example:
        >>> model = TFSegformerModel(SegformerConfig())
        >>> tuple(model(keras.ops.ones((1, 3, 64, 96))).last_hidden_state.shape)
        (1, 256, 2, 3)
    """

    def __init__(self, config: NativeConfig, **options: Any) -> None:
        super().__init__(config, **options)
        self.segformer = TFSegformerMainLayer(self.config, dtype=self.dtype_policy, name="segformer")
        self.build_for_images()

    def call(
        self,
        pixel_values: Any,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool = False,
    ) -> Any:
        """(B, C, H, W) -> `EncoderOutput`, or a tuple with `return_dict=False`."""
        return self.segformer(
            pixel_values,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=return_dict,
            training=training,
        )


@registered
class TFSegformerDecodeHead(decode_head.SegformerDecodeHead):
    """The decode head on feature maps with channels first; its logits have channels last, as in transformers.

    Args:
        config: The architecture.
        **options: Arguments of a Keras layer.

    Source: `TFSegformerDecodeHead` of Hugging Face transformers 4.49 (names and behavior).

    Example:
        >>> config = SegformerConfig(hidden_sizes=(8, 16, 40, 64), num_labels=19)
        >>> maps = [
        ...     keras.ops.ones((1, 8 * ratio, 32 // size, 48 // size))
        ...     for ratio, size in ((1, 1), (2, 2), (5, 4), (8, 8))
        ... ]
        >>> tuple(TFSegformerDecodeHead(config)(maps).shape)
        (1, 32, 48, 19)
    """

    def __init__(self, config: NativeConfig | dict[str, Any], **options: Any) -> None:
        self.config = SegformerConfig.from_dict(config) if isinstance(config, dict) else SegformerConfig.of(config)
        if self.config.decode_head_type != "segformer":
            raise ValueError(
                f"decode_head_type={self.config.decode_head_type!r} was no head of transformers: use "
                "tf_segformer.SegformerForSemanticSegmentation"
            )
        super().__init__(
            self.config.num_labels,
            self.config.decoder_hidden_size,
            dropout=self.config.classifier_dropout_prob,
            initializer_range=self.config.initializer_range,
            **options,
        )
        self.build([(None, channels, None, None) for channels in self.config.hidden_sizes])

    def build(self, input_shape: Sequence[tuple[int | None, ...]]) -> None:
        """Makes the weights, for one feature map (B, C_i, H_i, W_i) per stage."""
        if not self.built:
            super().build([(shape[0], *shape[2:], shape[1]) for shape in input_shape])

    def call(self, encoder_hidden_states: Sequence[Any], training: bool = False) -> Any:
        """Feature maps (B, C_i, H_i, W_i), the largest first -> float32 logits (B, H_0, W_0, num_labels)."""
        return super().call([channels_last(each) for each in encoder_hidden_states], training=training)

    def compute_output_spec(self, encoder_hidden_states: Sequence[Any], training: bool = False) -> Any:
        """Shape and dtype of the logits, without running the layer."""
        batch, _, height, width = encoder_hidden_states[0].shape
        return keras.KerasTensor((batch, height, width, self.num_labels), dtype="float32")

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, ready for JSON."""
        base = {name: value for name, value in super().get_config().items() if name not in self.arguments}
        return {**base, "config": self.config.to_dict()}


class _TaskModel(PretrainedModel):
    """The encoder with a head, and a loss of its own that `compile` takes where it is given none."""

    def __init__(self, config: NativeConfig, **options: Any) -> None:
        super().__init__(config, **options)
        self.num_labels = self.config.num_labels
        self.segformer = TFSegformerMainLayer(self.config, dtype=self.dtype_policy, name="segformer")

    def compile(self, optimizer: Any = "rmsprop", loss: Any = "auto", *args: Any, **options: Any) -> None:
        """Configures training; without a loss, or with "auto", the model's own is used.

        Args:
            optimizer: A Keras optimizer or its name.
            loss: Takes labels and logits, (B, num_labels, H/4, W/4) or (B, num_labels), as Keras' losses do.
            *args: `metrics`, as of Keras.
            **options: Arguments of Keras' `compile`; None stands for the default.
        """
        own = loss is None or (isinstance(loss, str) and loss in _OWN_LOSS)
        given = {name: value for name, value in options.items() if value is not None}
        if args:
            given |= dict(zip(("metrics", "loss_weights", "weighted_metrics"), args, strict=False))
        self.loss = self._compile_loss = self._compile_metrics = None  # Keras keeps those of an earlier call
        super().compile(optimizer, loss=None if own else loss, **given)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles as the model was when it was saved."""
        names = set(inspect.signature(keras.Model.compile).parameters)
        arguments = keras.saving.deserialize_keras_object(config)
        self.compile(**{name: value for name, value in arguments.items() if name in names})
        self.optimizer.build(self.trainable_variables)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """The loss that `compile` was given, on labels and logits; without one, the model's own."""
        labels = models.find_labels(x, y)
        if self._compile_loss is not None:
            return super().compute_loss(x, labels, y_pred.logits, sample_weight, training)
        if labels is None:
            raise ValueError('no labels: give fit (images, labels), or {"pixel_values": images, "labels": labels}')
        loss = y_pred.loss
        if loss is None or sample_weight is not None:
            options = {} if sample_weight is None else {"sample_weight": sample_weight}
            loss = self.hf_compute_loss(labels=labels, logits=self._inward(y_pred.logits), **options)
        return sum(self.losses, ops.mean(loss))

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The metrics that `compile` was given, on labels and logits."""
        return super().compute_metrics(x, models.find_labels(x, y), y_pred.logits, sample_weight)

    def call(
        self,
        pixel_values: Any,
        labels: Any = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool = False,
    ) -> Any:
        """(B, C, H, W), and labels where there are -> `TaskOutput`."""
        features = self.segformer(
            pixel_values,
            output_attentions=output_attentions,
            output_hidden_states=True,
            return_dict=True,
            training=training,
        )
        states, logits = features.hidden_states, self._logits(features, training)
        return _collected(
            TaskOutput,
            _chosen(self.config, "return_dict", return_dict),
            loss=None if labels is None else self.hf_compute_loss(labels=labels, logits=logits),
            logits=self._outward(logits),
            hidden_states=states if _chosen(self.config, "output_hidden_states", output_hidden_states) else None,
            attentions=features.attentions,
        )

    hf_compute_loss: Any  # of labels and logits
    _inward: Any = staticmethod(lambda logits: logits)  # to the layout of the head
    _outward: Any = staticmethod(lambda logits: logits)  # to that of the output

    def _logits(self, features: Any, training: bool) -> Any:
        """What the head makes of the encoder's output."""
        raise NotImplementedError


@registered
class TFSegformerForImageClassification(_TaskModel):
    """The encoder with a linear classifier on the mean of its last map.

    The arguments are those of `TFSegformerModel`. A call takes `pixel_values` (B, C, H, W) and `labels` (B,), and gives
    a `TaskOutput`, a tuple with `return_dict=False`.

    Source: `TFSegformerForImageClassification` of Hugging Face transformers 4.49 (names and behavior).

    Example:
        >>> model = TFSegformerForImageClassification(SegformerConfig(num_labels=10))
        >>> tuple(model(keras.ops.ones((1, 3, 64, 96))).logits.shape)
        (1, 10)
    """

    def __init__(self, config: NativeConfig, **options: Any) -> None:
        super().__init__(config, **options)
        self.classifier = models.classification_head(self.config)
        self.classifier.build((None, self.config.hidden_sizes[-1]))
        self.build_for_images()

    def _logits(self, features: Any, training: bool) -> Any:
        """(B, num_labels), in float32 under every policy."""
        return self.classifier(ops.mean(ops.cast(features.last_hidden_state, "float32"), axis=(2, 3)))

    def hf_compute_loss(self, labels: Any, logits: Any, sample_weight: Any = None) -> Any:
        """Cross-entropy of each image (B,); the squared error where there is one label."""
        labels = ops.reshape(labels, (-1,))
        if logits.shape[-1] == 1:
            loss = ops.square(ops.cast(labels, logits.dtype) - logits[:, 0])
        else:
            loss = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        return loss if sample_weight is None else loss * ops.cast(sample_weight, loss.dtype)


@registered
class TFSegformerForSemanticSegmentation(PixelLabelsMixin, _TaskModel):
    """The encoder with the all-MLP decode head.

    The arguments are those of `TFSegformerModel`. A call takes `pixel_values` (B, C, H, W) and `labels` (B, H, W), and
    gives a `TaskOutput`, a tuple with `return_dict=False`.

    Source: `TFSegformerForSemanticSegmentation` of Hugging Face transformers 4.49 (names and behavior).

    Example:
        >>> model = TFSegformerForSemanticSegmentation(SegformerConfig(num_labels=19))
        >>> output = model(keras.ops.ones((1, 3, 64, 96)), labels=keras.ops.zeros((1, 64, 96), "int32"))
        >>> tuple(output.loss.shape), tuple(output.logits.shape)
        ((1,), (1, 19, 16, 24))
    """

    _inward: Any = staticmethod(channels_last)
    _outward: Any = staticmethod(channels_first)

    def __init__(self, config: NativeConfig, **options: Any) -> None:
        super().__init__(config, **options)
        self.decode_head = TFSegformerDecodeHead(self.config, dtype=self.dtype_policy, name="decode_head")
        self.build_for_images()

    def _logits(self, features: Any, training: bool) -> Any:
        """(B, H/4, W/4, num_labels)."""
        return self.decode_head(features.hidden_states, training=training)

    def hf_compute_loss(self, logits: Any, labels: Any, sample_weight: Any = None) -> Any:
        """The mean cross-entropy (1,) of the pixels that are not to be ignored, 0 where there is none.

        Args:
            logits: (B, H/4, W/4, num_labels), resized to the labels.
            labels: (B, H, W), `semantic_loss_ignore_index` where a pixel does not count.
            sample_weight: As of `SegmentationLoss`.
        """
        loss = SegmentationLoss.from_config(self.config)
        return loss.call(labels, logits) if sample_weight is None else loss(labels, logits, sample_weight)
