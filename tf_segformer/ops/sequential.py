"""Loops that run one iteration after the other, so that all of them share the memory of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops


def sequential_fold(function: Callable[[Any, Any], Any], start: int, stop: Any, carry: Any) -> Any:
    """Calls a function for each index with what the last call gave; with `keras.ops.fori_loop`, calls may overlap.

    Args:
        function: Takes an index and the carry, and returns the next carry.
        start: First index.
        stop: End of the indices, an int or a scalar tensor.
        carry: What the first call gets; a tensor.

    Returns:
        What the last call gave, or `carry` where there is none.

    Example:
        >>> int(sequential_fold(lambda index, total: total + index, 1, 4, ops.convert_to_tensor(0, "int32")))
        6
    """
    if isinstance(stop, int) and stop <= start:
        return carry
    if keras.backend.backend() != "tensorflow":
        return ops.fori_loop(start, stop, function, carry)
    import tensorflow as tf

    return tf.while_loop(
        lambda index, _: index < stop,
        lambda index, carry: (index + 1, function(index, carry)),
        (tf.constant(start), carry),
        parallel_iterations=1,
    )[1]


def sequential_map(
    function: Callable[..., tuple[Any, ...]], maps: Sequence[Any], dtypes: Sequence[str], at_once: int = 1
) -> tuple[Any, ...]:
    """Calls a function with each row of some tensors; `keras.ops.map` lets TensorFlow run ten calls at a time.

    Args:
        function: Takes a row of each tensor and returns a tuple of tensors.
        maps: Tensors of one length.
        dtypes: Types of the results.
        at_once: Calls that TensorFlow may run at the same time.

    Returns:
        The results, stacked.

    Example:
        >>> sequential_map(lambda row: (ops.sum(row),), [ops.ones((2, 3))], ["float32"])[0].shape[0]
        2
    """
    if keras.backend.backend() != "tensorflow":
        return ops.map(lambda rows: function(*rows), tuple(maps))
    import tensorflow as tf

    signature = tuple(tf.dtypes.as_dtype(dtype) for dtype in dtypes)
    return tf.map_fn(
        lambda rows: function(*rows), tuple(maps), fn_output_signature=signature, parallel_iterations=at_once
    )


def map_images(
    function: Callable[..., tuple[Any, ...]], batches: Sequence[Any], dtypes: Sequence[str]
) -> tuple[Any, ...]:
    """Calls a function with each image of a batch, one after the other; several devices with an image of theirs each.

    A loop over a batch that devices share would move all of it to each of them.

    Args:
        function: Takes an image of each batch and returns a tuple of tensors.
        batches: Tensors of one length, which devices of a `keras.distribution.DataParallel` divide evenly.
        dtypes: Types of the results.

    Returns:
        The results, stacked.

    Example:
        >>> map_images(lambda row: (ops.sum(row),), [ops.ones((2, 3))], ["float32"])[0].shape[0]
        2
    """
    distribution = keras.distribution.distribution()
    devices = 1 if distribution is None else distribution.num_model_replicas
    if devices == 1 or ops.shape(batches[0])[0] % devices:
        return sequential_map(function, batches, dtypes)

    def of_all_devices(images: tuple[Any, ...]) -> tuple[Any, ...]:
        return ops.vectorized_map(lambda image: function(*image), images)

    shared = [ops.reshape(each, (devices, -1, *ops.shape(each)[1:])) for each in batches]
    results = ops.map(of_all_devices, tuple(ops.swapaxes(each, 0, 1) for each in shared))
    return tuple(ops.reshape(ops.swapaxes(each, 0, 1), (-1, *ops.shape(each)[2:])) for each in results)


def run_after(earlier: Any, *tensors: Any) -> tuple[Any, ...]:
    """Holds tensors back until an earlier one is there, and the gradient by that one until those by these are.

    So TensorFlow runs one after the other what else it would run at the same time, with the memory of all; the other
    backends order their operations themselves.

    Args:
        earlier: A tensor.
        *tensors: What is computed from them comes after `earlier`.

    Returns:
        All of them, `earlier` first.

    Example:
        >>> [float(each) for each in run_after(ops.ones(()), ops.zeros(()))]
        [1.0, 0.0]
    """
    if keras.backend.backend() != "tensorflow":
        return earlier, *tensors
    import tensorflow as tf

    @tf.custom_gradient
    def hold(earlier: Any, *tensors: Any) -> Any:
        def gradient(upstream: Any, *others: Any) -> tuple[Any, ...]:
            with tf.control_dependencies(others):
                return (tf.identity(upstream), *others)

        with tf.control_dependencies([earlier]):
            return (earlier, *map(tf.identity, tensors)), gradient

    return hold(earlier, *tensors)
