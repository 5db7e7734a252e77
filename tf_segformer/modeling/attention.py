"""Efficient self-attention: every token looks at keys and values of a reduced resolution."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tf_segformer.modeling.base import ConfiguredLayer, FeatureShape
from tf_segformer.modeling.normalization import LayerNormalization
from tf_segformer.ops.attention import attend, attention, attention_probabilities
from tf_segformer.ops.initialization import SkippableNormal
from tf_segformer.ops.token_merging import match_tokens, merge, unmerge


@keras.saving.register_keras_serializable(package="tf_segformer")
class EfficientSelfAttention(ConfiguredLayer):
    """Self-attention of every token over keys and values taken at a reduced resolution.

    Args:
        hidden_size: Channels, divisible by `num_heads`.
        num_heads: Attention heads.
        sequence_reduction: Ratio R by which a strided convolution shrinks both sides of the feature map before keys
            and values are projected; 1 for none.
        dropout: Rate of dropout on the attention probabilities, in [0, 1).
        epsilon: Epsilon of the layer norm after the reduction.
        initializer_range: Standard deviation of the initial kernels.
        token_merging: Fraction of the queries that are merged with a similar neighbor, from 0 to 0.75.

    Raises:
        ValueError: `num_heads` does not divide `hidden_size`.

    Source: Xie et al. 2021, https://arxiv.org/abs/2105.15203, section 3.1, "Efficient Self-Attention", equation 2;
    token merging by Kienzle et al. 2024, https://arxiv.org/abs/2405.14467.

    Example:
        >>> attention = EfficientSelfAttention(64, num_heads=2, sequence_reduction=4)
        >>> tuple(attention(keras.ops.ones((96, 64)), feature_shape=FeatureShape(1, 8, 12)).shape)
        (96, 64)
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        sequence_reduction: int = 1,
        dropout: float = 0.0,
        epsilon: float = 1e-5,
        initializer_range: float = 0.02,
        token_merging: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if hidden_size % num_heads:
            raise ValueError(f"hidden_size={hidden_size} is not divisible by num_heads={num_heads}")
        self.arguments = {
            "hidden_size": hidden_size,
            "num_heads": num_heads,
            "sequence_reduction": sequence_reduction,
            "dropout": dropout,
            "epsilon": epsilon,
            "initializer_range": initializer_range,
            "token_merging": token_merging,
        }
        self.hidden_size, self.num_heads, self.ratio = hidden_size, num_heads, sequence_reduction
        self.token_merging = token_merging
        policy = self.dtype_policy
        self.query, self.key, self.value, self.output_dense = (
            keras.layers.Dense(
                hidden_size, kernel_initializer=SkippableNormal(stddev=initializer_range), dtype=policy, name=name
            )
            for name in ("query", "key", "value", "output_dense")
        )
        self.dropout = keras.layers.Dropout(dropout, dtype=policy, name="dropout")
        if sequence_reduction > 1:
            self.sequence_reduction = keras.layers.Conv2D(
                hidden_size,
                sequence_reduction,
                strides=sequence_reduction,
                data_format="channels_last",
                kernel_initializer=SkippableNormal(stddev=initializer_range),
                dtype=policy,
                name="sequence_reduction",
            )
            self.layer_norm = LayerNormalization(epsilon=epsilon, dtype=policy, name="layer_norm")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the weights."""
        tokens_shape = (None, self.hidden_size)
        for layer in (self.query, self.key, self.value, self.output_dense):
            layer.build(tokens_shape)
        if self.ratio > 1:
            self.sequence_reduction.build((None, None, None, self.hidden_size))
            self.layer_norm.build(tokens_shape)

    def call(
        self, tokens: Any, feature_shape: FeatureShape, training: bool = False, return_attention: bool = False
    ) -> Any:
        """Lets every token look at the reduced feature map.

        Args:
            tokens: (B*H*W, C).
            feature_shape: B, H and W.
            training: Whether probabilities are dropped and gradients follow.
            return_attention: Whether the probabilities are wanted.

        Returns:
            (B*H*W, C), with `return_attention` also the probabilities (B, heads, H*W, H'*W'); merged tokens have those
            of the query that they share.
        """
        queries, query_shape, groups = tokens, feature_shape, None
        if self.token_merging:
            x = ops.reshape(tokens, feature_shape.with_channels(self.hidden_size))
            groups, count = match_tokens(x, self.token_merging)
            queries = merge(tokens, groups, feature_shape.batch * count)
            query_shape = FeatureShape(feature_shape.batch, count, 1)
        reduced, reduced_shape = self._reduce(tokens, feature_shape, training)  # (B*H'*W', C)
        split = self.num_heads, self.hidden_size // self.num_heads
        query = ops.reshape(self.query(queries), query_shape.with_heads(*split))  # (B, H*W, heads, C/heads)
        key = ops.reshape(self.key(reduced), reduced_shape.with_heads(*split))  # (B, H'*W', heads, C/heads)
        value = ops.reshape(self.value(reduced), reduced_shape.with_heads(*split))
        probabilities = None
        if return_attention or (training and self.dropout.rate > 0):  # these need the probabilities themselves
            probabilities = attention_probabilities(query, key, training=training)  # (B, heads, H*W, H'*W')
            context = attend(self.dropout(probabilities, training=training), value)
        else:
            context = attention(query, key, value, training=training)
        outputs = self.output_dense(ops.reshape(context, (-1, self.hidden_size)))
        if groups is not None:
            outputs = unmerge(outputs, groups)
            probabilities = None if probabilities is None else _of_members(probabilities, groups)
        return (outputs, probabilities) if return_attention else outputs

    def _reduce(self, tokens: Any, feature_shape: FeatureShape, training: bool) -> tuple[Any, FeatureShape]:
        """Shrinks the map for keys and values; one smaller than the ratio is padded so that one key is left."""
        ratio = self.ratio
        if ratio == 1:
            return tokens, feature_shape
        batch, height, width = feature_shape.batch, feature_shape.height, feature_shape.width
        pad_h, pad_w = (
            max(ratio - side, 0) if isinstance(side, int) else ops.maximum(ratio - side, 0) for side in (height, width)
        )
        x = ops.reshape(tokens, feature_shape.with_channels(self.hidden_size))
        x = ops.pad(x, ((0, 0), (0, pad_h), (0, pad_w), (0, 0)))
        # TensorFlow forgets how many channels there are where it pads by a tensor; LiteRT has to know
        x = ops.reshape(x, (batch, height + pad_h, width + pad_w, self.hidden_size))
        x = self.sequence_reduction(x)  # (B, H', W', C)
        reduced = self.layer_norm(ops.reshape(x, (-1, self.hidden_size)), training=training)
        return reduced, FeatureShape(batch, *ops.shape(x)[1:3])


def _of_members(probabilities: Any, groups: Any) -> Any:
    """Probabilities of merged queries (B, heads, groups, M), copied to the tokens of each (B, heads, H*W, M)."""
    batch, heads, _, num_keys = ops.shape(probabilities)
    rows = ops.reshape(ops.transpose(probabilities, (0, 2, 1, 3)), (-1, heads, num_keys))
    copies = ops.reshape(unmerge(rows, groups), (batch, -1, heads, num_keys))
    return ops.transpose(copies, (0, 2, 1, 3))
