"""Softmax attention whose memory does not grow with the square of the image, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tf_segformer.ops import tracing
from tf_segformer.ops.sequential import sequential_map

# Elements of the product of queries and keys that one image has at once: 16 MB of float32, as many as an image of
# 512x512 needs. Fewer are slower.
MAX_ELEMENTS = 2**22

_CHUNKS_AT_ONCE = 2  # share those elements: one chunk alone leaves a core idle now and then


def attention(query: Any, key: Any, value: Any, *, training: bool = False) -> Any:
    """softmax(Q K^T / sqrt(d)) V for each head.

    On a CPU, TensorFlow takes the queries chunk by chunk where the product of one image has more than `MAX_ELEMENTS`,
    which is exact, since the softmax of a query needs no other query; the gradient computes the product again.

    Args:
        query: (B, N, heads, d).
        key: (B, M, heads, d).
        value: (B, M, heads, d).
        training: Whether gradients follow.

    Returns:
        (B, N, heads, d).

    Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, equation 1.

    Example:
        >>> tokens = ops.ones((1, 6, 2, 4))
        >>> tuple(attention(tokens, tokens, tokens).shape)
        (1, 6, 2, 4)
    """
    if keras.backend.backend() != "tensorflow":  # these have fused kernels that never hold the whole product
        return ops.dot_product_attention(query, key, value)
    query, key, value = (_swap_heads(each) for each in (query, key, value))
    attend: Callable[..., Any] = _definition
    if not tracing.tuned_for_cpu():
        return _swap_heads(attend(query, key, value, training))
    if training:
        attend = _recomputed
    num_queries, num_keys = ops.shape(query)[2], ops.shape(key)[2]
    known = isinstance(num_queries, int) and isinstance(num_keys, int)
    elements_of_a_query = query.shape[1] * num_keys
    rows = MAX_ELEMENTS // elements_of_a_query
    largest = max if known else ops.maximum
    rows, chunk_rows = largest(rows, 1), largest(rows // _CHUNKS_AT_ONCE, 1)
    if not known and not tracing.runs_tensorflow_kernels():  # XLA compiles no loop in a branch with a gradient
        return _swap_heads(attend(query, key, value, training))
    choose = _choose_now if known else ops.cond
    context = choose(
        num_queries <= rows,
        lambda: attend(query, key, value, training),
        lambda: _in_chunks(lambda chunk: attend(chunk, key, value, training), query, chunk_rows),
    )
    return _swap_heads(context)


def attention_probabilities(query: Any, key: Any, *, training: bool = False) -> Any:
    """The softmax of attention, for those who need it whole: softmax(Q K^T / sqrt(d)).

    Args:
        query: (B, N, heads, d).
        key: (B, M, heads, d).
        training: Whether gradients follow.

    Returns:
        (B, heads, N, M).

    Example:
        >>> tokens = ops.ones((1, 4, 1, 8))
        >>> float(attention_probabilities(tokens, tokens)[0, 0, 0, 0])
        0.25
    """
    return _probabilities(_swap_heads(query), _swap_heads(key), training)


def attend(probabilities: Any, value: Any) -> Any:
    """The mean of the values under attention probabilities.

    Args:
        probabilities: (B, heads, N, M).
        value: (B, M, heads, d).

    Returns:
        (B, N, heads, d).

    Example:
        >>> float(attend(ops.ones((1, 1, 2, 4)) / 4, ops.ones((1, 4, 1, 8)))[0, 0, 0, 0])
        1.0
    """
    return _swap_heads(ops.matmul(probabilities, _swap_heads(value)))


def _definition(query: Any, key: Any, value: Any, training: bool) -> Any:
    """Queries (B, heads, N, d), keys and values (B, heads, M, d) -> (B, heads, N, d)."""
    return ops.matmul(_probabilities(query, key, training), value)


def _probabilities(query: Any, key: Any, training: bool) -> Any:
    """(B, heads, N, d), (B, heads, M, d) -> (B, heads, N, M).

    In float32 whatever the dtype; but bfloat16 for inference is left to TensorFlow's own kernel, which computes in
    float32 within and rounds once, and saves two passes over the product.
    """
    scale = query.shape[-1] ** -0.5
    product = ops.matmul(query, ops.transpose(key * scale, (0, 1, 3, 2)))
    if training or keras.backend.standardize_dtype(product.dtype) != "bfloat16":
        product = ops.cast(product, "float32")
    # Keras warns about a softmax over one key, as the smallest images have
    probabilities = ops.ones_like(product) if product.shape[-1] == 1 else ops.softmax(product)
    return ops.cast(probabilities, query.dtype)


def _recomputed(query: Any, key: Any, value: Any, training: bool) -> Any:
    """The definition, whose gradient keeps its inputs alone and computes the probabilities again."""
    import tensorflow as tf

    @tf.custom_gradient
    def context_of(query: Any, key: Any, value: Any) -> Any:
        def gradient(upstream: Any) -> tuple[Any, Any, Any]:
            # Without the wait TensorFlow would keep the probabilities until here, not to compute them twice
            with tf.control_dependencies([upstream]):
                recomputed = tf.identity(query)
            scaled = key * key.shape[-1] ** -0.5
            p = tf.nn.softmax(tf.cast(tf.matmul(recomputed, scaled, transpose_b=True), tf.float32))
            dvalue = tf.matmul(tf.cast(p, value.dtype), upstream, transpose_a=True)
            dp = tf.cast(tf.matmul(upstream, value, transpose_b=True), tf.float32)
            dproduct = tf.cast(p * (dp - tf.reduce_sum(p * dp, axis=-1, keepdims=True)), query.dtype)
            dquery = tf.matmul(dproduct, scaled)
            dkey = tf.matmul(dproduct, recomputed * key.shape[-1] ** -0.5, transpose_a=True)
            return dquery, dkey, dvalue

        return _definition(query, key, value, training=True), gradient

    return context_of(query, key, value)


def _in_chunks(attend: Callable[[Any], Any], query: Any, rows: Any) -> Any:
    """Attention of `rows` queries at a time; query (B, heads, N, d)."""
    batch, heads, num_queries, width = ops.shape(query)
    chunks = (num_queries + rows - 1) // rows
    query = ops.pad(query, ((0, 0), (0, 0), (0, chunks * rows - num_queries), (0, 0)))
    query = ops.reshape(query, (batch, heads, chunks, rows, width))
    query = ops.transpose(query, (2, 0, 1, 3, 4))  # (chunks, B, heads, rows, d)
    (context,) = sequential_map(lambda chunk: (attend(chunk),), [query], [query.dtype], _CHUNKS_AT_ONCE)
    context = ops.reshape(ops.transpose(context, (1, 2, 0, 3, 4)), (batch, heads, chunks * rows, width))
    return context[:, :, :num_queries]


def _swap_heads(x: Any) -> Any:
    """(B, N, heads, d) to (B, heads, N, d) and back; nothing moves where there is one head."""
    for here, there in ((1, 2), (2, 1)):
        if x.shape[here] == 1:
            return ops.expand_dims(ops.squeeze(x, here), there)  # of a reshape, tf2onnx takes the wrong batch
    return ops.transpose(x, (0, 2, 1, 3))


def _choose_now(condition: bool, if_true: Callable[[], Any], if_false: Callable[[], Any]) -> Any:
    """`ops.cond` for a condition that is known when the graph is traced."""
    return if_true() if condition else if_false()
