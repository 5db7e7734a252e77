"""What the processes and devices that train one model together on the JAX backend do as one, and what they exchange.

Every process holds the whole model and computes its part of each batch. JAX compiles one program for all of them, so
losses, batch norms and random numbers are those of the whole batch, however many processes there are.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from tf_segformer.errors import SegformerError

_CONNECTION_ERRORS = ("Gloo", "NCCL", "coordination service", "CoordinationService")


def count_processes() -> int:
    """How many processes train together; 1 where none were started."""
    return int(_jax().process_count()) if _started() else 1


def process_index() -> int:
    """The number of this process; process 0 alone writes."""
    return int(_jax().process_index()) if _started() else 0


def count_devices() -> int:
    """How many devices share a batch: those of Keras' current distribution."""
    distribution = keras.distribution.distribution()
    return 1 if distribution is None else distribution.num_model_replicas


@contextlib.contextmanager
def data_parallel(devices: int | None = None) -> Iterator[int]:
    """Within it, models are built and trained on all devices of all processes, on the JAX backend.

    Args:
        devices: Number of devices, in one process; None for all.

    Raises:
        SegformerError: There are not so many devices, or several processes share them.

    Example:
        >>> with data_parallel() as count:
        ...     count
        1
    """
    if keras.backend.backend() != "jax" or keras.distribution.distribution() is not None:
        yield count_devices()
        return
    found = keras.distribution.list_devices()
    if devices is not None and (count_processes() > 1 or devices > len(found)):
        raise SegformerError(
            f"devices={devices}: JAX sees {len(found)} in {count_processes()} processes; several processes use all "
            "that they see, which CUDA_VISIBLE_DEVICES decides"
        )
    chosen = found[:devices]
    if len(chosen) == 1:
        yield 1
        return
    with keras.distribution.DataParallel(devices=chosen, auto_shard_dataset=False).scope():
        yield len(chosen)


def check_distribution(model: keras.Model, batch_sizes: Sequence[int]) -> None:
    """Makes sure that all devices have the model, and an equal part of each batch.

    Args:
        model: Built.
        batch_sizes: Images per batch over all devices.

    Raises:
        SegformerError: They have not.

    Example:
        >>> check_distribution(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]), [3])
    """
    devices = count_devices()
    for size in batch_sizes:
        if size % devices:
            raise SegformerError(
                f"{devices} devices do not share a batch of {size} images evenly: choose another batch size "
                "(--batch-size) or number of devices"
            )
    if devices > 1 and len(model.variables[0].value.sharding.device_set) != devices:
        raise SegformerError(
            "the model was built before the devices were shared: build it within distributed.data_parallel(), or give "
            "train() a checkpoint"
        )


def check_precision(precision: str) -> None:
    """Rejects float16 where JAX computes on a CPU: XLA has no product of float16 there that adds up in float32."""
    if precision == "float16" and keras.backend.backend() == "jax" and _jax().default_backend() == "cpu":
        raise SegformerError("JAX does not train in float16 on a CPU: take bfloat16 (--precision bfloat16)")


@contextlib.contextmanager
def on_this_process_alone() -> Iterator[None]:
    """Within it, Keras computes without the other processes and devices."""
    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(distribution)


def on_first_process(function: Callable[[], Any]) -> Any:
    """Calls a function on process 0 and gives all processes its result, or an error where it raised one.

    Args:
        function: Returns what JSON can express.

    Returns:
        Its result.

    Example:
        >>> on_first_process(lambda: [1, 2])
        [1, 2]
    """
    if count_processes() == 1:
        return function()
    answer: dict[str, Any] = {}
    error: Exception | None = None
    if process_index() == 0:
        try:
            answer = {"result": function()}
        except Exception as raised:
            error, answer = raised, {"error": str(raised)}
    text = np.frombuffer(json.dumps(answer).encode(), np.uint8)
    size = int(broadcast(np.array([text.size]))[0])
    answer = json.loads(broadcast(text if process_index() == 0 else np.zeros(size, np.uint8)).tobytes())
    if error is not None:
        raise error
    if "error" in answer:
        raise SegformerError(f"process 0: {answer['error']}")
    return answer["result"]


def broadcast(array: np.ndarray) -> np.ndarray:
    """The array of process 0, bit by bit; those of the others give shape and type alone."""
    if count_processes() == 1:
        return array
    from jax.experimental import multihost_utils

    array = np.ascontiguousarray(array)
    sent = multihost_utils.broadcast_one_to_all(array.reshape(-1).view(np.uint8))  # JAX would cut 64 bits to 32
    return np.asarray(sent, np.uint8).view(array.dtype).reshape(array.shape)


def gather(array: np.ndarray) -> np.ndarray:
    """The arrays of all processes, bit by bit, stacked in the order of their numbers; all have one shape."""
    if count_processes() == 1:
        return array[None]
    from jax.experimental import multihost_utils

    received = multihost_utils.process_allgather(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return np.asarray(received, np.uint8).view(array.dtype).reshape(count_processes(), *array.shape)


def assign_from_first_process(variables: list[Any], values: list[np.ndarray]) -> None:
    """Assigns the values of process 0 to the variables of all; those of the others give shapes and types alone."""
    if count_processes() > 1:
        joined = broadcast(np.concatenate([np.ascontiguousarray(value).reshape(-1).view(np.uint8) for value in values]))
        ends = np.cumsum([value.nbytes for value in values])[:-1]
        parts = zip(np.split(joined, ends), values, strict=True)
        values = [_replicated(part.view(value.dtype).reshape(value.shape)) for part, value in parts]
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _replicated(value: np.ndarray) -> Any:
    """An array on all devices; Keras' own way sends every value to every process, to compare them."""
    distribution = keras.distribution.distribution()
    mesh, jax = distribution.device_mesh.backend_mesh, _jax()
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return jax.make_array_from_process_local_data(sharding, value, value.shape)


def is_to_stop(step: int) -> bool:
    """Whether some process got SIGTERM and all are to stop after this step; to be asked by all, at every step."""
    if count_processes() == 1:
        return False
    from jax.experimental import multihost_utils

    return bool(multihost_utils.reached_preemption_sync_point(step))


@contextlib.contextmanager
def lost_processes_named() -> Iterator[None]:
    """Within it, the errors of a broken connection become one that says that another process ended."""
    try:
        yield
    except Exception as error:
        if count_processes() == 1 or not any(words in str(error) for words in _CONNECTION_ERRORS):
            raise
        raise SegformerError(
            f"process {process_index()}: another process of this run ended or cannot be reached; its own output says "
            f"why. Start all of them again with --resume. ({str(error).splitlines()[0][:200]})"
        ) from error


@contextlib.contextmanager
def failing_together(unless: type[Exception]) -> Iterator[None]:
    """Ends this process at once on an error, so that the others notice; else it would wait for them to finish.

    Args:
        unless: An error that all processes raise together.
    """
    try:
        yield
    except unless:
        raise
    except Exception as error:
        if count_processes() == 1:
            raise
        if not isinstance(error, (SegformerError, OSError)):
            traceback.print_exc()
        print(f"tf-segformer: {error}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(2)


def _jax() -> Any:
    import jax

    return jax


def _started() -> bool:
    """Whether this process is one of several."""
    return keras.backend.backend() == "jax" and bool(_jax().distributed.is_initialized())
