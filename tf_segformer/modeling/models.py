"""The three functional models: encoder, image classifier, semantic segmenter.

Source: Xie et al. 2021, https://arxiv.org/abs/2105.15203; names and outputs follow Hugging Face transformers
(Apache-2.0), channels last.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import keras

from tf_segformer.configuration import SegformerConfig
from tf_segformer.modeling.base import registered
from tf_segformer.modeling.decode_head import DECODE_HEAD_CLASSES
from tf_segformer.modeling.inputs import PixelLabelsMixin, check_config, check_pixel_values
from tf_segformer.modeling.layers import OverlapPatchEmbedding, TransformerBlock
from tf_segformer.modeling.normalization import LayerNormalization
from tf_segformer.modeling.pretrained import PretrainedMixin
from tf_segformer.modeling.quantization import layer_filter, quantize_again, quantized_layers
from tf_segformer.ops.tracing import export_mode


class PretrainedModel(PretrainedMixin, keras.Model):
    """What the three models share: their configuration, and what they take for images."""

    def _remember(self, config: SegformerConfig, dtype: Any, states: bool, attentions: bool, again: bool) -> None:
        """Keeps what `get_config` gives back; called once the functional model stands."""
        self.config = config
        self.arguments = {"output_hidden_states": states, "output_attentions": attentions, "rematerialize": again}
        self.dtype_policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())

    def __call__(
        self, inputs: Any = None, *args: Any, pixel_values: Any = None, labels: Any = None, **kwargs: Any
    ) -> Any:
        """Checks layout and type of the images, then runs the model on them as `call` says.

        Images may also be given as `pixel_values`; labels next to them are for `fit` alone, as in a dictionary.
        """
        if asked := sorted({"output_attentions", "output_hidden_states", "return_dict"} & set(kwargs)):
            raise TypeError(
                f"a call takes no {', '.join(asked)}: what a model gives is said when it is made, "
                f"{type(self).__name__}(config, output_hidden_states=True) or from_pretrained with it"
            )
        inputs = pixel_values if inputs is None else inputs
        pixel_values = inputs.get("pixel_values") if isinstance(inputs, dict) else inputs
        if pixel_values is not None and not isinstance(pixel_values, (list, tuple)):  # Keras explains the others
            check_pixel_values(pixel_values, self.config.num_channels)
        return super().__call__(inputs, *args, **kwargs)

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None, **kwargs: Any) -> Any:
        """Runs the model on images (B, H, W, C), or on a dictionary that holds them as `pixel_values`."""
        if isinstance(inputs, dict):  # Keras has checked the name, and would warn about the structure
            inputs = inputs["pixel_values"]
        return super().call(inputs, training=training, mask=mask, **kwargs)

    def compute_loss(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """The loss, on the labels next to the images where a batch is one dictionary."""
        return super().compute_loss(x, find_labels(x, y), *args, **kwargs)

    def compute_metrics(self, x: Any, y: Any, *args: Any, **kwargs: Any) -> Any:
        """The metrics, on the labels next to the images where a batch is one dictionary."""
        return super().compute_metrics(x, find_labels(x, y), *args, **kwargs)

    def make_train_function(self, force: bool = False) -> Any:
        """Creates the optimizer's variables before the first step, which TensorFlow would have to trace twice."""
        if not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)
        return super().make_train_function(force)

    def export(
        self, filepath: Any, format: str = "tf_saved_model", input_signature: Any = None, **options: Any
    ) -> None:
        """Keras' own export, also of a model that was never called; to ONNX it takes the extra "keras-onnx".

        Raises:
            ImportError: Where the packages of Keras' ONNX exporter are missing.
        """
        if format != "onnx":
            return super().export(filepath, format=format, input_signature=input_signature, **options)
        if input_signature is None:
            input_signature = [keras.InputSpec(shape=self.input_shape, dtype="float32", name="pixel_values")]
        try:
            with export_mode():  # tf2onnx knows no operation that is fused for TensorFlow's CPU
                super().export(filepath, format=format, input_signature=input_signature, **options)
        except ImportError as error:
            raise ImportError(
                "model.export(format='onnx') needs tf2onnx: pip install tf_segformer[keras-onnx]; "
                f"tf_segformer.export_onnx does without ({error})"
            ) from error

    def quantize(self, mode: str | None = None, config: Any = None, filters: Any = None, **options: Any) -> None:
        """Quantizes the dense layers, in place: `model.quantize("int8")`.

        Args:
            mode: "int8", "int4" or "float8".
            config: A `keras.quantizers.QuantizationConfig` instead.
            filters: Which dense layers, as for every Keras model; all but the classifier by default.
            **options: Further options of Keras.

        Raises:
            ValueError: For another mode, and where `filters` leave no layer.
        """
        super().quantize(mode, config=config, filters=layer_filter(self, filters), **options)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, ready for JSON, and which layers are quantized where some are."""
        quantization = quantized_layers(self)
        return {
            **({"quantization": quantization} if quantization else {}),
            "config": self.config.to_dict(),
            **self.arguments,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "name": self.name,
            "trainable": self.trainable,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> PretrainedModel:
        """Builds the model that `get_config` described."""
        arguments = dict(config)
        architecture = SegformerConfig.from_dict(arguments.pop("config"))
        quantization = arguments.pop("quantization", {})
        if isinstance(arguments.get("dtype"), dict):
            arguments["dtype"] = keras.dtype_policies.deserialize(arguments["dtype"])
        model = cls(architecture, **arguments)
        quantize_again(model, quantization)
        return model


@registered
class SegformerModel(PretrainedModel):
    """The hierarchical Mix Transformer encoder.

    Args:
        config: The architecture.
        output_hidden_states: Whether to give the feature map of every stage as well.
        output_attentions: Whether to give the attention probabilities of every block as well.
        dtype: Keras dtype policy such as "mixed_float16"; the global one by default.
        name: Name of the model.
        trainable: Whether training changes its weights.
        rematerialize: Whether training computes the inside of every block again for the gradient instead of keeping
            it: less memory, more time.

    Takes `pixel_values` (B, H, W, num_channels), float32, of any height and width, and gives the last stage's map
    (B, H/32, W/32, C), rounded up. With either option the output is a dictionary: `last_hidden_state`, `hidden_states`
    (a list: (B, H_i, W_i, C_i) per stage), `attentions` (a list: (B, heads, H_i*W_i, reduced) per block).

    Source: Xie et al. 2021, section 3.1.

    Example:
        >>> model = SegformerModel(SegformerConfig.from_variant("b0"))
        >>> tuple(model(keras.ops.ones((1, 64, 96, 3))).shape)
        (1, 2, 3, 256)
    """

    def __init__(
        self,
        config: SegformerConfig,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        dtype: Any = None,
        name: str | None = "segformer",
        trainable: bool = True,
        rematerialize: bool = False,
    ) -> None:
        check_config(config)
        stages = range(config.num_encoder_blocks)
        patch_embeddings = [
            OverlapPatchEmbedding(
                config.hidden_sizes[stage],
                config.patch_sizes[stage],
                config.strides[stage],
                epsilon=config.embedding_norm_eps,
                initializer_range=config.initializer_range,
                dtype=dtype,
                name=f"patch_embedding_{stage}",
            )
            for stage in stages
        ]
        drop_paths = iter(_drop_path_rates(config))
        blocks = [
            [
                TransformerBlock(
                    config.hidden_sizes[stage],
                    config.num_attention_heads[stage],
                    config.sr_ratios[stage],
                    token_merging=config.stage_token_merging[stage],
                    mlp_ratio=config.mlp_ratios[stage],
                    activation=config.hidden_act,
                    dropout=config.hidden_dropout_prob,
                    attention_dropout=config.attention_probs_dropout_prob,
                    drop_path=next(drop_paths),
                    embedding_norm_epsilon=config.embedding_norm_eps,
                    block_norm_epsilon=config.block_norm_eps,
                    initializer_range=config.initializer_range,
                    rematerialize=rematerialize,
                    dtype=dtype,
                    name=f"block_{stage}_{block}",
                )
                for block in range(config.depths[stage])
            ]
            for stage in stages
        ]
        stage_norms = [
            LayerNormalization(
                epsilon=config.stage_norm_eps or config.block_norm_eps, dtype=dtype, name=f"stage_norm_{stage}"
            )
            for stage in stages
        ]

        pixel_values = keras.Input((None, None, config.num_channels), dtype="float32", name="pixel_values")
        layers = zip(patch_embeddings, blocks, stage_norms, strict=True)
        hidden_states, attentions = run_stages(pixel_values, layers, output_attentions)
        super().__init__(
            inputs=pixel_values,
            outputs=_select_outputs(
                last_hidden_state=hidden_states[-1],
                hidden_states=hidden_states if output_hidden_states else None,
                attentions=attentions if output_attentions else None,
            ),
            name=name,
            trainable=trainable,
        )
        self._remember(config, dtype, output_hidden_states, output_attentions, rematerialize)


def run_stages(
    x: Any, stages: Iterable[tuple[Any, Sequence[Any], Any]], output_attentions: bool, **options: Any
) -> Any:
    """Runs the layers of an encoder.

    Args:
        x: Images (B, H, W, C).
        stages: Patch embedding, transformer blocks and norm of each stage.
        output_attentions: Whether to collect the attention probabilities.
        **options: Arguments of every block, such as `training`.

    Returns:
        The stages' feature maps (B, H_i, W_i, C_i), and the attention probabilities (B, heads, H_i*W_i, reduced) of all
        blocks; none where they are not collected.
    """
    hidden_states, attentions = [], []
    for patch_embedding, blocks, norm in stages:
        x = patch_embedding(x)
        for block in blocks:
            if output_attentions:
                x, attention = block(x, return_attention=True, **options)
                attentions.append(attention)
            else:
                x = block(x, **options)
        x = norm(x)
        hidden_states.append(x)
    return hidden_states, attentions


def find_labels(x: Any, y: Any) -> Any:
    """The labels of a batch: on their own, or in the dictionary with the images, as transformers has them.

    Args:
        x: The images, or a dictionary with `pixel_values` and perhaps `labels`.
        y: The labels, a dictionary with `labels`, or None.

    Returns:
        The labels, or None where there are none.
    """
    for each in (y, x if y is None else None):
        if isinstance(each, dict):
            return each.get("labels")
    return y


def _drop_path_rates(config: SegformerConfig) -> list[float]:
    """Rates that grow linearly from 0 over all blocks of all stages."""
    count = sum(config.depths)
    return [config.drop_path_rate * index / max(count - 1, 1) for index in range(count)]


def _select_outputs(**outputs: Any) -> Any:
    """The one tensor where no other was asked for, a dictionary otherwise."""
    chosen = {name: value for name, value in outputs.items() if value is not None}
    return chosen if len(chosen) > 1 else next(iter(chosen.values()))


class _TaskModel(PretrainedModel):
    """The encoder with a head; the arguments are those of `SegformerModel`."""

    def __init__(
        self,
        config: SegformerConfig,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        dtype: Any = None,
        name: str | None = None,
        trainable: bool = True,
        rematerialize: bool = False,
    ) -> None:
        encoder = SegformerModel(config, True, output_attentions, dtype=dtype, rematerialize=rematerialize)
        features = encoder(encoder.input)
        super().__init__(
            inputs=encoder.input,
            outputs=_select_outputs(
                logits=self._head(config, dtype, features),
                hidden_states=features["hidden_states"] if output_hidden_states else None,
                attentions=features["attentions"] if output_attentions else None,
            ),
            name=name,
            trainable=trainable,
        )
        self.segformer = encoder
        self._remember(config, dtype, output_hidden_states, output_attentions, rematerialize)

    @staticmethod
    def _head(config: SegformerConfig, dtype: Any, features: dict[str, Any]) -> Any:
        """Logits of the encoder's outputs."""
        raise NotImplementedError


@registered
class SegformerForImageClassification(_TaskModel):
    """The encoder with a linear classifier on the mean of its last map.

    Args:
        config: The architecture; `num_labels` sets the classes.

    The other arguments are those of `SegformerModel`.
    Takes `pixel_values` (B, H, W, num_channels), float32, and gives float32 logits (B, num_labels); with either option
    a dictionary of `logits`, `hidden_states` and `attentions` as in `SegformerModel`.

    Source: Xie et al. 2021, section 4.1 (pre-training on ImageNet-1k).

    Example:
        >>> model = SegformerForImageClassification(SegformerConfig.from_variant("b0", num_labels=10))
        >>> tuple(model(keras.ops.ones((1, 64, 96, 3))).shape)
        (1, 10)
    """

    @staticmethod
    def _head(config: SegformerConfig, dtype: Any, features: dict[str, Any]) -> Any:
        """(B, num_labels), in float32 under every policy."""
        pool = keras.layers.GlobalAveragePooling2D("channels_last", dtype="float32", name="pool")
        return classification_head(config)(pool(features["last_hidden_state"]))


def classification_head(config: SegformerConfig) -> keras.layers.Dense:
    """The linear classifier of an image's mean feature, in float32 under every policy."""
    initializer = keras.initializers.RandomNormal(stddev=config.initializer_range)
    return keras.layers.Dense(config.num_labels, kernel_initializer=initializer, dtype="float32", name="classifier")


@registered
class SegformerForSemanticSegmentation(PixelLabelsMixin, _TaskModel):
    """The encoder with the all-MLP decode head.

    Args:
        config: The architecture; `num_labels` sets the classes, `decode_head_type` the head.

    The other arguments are those of `SegformerModel`.
    Takes `pixel_values` (B, H, W, num_channels), float32, of any height and width, and gives float32 logits
    (B, ceil(H/4), ceil(W/4), num_labels), neither resized nor normalized; with either option a dictionary of `logits`,
    `hidden_states` and `attentions` as in `SegformerModel`.

    Source: Xie et al. 2021, section 3.

    Example:
        >>> model = SegformerForSemanticSegmentation(SegformerConfig.from_variant("b0", num_labels=19))
        >>> tuple(model(keras.ops.ones((1, 64, 96, 3))).shape)
        (1, 16, 24, 19)
    """

    @staticmethod
    def _head(config: SegformerConfig, dtype: Any, features: dict[str, Any]) -> Any:
        """(B, ceil(H/4), ceil(W/4), num_labels)."""
        decode_head = DECODE_HEAD_CLASSES[config.decode_head_type](
            config.num_labels,
            config.decoder_hidden_size,
            dropout=config.classifier_dropout_prob,
            initializer_range=config.initializer_range,
            dtype=dtype,
            name="decode_head",
        )
        return decode_head(features["hidden_states"])

    @property
    def decode_head(self) -> Any:
        """The decode head."""
        return self.get_layer("decode_head")
