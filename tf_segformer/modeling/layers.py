"""The layers of the Mix Transformer encoder, channels last: (B, H, W, C) in, (B, H, W, C) out.

Source: Xie et al. 2021, "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers",
https://arxiv.org/abs/2105.15203, section 3.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tf_segformer.modeling.attention import EfficientSelfAttention, attention_output_spec
from tf_segformer.modeling.initialization import PACKAGE, EncoderInitializer
from tf_segformer.ops.channels import Dense, LayerNormalization
from tf_segformer.ops.portability import exporting
from tf_segformer.ops.recomputed_gradients import gelu_dense_recomputed
from tf_segformer.ops.tracing import shared_call, sharing_traces


def exact_gelu(x: Any) -> Any:
    """GELU by the error function, spelled so that every export format has its operators.

    Args:
        x: Floating point tensor of any shape.

    Returns:
        Tensor of the same shape and dtype.
    """
    if exporting():  # LiteRT has no error function, but knows GELU in this form
        return 0.5 * x * (1.0 + ops.erf(x * math.sqrt(0.5)))
    return x * (0.5 + 0.5 * ops.erf(x * math.sqrt(0.5)))  # one new tensor instead of two


def _tanh_gelu(x: Any) -> Any:
    """GELU by its tanh approximation."""
    return ops.gelu(x, approximate=True)


# Hugging Face's names of activations.
ACTIVATION_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "gelu": exact_gelu,
    "gelu_new": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "relu": ops.relu,
    "silu": ops.silu,
    "swish": ops.silu,
}


@keras.saving.register_keras_serializable(package=PACKAGE)
class DropPath(keras.layers.Layer):
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
        self.rate = rate
        self.seed_generator = keras.random.SeedGenerator()
        self.built = True

    def call(self, x: Any, training: bool = False) -> Any:
        """Keeps or drops the branch of each image, scaled so that its expectation stays."""
        if not training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        mask_shape = (ops.shape(x)[0],) + (1,) * (len(x.shape) - 1)
        draw = keras.random.uniform(mask_shape, dtype="float32", seed=self.seed_generator)
        return x * ops.cast(ops.floor(draw + keep) / keep, x.dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The shape of the result: that of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "rate": self.rate}


@keras.saving.register_keras_serializable(package=PACKAGE)
class OverlapPatchEmbedding(keras.layers.Layer):
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
        self.hidden_size = hidden_size
        self.patch_size = patch_size
        self.stride = stride
        self.epsilon = epsilon
        self.initializer_range = initializer_range
        self.projection = keras.layers.Conv2D(
            hidden_size,
            patch_size,
            strides=stride,
            padding="valid",
            data_format="channels_last",
            kernel_initializer=EncoderInitializer(stddev=initializer_range),
            dtype=self.dtype_policy,
            name="projection",
        )
        self.layer_norm = LayerNormalization(epsilon=epsilon, dtype=self.dtype_policy, name="layer_norm")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the weights for maps of `input_shape[-1]` channels."""
        self.projection.build((None, None, None, input_shape[-1]))
        self.layer_norm.build((None, None, None, self.hidden_size))

    def call(self, x: Any) -> Any:
        """(B, H, W, C) -> (B, ceil(H / stride), ceil(W / stride), hidden_size) for odd patch sizes."""
        margin = self.patch_size // 2
        x = ops.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
        return self.layer_norm(self.projection(x))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The shape of the result, without running the layer."""
        reach = 2 * (self.patch_size // 2) - self.patch_size
        sides = [None if side is None else (side + reach) // self.stride + 1 for side in input_shape[1:3]]
        return (input_shape[0], *sides, self.hidden_size)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        names = ("hidden_size", "patch_size", "stride", "epsilon", "initializer_range")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable(package=PACKAGE)
class MixFeedForward(keras.layers.Layer):
    """Feed-forward network with a 3x3 depthwise convolution, which tells positions apart.

    Args:
        hidden_size: Channels in and out.
        mlp_ratio: Width of the inner layer over `hidden_size`.
        activation: A name of `ACTIVATION_FUNCTIONS`; "gelu" is the exact one.
        dropout: Rate of dropout after the activation and after the result, in [0, 1).
        initializer_range: Standard deviation of the initial kernels.

    Source: Xie et al. 2021, section 3.1, "Mix-FFN", equation 3.

    Example:
        >>> tuple(MixFeedForward(32)(keras.ops.ones((1, 8, 12, 32))).shape)
        (1, 8, 12, 32)
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
        self.hidden_size = hidden_size
        self.mlp_ratio = mlp_ratio
        self.activation = activation
        self.dropout_rate = dropout
        self.initializer_range = initializer_range
        self.inner_size = int(hidden_size * mlp_ratio)
        self.dense_1, self.dense_2 = (
            Dense(
                units,
                kernel_initializer=EncoderInitializer(stddev=initializer_range),
                dtype=self.dtype_policy,
                name=name,
            )
            for units, name in ((self.inner_size, "dense_1"), (hidden_size, "dense_2"))
        )
        self.depthwise_convolution = keras.layers.DepthwiseConv2D(
            3,
            padding="same",
            data_format="channels_last",
            depthwise_initializer=EncoderInitializer(stddev=initializer_range),
            dtype=self.dtype_policy,
            name="depthwise_convolution",
        )
        self.dropout = keras.layers.Dropout(dropout, dtype=self.dtype_policy, name="dropout")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the weights."""
        self.dense_1.build((None, None, None, self.hidden_size))
        self.depthwise_convolution.build((None, None, None, self.inner_size))
        self.dense_2.build((None, None, None, self.inner_size))

    def call(self, x: Any, training: bool = False) -> Any:
        """(B, H, W, C) -> (B, H, W, C)."""
        map_shape = ops.shape(x)
        return ops.reshape(self.mix(ops.reshape(x, (-1, self.hidden_size)), map_shape, training), map_shape)

    def mix(self, positions: Any, map_shape: tuple[Any, ...], training: bool = False) -> Any:
        """The layer on a map given as a matrix, as the blocks have it.

        Args:
            positions: (B*H*W, C).
            map_shape: (B, H, W, C), ints or scalar tensors.
            training: Whether activations are dropped.

        Returns:
            (B*H*W, C).
        """
        x = ops.reshape(self.dense_1(positions), (*map_shape[:3], self.inner_size))  # (B, H, W, mlp_ratio * C)
        x = ops.reshape(self.depthwise_convolution(x), (-1, self.inner_size))
        if training and self.activation == "gelu" and not self.dropout_rate and keras.backend.backend() == "tensorflow":
            return gelu_dense_recomputed(x, self.dense_2.kernel, self.dense_2.bias)
        x = self.dropout(ACTIVATION_FUNCTIONS[self.activation](x), training=training)
        return self.dropout(self.dense_2(x), training=training)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The shape of the result: that of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "hidden_size": self.hidden_size,
            "mlp_ratio": self.mlp_ratio,
            "activation": self.activation,
            "dropout": self.dropout_rate,
            "initializer_range": self.initializer_range,
        }


@keras.saving.register_keras_serializable(package=PACKAGE)
class TransformerBlock(keras.layers.Layer):
    """One block of a stage: attention and feed-forward network, each behind a layer norm and beside a residual.

    Args:
        hidden_size: Channels.
        num_heads: Attention heads.
        sequence_reduction: Reduction ratio of keys and values.
        mlp_ratio: Width of the feed-forward network over `hidden_size`.
        activation: Activation of the feed-forward network.
        dropout: Dropout after attention and in the feed-forward network, in [0, 1).
        attention_dropout: Dropout of the attention probabilities, in [0, 1).
        drop_path: Probability that training drops a residual branch of an image, in [0, 1).
        embedding_norm_epsilon: Epsilon of the layer norm after the sequence reduction.
        block_norm_epsilon: Epsilon of the block's two layer norms.
        initializer_range: Standard deviation of the initial kernels.

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
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.hidden_size = hidden_size
        self.arguments: dict[str, Any] = {
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
        }
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
        map_shape = (None, None, None, self.hidden_size)
        for layer in (self.layer_norm_1, self.attention, self.layer_norm_2, self.mlp):
            layer.build(map_shape)

    def call(self, x: Any, training: bool = False, return_attention: bool = False) -> Any:
        """(B, H, W, C) -> (B, H, W, C), with `return_attention` also the probabilities (B, heads, H*W, H'*W')."""
        if sharing_traces() and not (training or return_attention or exporting()):
            form = {**self.arguments, "drop_path": None, "dtype": self.dtype_policy.name}
            return shared_call(self, x, repr(form))
        map_shape = ops.shape(x)
        # A matrix, since TensorFlow adds bias and residual within a product of matrices
        positions = ops.reshape(x, (-1, self.hidden_size))  # (B*H*W, C)
        attended, probabilities = self.attention.mix(
            self.layer_norm_1(positions), map_shape, training=training, return_attention=return_attention
        )
        # Not `+=`, by which torch would change the map that the layer norm keeps for its gradient
        positions = positions + self._drop_branch(self.dropout(attended, training=training), map_shape, training)
        transformed = self.mlp.mix(self.layer_norm_2(positions), map_shape, training=training)
        positions = positions + self._drop_branch(transformed, map_shape, training)
        x = ops.reshape(positions, map_shape)
        return (x, probabilities) if return_attention else x

    def _drop_branch(self, positions: Any, map_shape: tuple[Any, ...], training: bool) -> Any:
        """Drop path on a matrix; it acts on whole images."""
        if not training:
            return positions
        return ops.reshape(self.drop_path(ops.reshape(positions, map_shape), training=True), (-1, self.hidden_size))

    def compute_output_spec(self, x: Any, training: bool = False, return_attention: bool = False) -> Any:
        """Shapes and dtypes of the result, without running the layer."""
        return attention_output_spec(x, self.compute_dtype, self.arguments["num_heads"], return_attention)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), **self.arguments}
