"""The layers of the Mix Transformer encoder.

Those that change the size take feature maps (B, H, W, C); those within a block take their tokens (B*H*W, C) and the
map's shape, since TensorFlow adds bias and residual within a product of matrices.

Source: Xie et al. 2021, "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers",
https://arxiv.org/abs/2105.15203, section 3.1.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tf_segformer.modeling.attention import EfficientSelfAttention
from tf_segformer.modeling.base import ConfiguredLayer, FeatureShape
from tf_segformer.modeling.normalization import LayerNormalization
from tf_segformer.ops.dense import gelu, gelu_dense
from tf_segformer.ops.initialization import SkippableNormal
from tf_segformer.ops.tracing import traced_once

_tanh_gelu = functools.partial(ops.gelu, approximate=True)

# Hugging Face's names of activations.
ACTIVATION_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "gelu": gelu,
    "gelu_new": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "relu": ops.relu,
    "silu": ops.silu,
    "swish": ops.silu,
}


@keras.saving.register_keras_serializable(package="tf_segformer")
class DropPath(ConfiguredLayer):
    """Stochastic depth: drops the whole residual branch of an image during training.

    Args:
        rate: Probability of dropping, in [0, 1).

    Source: Huang et al. 2016, https://arxiv.org/abs/1603.09382.

    Example:
        >>> tuple(DropPath(0.1)(keras.ops.ones((2, 4, 4, 8)), training=True).shape)
        (2, 4, 4, 8)
    """

    def __init__(self, rate: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.arguments, self.rate = {"rate": rate}, rate
        self.seed_generator = keras.random.SeedGenerator()
        self.built = True

    def call(self, x: Any, training: bool = False) -> Any:
        """Keeps or drops the branch of each image, scaled so that its expectation stays."""
        if not training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        mask_shape = (ops.shape(x)[0],) + (1,) * (len(x.shape) - 1)
        sample = keras.random.uniform(mask_shape, dtype="float32", seed=self.seed_generator)
        return x * ops.cast(ops.floor(sample + keep) / keep, x.dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The shape of the result: that of the input."""
        return input_shape


@keras.saving.register_keras_serializable(package="tf_segformer")
class OverlapPatchEmbedding(ConfiguredLayer):
    """Overlapping patch embedding: a strided convolution over a symmetrically padded map, then a layer norm.

    Args:
        hidden_size: Channels of the result.
        patch_size: Kernel size; the map is padded by `patch_size // 2` zeros on every side, as in torch.
        stride: Stride of the convolution.
        epsilon: Epsilon of the layer norm.
        initializer_range: Standard deviation of the initial kernel.

    Source: Xie et al. 2021, section 3.1, "Overlapped Patch Merging".

    Example:
        >>> tuple(OverlapPatchEmbedding(32, patch_size=7, stride=4)(keras.ops.ones((1, 64, 96, 3))).shape)
        (1, 16, 24, 32)
    """

    def __init__(
        self,
        hidden_size: int,
        patch_size: int,
        stride: int,
        epsilon: float = 1e-5,
        initializer_range: float = 0.02,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.arguments = {
            "hidden_size": hidden_size,
            "patch_size": patch_size,
            "stride": stride,
            "epsilon": epsilon,
            "initializer_range": initializer_range,
        }
        self.hidden_size, self.patch_size, self.stride = hidden_size, patch_size, stride
        self.projection = keras.layers.Conv2D(
            hidden_size,
            patch_size,
            strides=stride,
            data_format="channels_last",
            kernel_initializer=SkippableNormal(stddev=initializer_range),
            dtype=self.dtype_policy,
            name="projection",
        )
        self.layer_norm = LayerNormalization(epsilon=epsilon, dtype=self.dtype_policy, name="layer_norm")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the weights for maps of `input_shape[-1]` channels."""
        self.projection.build((None, None, None, input_shape[-1]))
        self.layer_norm.build((None, None, None, self.hidden_size))

    def call(self, x: Any, training: bool = False) -> Any:
        """(B, H, W, C) -> (B, ceil(H / stride), ceil(W / stride), hidden_size) for odd patch sizes."""
        padding = (self.patch_size // 2, self.patch_size // 2)
        x = ops.pad(x, ((0, 0), padding, padding, (0, 0)))
        return self.layer_norm(self.projection(x), training=training)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The shape of the result, without running the layer."""
        padding = 2 * (self.patch_size // 2)
        sides = [
            None if side is None else (side + padding - self.patch_size) // self.stride + 1 for side in input_shape[1:3]
        ]
        return (input_shape[0], *sides, self.hidden_size)


@keras.saving.register_keras_serializable(package="tf_segformer")
class MixFeedForward(ConfiguredLayer):
    """Feed-forward network with a 3x3 depthwise convolution, from which tokens learn where they are.

    Args:
        hidden_size: Channels in and out.
        mlp_ratio: Width of the inner layer over `hidden_size`.
        activation: A name of `ACTIVATION_FUNCTIONS`; "gelu" is the exact one.
        dropout: Rate of dropout after the activation and after the result, in [0, 1).
        initializer_range: Standard deviation of the initial kernels.

    Source: Xie et al. 2021, section 3.1, "Mix-FFN", equation 3.

    Example:
        >>> tuple(MixFeedForward(32)(keras.ops.ones((96, 32)), feature_shape=FeatureShape(1, 8, 12)).shape)
        (96, 32)
    """

    def __init__(
        self,
        hidden_size: int,
        mlp_ratio: float = 4,
        activation: str = "gelu",
        dropout: float = 0.0,
        initializer_range: float = 0.02,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.arguments = {
            "hidden_size": hidden_size,
            "mlp_ratio": mlp_ratio,
            "activation": activation,
            "dropout": dropout,
            "initializer_range": initializer_range,
        }
        self.hidden_size, self.inner_size = hidden_size, int(hidden_size * mlp_ratio)
        self.activation = activation
        policy = self.dtype_policy
        self.dense_1, self.dense_2 = (
            keras.layers.Dense(
                units, kernel_initializer=SkippableNormal(stddev=initializer_range), dtype=policy, name=name
            )
            for units, name in ((self.inner_size, "dense_1"), (hidden_size, "dense_2"))
        )
        self.depthwise_convolution = keras.layers.DepthwiseConv2D(
            3,
            padding="same",
            data_format="channels_last",
            depthwise_initializer=SkippableNormal(stddev=initializer_range),
            dtype=policy,
            name="depthwise_convolution",
        )
        self.dropout = keras.layers.Dropout(dropout, dtype=policy, name="dropout")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the weights."""
        self.dense_1.build((None, self.hidden_size))
        self.depthwise_convolution.build((None, None, None, self.inner_size))
        self.dense_2.build((None, self.inner_size))

    def call(self, tokens: Any, feature_shape: FeatureShape, training: bool = False) -> Any:
        """Mixes the channels of each token and those of its neighbors.

        Args:
            tokens: (B*H*W, C).
            feature_shape: B, H and W.
            training: Whether activations are dropped and gradients follow.

        Returns:
            (B*H*W, C).
        """
        x = ops.reshape(self.dense_1(tokens), feature_shape.with_channels(self.inner_size))  # (B, H, W, mlp_ratio * C)
        x = ops.reshape(self.depthwise_convolution(x), (-1, self.inner_size))
        if self.activation == "gelu" and not self.dropout.rate:
            return gelu_dense(x, self.dense_2, training=training)
        x = self.dropout(ACTIVATION_FUNCTIONS[self.activation](x), training=training)
        return self.dropout(self.dense_2(x), training=training)


@keras.saving.register_keras_serializable(package="tf_segformer")
class TransformerBlock(ConfiguredLayer):
    """One block of a stage: attention and feed-forward network, each after a layer norm and added to its input.

    Args:
        hidden_size: Channels.
        num_heads: Attention heads.
        sequence_reduction: Reduction ratio of keys and values.
        token_merging: Fraction of the queries that are merged with a similar neighbor, from 0 to 0.75.
        mlp_ratio: Width of the feed-forward network over `hidden_size`.
        activation: Activation of the feed-forward network.
        dropout: Dropout after attention and in the feed-forward network, in [0, 1).
        attention_dropout: Dropout of the attention probabilities, in [0, 1).
        drop_path: Probability that training drops a residual branch of an image, in [0, 1).
        embedding_norm_epsilon: Epsilon of the layer norm after the sequence reduction.
        block_norm_epsilon: Epsilon of the block's two layer norms.
        initializer_range: Standard deviation of the initial kernels.
        rematerialize: Whether gradients compute the inside of attention and feed-forward network again instead of
            keeping it: less memory, more time (Chen et al. 2016, https://arxiv.org/abs/1604.06174).

    Raises:
        ValueError: `rematerialize` together with dropout.

    Source: Xie et al. 2021, section 3.1 and figure 2.

    Example:
        >>> tuple(TransformerBlock(64, num_heads=2, sequence_reduction=4)(keras.ops.ones((1, 8, 12, 64))).shape)
        (1, 8, 12, 64)
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        sequence_reduction: int = 1,
        mlp_ratio: float = 4,
        activation: str = "gelu",
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.0,
        embedding_norm_epsilon: float = 1e-5,
        block_norm_epsilon: float = 1e-5,
        initializer_range: float = 0.02,
        rematerialize: bool = False,
        token_merging: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if rematerialize and (dropout or attention_dropout):
            raise ValueError(
                f"rematerialize=True with dropout={dropout} and attention_dropout={attention_dropout}: the gradient "
                "would sample another dropout than the loss; set hidden_dropout_prob=0 and "
                "attention_probs_dropout_prob=0, or rematerialize=False"
            )
        self.arguments = {
            "hidden_size": hidden_size,
            "num_heads": num_heads,
            "sequence_reduction": sequence_reduction,
            "mlp_ratio": mlp_ratio,
            "activation": activation,
            "dropout": dropout,
            "attention_dropout": attention_dropout,
            "drop_path": drop_path,
            "embedding_norm_epsilon": embedding_norm_epsilon,
            "block_norm_epsilon": block_norm_epsilon,
            "initializer_range": initializer_range,
            "rematerialize": rematerialize,
            "token_merging": token_merging,
        }
        self.hidden_size, self.num_heads = hidden_size, num_heads
        self.rematerialize = rematerialize
        policy = self.dtype_policy
        self.layer_norm_1, self.layer_norm_2 = (
            LayerNormalization(epsilon=block_norm_epsilon, dtype=policy, name=name)
            for name in ("layer_norm_1", "layer_norm_2")
        )
        self.attention = EfficientSelfAttention(
            hidden_size,
            num_heads,
            sequence_reduction,
            dropout=attention_dropout,
            epsilon=embedding_norm_epsilon,
            initializer_range=initializer_range,
            token_merging=token_merging,
            dtype=policy,
            name="attention",
        )
        self.mlp = MixFeedForward(
            hidden_size, mlp_ratio, activation, dropout, initializer_range, dtype=policy, name="mlp"
        )
        self.dropout = keras.layers.Dropout(dropout, dtype=policy, name="dropout")
        self.drop_path = DropPath(drop_path, dtype=policy, name="drop_path")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the weights."""
        for layer in (self.layer_norm_1, self.attention, self.layer_norm_2, self.mlp):
            layer.build((None, self.hidden_size))

    @traced_once("drop_path", "rematerialize")
    def call(self, x: Any, training: bool = False, return_attention: bool = False) -> Any:
        """(B, H, W, C) -> (B, H, W, C), with `return_attention` also the probabilities (B, heads, H*W, H'*W')."""
        feature_shape, probabilities = FeatureShape(*ops.shape(x)[:3]), None
        attention: Callable[..., Any] = self.attention
        mlp: Callable[..., Any] = self.mlp
        if training and self.rematerialize and not return_attention:
            # Not the whole block, whose gradient would sample another stochastic depth
            attention, mlp = _rematerialized(attention), _rematerialized(mlp)
        tokens = ops.reshape(x, (-1, self.hidden_size))  # (B*H*W, C)
        normalized = self.layer_norm_1(tokens, training=training)
        attended = attention(
            normalized, feature_shape=feature_shape, training=training, return_attention=return_attention
        )
        if return_attention:
            attended, probabilities = attended
        attended = self.dropout(attended, training=training)
        # Not `+=`, by which torch would change the map that the layer norm keeps for its gradient
        tokens = tokens + self._drop_branch(attended, feature_shape, training)
        transformed = mlp(self.layer_norm_2(tokens, training=training), feature_shape=feature_shape, training=training)
        tokens = tokens + self._drop_branch(transformed, feature_shape, training)
        x = ops.reshape(tokens, feature_shape.with_channels(self.hidden_size))
        return (x, probabilities) if return_attention else x

    def _drop_branch(self, tokens: Any, feature_shape: FeatureShape, training: bool) -> Any:
        """Drop path, which acts on whole images."""
        if not training or not self.drop_path.rate:
            return tokens
        images = ops.reshape(tokens, feature_shape.with_channels(self.hidden_size))
        return ops.reshape(self.drop_path(images, training=True), (-1, self.hidden_size))

    def compute_output_spec(self, x: Any, training: bool = False, return_attention: bool = False) -> Any:
        """Shapes and dtypes of the result, without running the layer."""
        outputs = keras.KerasTensor(x.shape, dtype=self.compute_dtype)
        if not return_attention:
            return outputs
        return outputs, keras.KerasTensor((x.shape[0], self.num_heads, None, None), dtype=self.compute_dtype)


def _rematerialized(layer: keras.layers.Layer) -> Callable[..., Any]:
    """A layer in training whose gradient keeps the tokens alone."""

    def call(tokens: Any, **options: Any) -> Any:
        return keras.remat(lambda tokens: layer(tokens, **options))(tokens)

    return call
