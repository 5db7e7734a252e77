"""Efficient self-attention: every position looks at keys and values of a reduced resolution.

Source: Xie et al. 2021, https://arxiv.org/abs/2105.15203, section 3.1.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tf_segformer.modeling.initialization import PACKAGE, EncoderInitializer
from tf_segformer.ops.channels import Dense, LayerNormalization
from tf_segformer.ops.portability import exporting
from tf_segformer.ops.sequential import sequential_map

# How many scores of one image are held at once: 16 MB of float32, those of an image of 512x512. Fewer are slower.
MAX_SCORES = 2**22


def attend(query: Any, key: Any, value: Any, max_scores: int, training: bool = False) -> Any:
    """Scaled dot-product attention whose memory does not grow with the square of the image.

    Above `max_scores` the queries are taken block by block, which is exact: a row of scores needs no other row.

    Args:
        query: (B, N, heads, d).
        key: (B, M, heads, d).
        value: (B, M, heads, d).
        max_scores: Scores of one image (heads * N * M) held at once. No bound within `export_mode`: engines
            that have no loops get one product.
        training: Whether gradients follow; they compute the scores again instead of keeping them.

    Returns:
        (B, N, heads, d).
    """
    if keras.backend.backend() != "tensorflow":  # these have fused kernels that never hold all scores
        return ops.dot_product_attention(query, key, value)
    query, key, value = (_swap_heads(each) for each in (query, key, value))
    num_queries, num_keys = ops.shape(query)[2], ops.shape(key)[2]
    attend_at_once = functools.partial(_attend_at_once, training=training)
    attend_at_once = keras.remat(attend_at_once) if training else attend_at_once
    if exporting():
        context = attend_at_once(query, key, value)
    else:
        known = isinstance(num_queries, int) and isinstance(num_keys, int)
        scores_of_a_query = query.shape[1] * num_keys
        rows = max(max_scores // scores_of_a_query, 1) if known else ops.maximum(max_scores // scores_of_a_query, 1)
        choose = _choose_now if known else ops.cond
        context = choose(
            num_queries <= rows,
            lambda: attend_at_once(query, key, value),
            lambda: _attend_in_blocks(attend_at_once, query, key, value, rows),
        )
    return _swap_heads(context)


def attention_probabilities(query: Any, key: Any, training: bool = False) -> Any:
    """Softmax over the keys: (B, heads, N, d), (B, heads, M, d) -> (B, heads, N, M).

    In float32 whatever the dtype; but bfloat16 for inference is left to TensorFlow's own kernel, which computes in
    float32 within and rounds once, and saves two passes over the scores.
    """
    scale = query.shape[-1] ** -0.5
    scores = ops.matmul(query, ops.transpose(key * scale, (0, 1, 3, 2)))
    if training or keras.backend.standardize_dtype(scores.dtype) != "bfloat16":
        scores = ops.cast(scores, "float32")
    # Keras warns about a softmax over one key, as the smallest images have
    probabilities = ops.ones_like(scores) if scores.shape[-1] == 1 else ops.softmax(scores)
    return ops.cast(probabilities, query.dtype)


def _swap_heads(x: Any) -> Any:
    """(B, N, heads, d) to (B, heads, N, d) and back; nothing moves where there is one head."""
    batch, first, second, width = ops.shape(x)
    if 1 in x.shape[1:3]:
        return ops.reshape(x, (batch, second, first, width))
    return ops.transpose(x, (0, 2, 1, 3))


def _choose_now(condition: bool, if_true: Callable[[], Any], if_false: Callable[[], Any]) -> Any:
    """`ops.cond` for a condition that is known when the graph is made."""
    return if_true() if condition else if_false()


def _attend_at_once(query: Any, key: Any, value: Any, training: bool) -> Any:
    """All queries (B, heads, N, d) in one go."""
    return ops.matmul(attention_probabilities(query, key, training), value)


def _attend_in_blocks(attend_at_once: Callable[..., Any], query: Any, key: Any, value: Any, rows: Any) -> Any:
    """The same, `rows` queries at a time."""
    batch, heads, num_queries, width = ops.shape(query)
    blocks = (num_queries + rows - 1) // rows
    query = ops.pad(query, ((0, 0), (0, 0), (0, blocks * rows - num_queries), (0, 0)))
    query = ops.reshape(query, (batch, heads, blocks, rows, width))
    query = ops.transpose(query, (2, 0, 1, 3, 4))  # (blocks, B, heads, rows, d)
    (context,) = sequential_map(lambda block: (attend_at_once(block, key, value),), [query], [query.dtype])
    context = ops.reshape(ops.transpose(context, (1, 2, 0, 3, 4)), (batch, heads, blocks * rows, width))
    return context[:, :, :num_queries]


def attention_output_spec(x: Any, dtype: str, num_heads: int, return_attention: bool) -> Any:
    """What a layer of attention gives back: the map, and where asked for its probabilities."""
    outputs = keras.KerasTensor(x.shape, dtype=dtype)
    return (
        (outputs, keras.KerasTensor((x.shape[0], num_heads, None, None), dtype=dtype)) if return_attention else outputs
    )


@keras.saving.register_keras_serializable(package=PACKAGE)
class EfficientSelfAttention(keras.layers.Layer):
    """Self-attention of every position over keys and values taken at a reduced resolution.

    Args:
        hidden_size: Channels, divisible by `num_heads`.
        num_heads: Attention heads.
        sequence_reduction: Ratio R by which a strided convolution shrinks both sides of the map before keys and
            values are projected; 1 for none.
        dropout: Rate of dropout on the attention probabilities, in [0, 1).
        epsilon: Epsilon of the layer norm after the reduction.
        initializer_range: Standard deviation of the initial kernels.

    Source: Xie et al. 2021, section 3.1, "Efficient Self-Attention", equation 2.

    Example:
        >>> tuple(EfficientSelfAttention(64, num_heads=2, sequence_reduction=4)(keras.ops.ones((1, 8, 12, 64))).shape)
        (1, 8, 12, 64)
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        sequence_reduction: int = 1,
        dropout: float = 0.0,
        epsilon: float = 1e-5,
        initializer_range: float = 0.02,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if hidden_size % num_heads:
            raise ValueError(f"hidden_size={hidden_size} is not divisible by num_heads={num_heads}")
        self.hidden_size = hidden_size
        self.num_heads = num_heads
        self.sequence_reduction_ratio = sequence_reduction
        self.dropout_rate = dropout
        self.epsilon = epsilon
        self.initializer_range = initializer_range
        self.query, self.key, self.value, self.output_dense = (
            Dense(
                hidden_size,
                kernel_initializer=EncoderInitializer(stddev=initializer_range),
                dtype=self.dtype_policy,
                name=name,
            )
            for name in ("query", "key", "value", "output_dense")
        )
        self.dropout = keras.layers.Dropout(dropout, dtype=self.dtype_policy, name="dropout")
        if sequence_reduction > 1:
            self.sequence_reduction = keras.layers.Conv2D(
                hidden_size,
                sequence_reduction,
                strides=sequence_reduction,
                padding="valid",
                data_format="channels_last",
                kernel_initializer=EncoderInitializer(stddev=initializer_range),
                dtype=self.dtype_policy,
                name="sequence_reduction",
            )
            self.layer_norm = LayerNormalization(epsilon=epsilon, dtype=self.dtype_policy, name="layer_norm")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the weights."""
        map_shape = (None, None, None, self.hidden_size)
        for layer in (self.query, self.key, self.value, self.output_dense):
            layer.build(map_shape)
        if self.sequence_reduction_ratio > 1:
            self.sequence_reduction.build(map_shape)
            self.layer_norm.build(map_shape)

    def call(self, x: Any, training: bool = False, return_attention: bool = False) -> Any:
        """(B, H, W, C) -> (B, H, W, C), with `return_attention` also the probabilities (B, heads, H*W, H'*W')."""
        map_shape = ops.shape(x)
        positions = ops.reshape(x, (-1, self.hidden_size))
        outputs, probabilities = self.mix(positions, map_shape, training, return_attention)
        outputs = ops.reshape(outputs, map_shape)
        return (outputs, probabilities) if return_attention else outputs

    def mix(
        self, positions: Any, map_shape: tuple[Any, ...], training: bool = False, return_attention: bool = False
    ) -> tuple[Any, Any]:
        """The layer on a map given as a matrix, as the blocks have it.

        Args:
            positions: (B*H*W, C).
            map_shape: (B, H, W, C), ints or scalar tensors.
            training: Whether probabilities are dropped and gradients wanted.
            return_attention: Whether the probabilities are wanted.

        Returns:
            (B*H*W, C), and the probabilities (B, heads, H*W, H'*W') or None.
        """
        batch = map_shape[0]
        reduced = self._reduce(positions, map_shape)  # (B*H'*W', C)
        query = self._split_heads(self.query(positions), batch)  # (B, H*W, heads, C/heads)
        key = self._split_heads(self.key(reduced), batch)  # (B, H'*W', heads, C/heads)
        value = self._split_heads(self.value(reduced), batch)
        probabilities = None
        if return_attention or (training and self.dropout_rate > 0):  # these need the probabilities themselves
            query, key, value = (ops.transpose(each, (0, 2, 1, 3)) for each in (query, key, value))
            probabilities = attention_probabilities(query, key, training)
            context = ops.matmul(self.dropout(probabilities, training=training), value)
            context = ops.transpose(context, (0, 2, 1, 3))
        else:
            context = attend(query, key, value, MAX_SCORES, training)
        context = ops.reshape(context, (-1, self.hidden_size))
        return self.output_dense(context), probabilities

    def compute_output_spec(self, x: Any, training: bool = False, return_attention: bool = False) -> Any:
        """Shapes and dtypes of the result, without running the layer."""
        return attention_output_spec(x, self.compute_dtype, self.num_heads, return_attention)

    def _reduce(self, positions: Any, map_shape: tuple[Any, ...]) -> Any:
        """Shrinks the map for keys and values; one smaller than the ratio is padded so that one key is left."""
        ratio = self.sequence_reduction_ratio
        if ratio == 1:
            return positions
        batch, height, width, _ = map_shape
        x = ops.reshape(positions, map_shape)
        missing = [
            max(ratio - side, 0) if isinstance(side, int) else ops.maximum(ratio - side, 0) for side in (height, width)
        ]
        x = ops.pad(x, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)))
        # TensorFlow forgets how many channels there are where it pads by a tensor; LiteRT has to know
        x = ops.reshape(x, (batch, height + missing[0], width + missing[1], self.hidden_size))
        return self.layer_norm(ops.reshape(self.sequence_reduction(x), (-1, self.hidden_size)))

    def _split_heads(self, positions: Any, batch: Any) -> Any:
        """(B*N, C) -> (B, N, heads, C/heads)."""
        return ops.reshape(positions, (batch, -1, self.num_heads, self.hidden_size // self.num_heads))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "hidden_size": self.hidden_size,
            "num_heads": self.num_heads,
            "sequence_reduction": self.sequence_reduction_ratio,
            "dropout": self.dropout_rate,
            "epsilon": self.epsilon,
            "initializer_range": self.initializer_range,
        }
