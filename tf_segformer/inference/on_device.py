"""From 8-bit images to class maps on the device of Keras' backend: only these two cross the bus to a GPU."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from tf_segformer.imaging.postprocess import bilinear_neighbours
from tf_segformer.imaging.processor import SegformerImageProcessor
from tf_segformer.inference.forward import jax_function

_Size = tuple[int, int]

_BILINEAR = 2  # Pillow's number
_FRACTION_BITS = 22  # of Pillow's fixed-point weights
_KEPT_SIZES = 64  # sizes of images whose compiled functions are kept
_MAX_ELEMENTS = 2**28  # of the resized logits at once: 1 GB of float32


def class_map_function(
    model: Any, processor: SegformerImageProcessor, *, torch_compile: str | None = None
) -> Callable[[np.ndarray, _Size], tuple[np.ndarray, int]]:
    """Makes the function from images to class maps that runs on the device as a whole.

    Resizing, network and class map are compiled by themselves (XLA on JAX, a graph on TensorFlow), so that an image of
    another size does not compile the network again; what passes between them stays on the device.

    Args:
        model: Keras model from (B, H, W, C) float32 to logits (B, h, w, K), or to a dictionary with "logits".
        processor: How pixel values are made of images, one that `prepares` knows.
        torch_compile: On torch, the mode of `torch.compile`, such as "default" or "reduce-overhead"; None runs the
            operations one by one.

    Returns:
        A function `run(images, size)` from images (B, H, W, C) uint8, and the (height, width) at which the model sees
        them, to class maps (B, H, W) int32 and their number of classes: those of `imaging.postprocess`, but for pixels
        where two classes are equal up to rounding.

    Raises:
        ValueError: A processor that `prepares` does not know, or `torch_compile` on another backend; when called,
            a model that gives no logits for each pixel.

    Example:
        >>> model = keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(2, 4, strides=4)])
        >>> run = class_map_function(model, SegformerImageProcessor())
        >>> class_maps, num_classes = run(np.zeros((1, 90, 120, 3), np.uint8), (64, 64))
        >>> class_maps.shape, num_classes
        ((1, 90, 120), 2)
    """
    if not prepares(processor):
        raise ValueError("on the device images are resized with resample=2 (bilinear), their values of 8 bits scaled")
    if torch_compile is not None and keras.backend.backend() != "torch":
        raise ValueError(f"torch_compile={torch_compile!r} needs Keras' torch backend")
    scale, offset = _affine(processor, model.input_shape[-1])
    network = _network(model, torch_compile)

    @functools.lru_cache(_KEPT_SIZES)
    def prepare(size_in: _Size, size: _Size) -> Callable[[Any], Any]:
        resize = _resize_function(size_in, size)
        return _compiled(lambda images: ops.cast(resize(images), "float32") * scale + offset, torch_compile)

    @functools.lru_cache(_KEPT_SIZES)
    def classify(size_in: _Size, size: _Size) -> Callable[[Any], Any]:
        return _compiled(_classify_function(size_in, size), torch_compile)

    def run(images: np.ndarray, size: _Size) -> tuple[np.ndarray, int]:
        image_size = images.shape[1], images.shape[2]
        with _without_gradients():
            logits = network(prepare(image_size, size)(ops.convert_to_tensor(images)))
            if len(logits.shape) != 4:
                raise ValueError(f"the model gives an output of shape {logits.shape}, not logits (B, h, w, K)")
            class_maps = classify(tuple(logits.shape[1:3]), image_size)(logits)
        return ops.convert_to_numpy(class_maps).astype(np.int32), max(logits.shape[-1], 2)

    return run


def function_on_gpu(
    model: Any, processor: SegformerImageProcessor
) -> Callable[[np.ndarray, _Size], tuple[np.ndarray, int]] | None:
    """The `class_map_function` of a model where Keras' JAX or torch backend has a GPU that can run all of it.

    Args:
        model: A Keras model, or anything else, for which there is none.
        processor: Any processor.

    Returns:
        The function, or None.

    Example:
        >>> function_on_gpu("the folder of an exported model", SegformerImageProcessor()) is None
        True
    """
    if isinstance(model, keras.Model) and prepares(processor) and sees_gpu():
        return class_map_function(model, processor)
    return None


def prepares(processor: SegformerImageProcessor) -> bool:
    """Whether a device prepares images as a processor does: resized bilinearly, then scaled, all alike.

    Example:
        >>> prepares(SegformerImageProcessor()), prepares(SegformerImageProcessor(normalization="per_image"))
        (True, False)
    """
    return processor.resample == _BILINEAR and not processor.keeps_values


def sees_gpu() -> bool:
    """Whether Keras' JAX or torch backend computes on a GPU; never on another backend.

    Example:
        >>> sees_gpu()  # on TensorFlow
        False
    """
    if keras.backend.backend() == "jax":
        import jax

        return jax.default_backend() == "gpu"
    if keras.backend.backend() == "torch":
        import torch

        return torch.cuda.is_available()
    return False


def _network(model: Any, torch_compile: str | None) -> Callable[[Any], Any]:
    """The inference pass of a model, compiled; on JAX weights are arguments, or they would become constants."""

    def logits_of(outputs: Any) -> Any:
        return outputs["logits"] if isinstance(outputs, dict) else outputs

    if keras.backend.backend() == "jax":
        run = jax_function(model)
        return lambda pixel_values: logits_of(run(pixel_values))
    return _compiled(lambda pixel_values: logits_of(model(pixel_values, training=False)), torch_compile)


def _compiled(function: Callable[[Any], Any], torch_compile: str | None) -> Callable[[Any], Any]:
    """A function of a tensor, compiled for each shape."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.jit(function)
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.function(function, autograph=False)
    return function if torch_compile is None else _compiled_by_torch(function, torch_compile)


def _compiled_by_torch(function: Callable[[Any], Any], mode: str) -> Callable[[Any], Any]:
    """Through `torch.compile`, which gets the traced operations of torch alone: Keras' code would break the graph."""
    import torch
    from torch.fx.experimental.proxy_tensor import make_fx

    compiled: dict[tuple[int, ...], Callable[[Any], Any]] = {}

    def run(x: Any) -> Any:
        if tuple(x.shape) not in compiled:
            compiled[tuple(x.shape)] = torch.compile(make_fx(function)(x), mode=mode, dynamic=False, fullgraph=True)
        return compiled[tuple(x.shape)](x)

    return run


def _without_gradients() -> contextlib.AbstractContextManager[Any]:
    """Torch keeps what gradients need, unless it is switched off."""
    if keras.backend.backend() != "torch":
        return contextlib.nullcontext()
    import torch

    return torch.no_grad()


def _affine(processor: SegformerImageProcessor, channels: int) -> tuple[Any, Any]:
    """Scale and offset (C,) float32 of `rescale_and_normalize`, an affine function of each channel."""
    ends = np.repeat(np.array([[[0]], [[255]]], np.uint8), channels, axis=-1)  # (2, 1, C)
    first, last = processor.rescale_and_normalize(ends)[:, 0].astype(np.float64)
    return ops.convert_to_tensor((last - first) / 255, "float32"), ops.convert_to_tensor(first, "float32")


def _resize_function(size_in: _Size, size: _Size) -> Callable[[Any], Any]:
    """From images (B, H, W, C) uint8 to int32 ones of another size, with the values of Pillow."""
    fewer_rows, fewer_columns = (before - after for before, after in zip(size_in, size, strict=True))
    # As Pillow 13, which goes down first where the height shrinks by more than twice as many pixels as the width.
    order = (0, 1) if 0 < fewer_rows > 2 * fewer_columns else (1, 0)
    passes = [(axis + 1, *_taps(size_in[axis], size[axis])) for axis in order if size_in[axis] != size[axis]]

    def resize(images: Any) -> Any:
        x = ops.cast(images, "int32")
        for axis, taps, weights in passes:
            total = 1 << (_FRACTION_BITS - 1)  # a half, to round
            for tap, weight in zip(taps, weights, strict=True):
                total = total + ops.take(x, tap, axis=axis) * _along(axis, weight)
            x = ops.right_shift(total, _FRACTION_BITS)
        return x

    return resize


def _taps(size: int, target: int) -> tuple[list[Any], list[Any]]:
    """Source pixels and their fixed-point weights, (target,) int32 for each tap, as Pillow's Resample.c has them."""
    scale = size / target
    support = max(scale, 1.0)  # the filter grows with the step when an image shrinks: no aliasing
    center = (np.arange(target) + 0.5) * scale
    first = np.maximum((center - support + 0.5).astype(np.int32), 0)
    end = np.minimum((center + support + 0.5).astype(np.int32), size)
    taps = first[:, None] + np.arange((end - first).max(), dtype=np.int32)  # (target, taps)
    weights = np.maximum(1 - np.abs((taps - center[:, None] + 0.5) * (1 / support)), 0)
    weights = np.where(taps < end[:, None], weights, 0)
    weights /= np.cumsum(weights, axis=1)[:, -1:]  # summed from the left, as Pillow does
    fixed = (weights * (1 << _FRACTION_BITS) + 0.5).astype(np.int32)
    return [ops.convert_to_tensor(each) for each in np.minimum(taps, size - 1).T], [
        *map(ops.convert_to_tensor, fixed.T)
    ]


def _classify_function(size_in: _Size, size: _Size) -> Callable[[Any], Any]:
    """From logits (B, h, w, K) to class maps (B, H, W): bilinear resize and argmax, some rows at a time.

    By gathers, which are exact: products with small matrices may run in TensorFloat32 on a GPU.
    """
    (top, bottom, down), (left, right, across) = (
        [ops.convert_to_tensor(each) for each in bilinear_neighbours(before, after, np.float32)]
        for before, after in zip(size_in, size, strict=True)
    )

    def mix(x: Any, axis: int, low: Any, high: Any, weight: Any) -> Any:
        weight = _along(axis, weight)
        return ops.take(x, low, axis=axis) * (1 - weight) + ops.take(x, high, axis=axis) * weight

    def classify(logits: Any) -> Any:
        logits = ops.cast(logits, "float32")
        batch, classes = logits.shape[0], logits.shape[-1]
        step = max(1, _MAX_ELEMENTS // (batch * size[1] * classes))
        parts = []
        for start in range(0, size[0], step):
            rows = slice(start, start + step)
            x = mix(logits, 1, top[rows], bottom[rows], down[rows])  # (B, rows, w, K)
            x = mix(x, 2, left, right, across)  # (B, rows, W, K)
            class_map = x[..., 0] > 0 if classes == 1 else ops.argmax(x, axis=-1)
            parts.append(ops.cast(class_map, "uint8" if classes <= 256 else "int32"))  # as few bytes as may cross
        return ops.concatenate(parts, axis=1)

    return classify


def _along(axis: int, values: Any) -> Any:
    """Values (n,) along one axis of four."""
    return ops.reshape(values, [-1 if each == axis else 1 for each in range(4)])
