"""The devices that a run trains on: several GPUs of one machine by `tf.distribute`, else the backend's own choice."""

from __future__ import annotations

import contextlib
from typing import Any

import keras

from tf_segformer.errors import SegformerError


def device_scope(devices: int | None = None) -> contextlib.AbstractContextManager[Any]:
    """The scope within which a model must be built and compiled to train on several GPUs.

    Args:
        devices: Number of GPUs; None for all that TensorFlow sees. For JAX see `distributed.data_parallel`.

    Returns:
        A context manager that gives the number of devices.

    Raises:
        SegformerError: There are not so many GPUs, or the backend is torch.

    Example:
        >>> with device_scope(1) as count:
        ...     count
        1
    """
    if keras.backend.backend() != "tensorflow":
        if devices not in (None, 1) and keras.backend.backend() != "jax":
            raise SegformerError(f"devices={devices}: several devices need the backend TensorFlow or JAX")
        _keep_tensorflow_off_gpus()
        return contextlib.nullcontext(1)
    import tensorflow as tf

    gpus = [f"GPU:{index}" for index in range(len(tf.config.list_logical_devices("GPU")))]
    if devices is not None and devices > max(len(gpus), 1):
        raise SegformerError(f"devices={devices}: TensorFlow sees {len(gpus)} GPUs on this machine")
    chosen = gpus[:devices]
    return _mirrored(chosen) if len(chosen) > 1 else contextlib.nullcontext(1)


def _keep_tensorflow_off_gpus() -> None:
    """TensorFlow, which prepares the images alone here, would take the memory of the GPUs."""
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):  # it was used before, and has taken what it takes
        tf.config.set_visible_devices([], "GPU")


@contextlib.contextmanager
def _mirrored(devices: list[str]) -> Any:
    """The scope of a MirroredStrategy."""
    import tensorflow as tf

    with tf.distribute.MirroredStrategy(devices).scope():
        yield len(devices)


def synchronize_batch_norm(model: keras.Model) -> None:
    """Lets the decode head's batch norms take their moments over all devices, as the authors trained.

    Args:
        model: Segmentation model, built in the scope of several devices, not traced yet.

    Example:
        >>> synchronize_batch_norm(model)
        >>> model.decode_head.batch_norm.synchronized
        True
    """
    for layer in keras.tree.flatten(list(vars(model.decode_head).values())):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True
