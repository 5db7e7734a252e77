"""The functions that an exported model answers to: encoded images, decoded images, or pixel values in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tf_segformer.deploy.formats import MAX_SERVED_PIXELS
from tf_segformer.imaging.graph.class_map import class_map_from_logits, encode_png, with_background
from tf_segformer.imaging.graph.decode import OK, safe_decode_image
from tf_segformer.imaging.graph.preprocess import preprocess
from tf_segformer.imaging.processor import SegformerImageProcessor

_PARALLEL_IMAGES = 4  # decoded at once: a bound on memory

Outputs = dict[str, tf.Tensor]
Signature = Callable[..., Any]  # a tf.function


@dataclass(frozen=True)
class Pipeline:
    """What surrounds the network in a graph.

    Args:
        network: Pixel values (B, H, W, C) float32 to logits.
        processor: Prepares images; must resize.
        labels: Class names in order.
        max_pixels: Largest image that is decoded.
    """

    network: Callable[[tf.Tensor], tf.Tensor]
    processor: SegformerImageProcessor
    labels: tuple[str, ...]
    max_pixels: int = MAX_SERVED_PIXELS

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width that images are resized to."""
        size: Any = self.processor.size  # the processor has made it a dictionary
        return size["height"], size["width"]

    def logits_of(self, image_bytes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Decodes, prepares and runs a batch; invalid images cost no inference.

        Args:
            image_bytes: (B,) strings.

        Returns:
            Logits (B, ...), zero where an image is invalid; sizes (B, 2) int32; statuses (B,) strings.
        """
        height, width = self.input_size

        def prepare(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            image, status = safe_decode_image(encoded, self.max_pixels)
            pixel_values = tf.cond(
                status == OK,
                lambda: preprocess(image, self.processor),
                lambda: tf.zeros([height, width, 3]),
            )
            return pixel_values, tf.shape(image)[:2], status

        pixel_values, sizes, statuses = tf.map_fn(
            prepare,
            image_bytes,
            fn_output_signature=(
                tf.TensorSpec([height, width, 3], tf.float32),
                tf.TensorSpec([2], tf.int32),
                tf.TensorSpec([], tf.string),
            ),
            parallel_iterations=_PARALLEL_IMAGES,
        )
        good = tf.where(statuses == OK)  # (N, 1)
        count = tf.shape(good, tf.int64)[0]
        # TensorFlow's layer norm fails on a batch of none, so that one tiny image stands in for it.
        batch = tf.cond(count > 0, lambda: tf.gather_nd(pixel_values, good), lambda: tf.zeros([1, 32, 32, 3]))
        logits = self.network(batch)[:count]
        shape = tf.concat([tf.shape(image_bytes, tf.int64), tf.shape(logits, tf.int64)[1:]], axis=0)
        logits = tf.ensure_shape(tf.scatter_nd(good, logits, shape), logits.shape)
        return logits, sizes, statuses


def segmentation_signatures(pipeline: Pipeline, palette: np.ndarray) -> dict[str, Signature]:
    """The signatures of a semantic segmentation model; `export_saved_model` describes them.

    Args:
        pipeline: The network and what surrounds it.
        palette: Colors of the classes (K, 3), uint8.

    Returns:
        Functions by signature name, the first argument's name being the input's.
    """
    logits_of = _of_bytes(pipeline.logits_of)
    labels = tf.constant(pipeline.labels)
    colors = tf.constant(palette, tf.uint8)

    def segment(image_bytes: tf.Tensor) -> Outputs:
        logits, sizes, statuses = logits_of(image_bytes)
        class_maps, fractions = tf.map_fn(
            lambda one: _encoded_class_map(*one),
            (logits, sizes, statuses),
            fn_output_signature=(tf.TensorSpec([], tf.string), tf.TensorSpec([len(pipeline.labels)], tf.float32)),
            parallel_iterations=_PARALLEL_IMAGES,
        )
        batch = tf.shape(image_bytes)  # every output has one row per image, so that servers can merge and split batches
        return {
            "class_map_bytes": class_maps,
            "class_fractions": fractions,
            "status": statuses,
            "labels": tf.broadcast_to(labels, tf.concat([batch, tf.shape(labels)], axis=0)),
            "colors": tf.broadcast_to(colors, tf.concat([batch, tf.shape(colors)], axis=0)),
        }

    class_map = array_signature(pipeline.network, pipeline.processor, 3)
    return {**_bytes_signatures(segment, logits_of), "class_map": class_map}


def array_signature(
    network: Callable[[tf.Tensor], tf.Tensor], processor: SegformerImageProcessor, num_channels: int
) -> Signature:
    """The signature from images of one size to class maps, prepared as the processor does.

    Args:
        network: Pixel values (B, H, W, C) float32 to logits.
        processor: Prepares images; may keep their size.
        num_channels: C.

    Returns:
        The function; its images are of the processor's `value_type`, without one uint8, or float32 where it takes more.

    Raises:
        ValueError: The processor is for other bands.
    """
    height, width = processor.target_size if processor.do_resize else (None, None)

    def class_map(images: tf.Tensor) -> Outputs:
        size = tf.shape(images)[1:3]
        pixel_values = tf.map_fn(
            lambda image: preprocess(image, processor),
            images,
            fn_output_signature=tf.TensorSpec([height, width, num_channels], tf.float32),
        )
        class_maps = tf.map_fn(
            lambda logits: class_map_from_logits(logits, size),
            network(pixel_values),
            fn_output_signature=tf.TensorSpec([None, None], tf.int32),
        )
        return {"class_map": class_maps}

    dtype = processor.value_type or ("float32" if processor.keeps_values else "uint8")
    return _graph(class_map, tf.TensorSpec([None, None, None, num_channels], dtype, name="images"))


def classification_signatures(pipeline: Pipeline, top_k: int) -> dict[str, Signature]:
    """The signatures of an image classification model; `export_saved_model` describes them.

    Args:
        pipeline: The network and what surrounds it.
        top_k: How many classes are given, the most probable first; at most all.

    Returns:
        Functions by signature name, the first argument's name being the input's.
    """
    logits_of = _of_bytes(pipeline.logits_of)
    labels = tf.constant(pipeline.labels)

    def classify(image_bytes: tf.Tensor) -> Outputs:
        logits, _, statuses = logits_of(image_bytes)
        probabilities = tf.nn.softmax(with_background(logits))
        probabilities, indices = tf.math.top_k(probabilities, min(top_k, len(pipeline.labels)))  # (B, k)
        good = (statuses == OK)[:, None]
        return {
            "labels": tf.where(good, tf.gather(labels, indices), ""),
            "indices": tf.where(good, indices, -1),
            "probabilities": tf.where(good, probabilities, 0),
            "status": statuses,
        }

    functions = _bytes_signatures(classify, logits_of)
    return {**functions, "classify": functions["serving_default"]}


def tensor_signature(network: Callable[[tf.Tensor], tf.Tensor], num_channels: int) -> Signature:
    """The signature from pixel values to logits.

    Args:
        network: Pixel values (B, H, W, C) float32 to logits.
        num_channels: C.

    Returns:
        The function.
    """
    pixel_values = tf.TensorSpec([None, None, None, num_channels], tf.float32, name="pixel_values")
    return _graph(lambda pixel_values: {"logits": network(pixel_values)}, pixel_values)


def _of_bytes(function: Callable[[tf.Tensor], Any]) -> Signature:
    """A graph that takes encoded images."""
    return _graph(function, tf.TensorSpec([None], tf.string, name="image_bytes"))


def _graph(function: Callable[[tf.Tensor], Any], argument: tf.TensorSpec) -> Signature:
    """A graph of one argument, traced once however many others call it."""
    return tf.function(function, input_signature=[argument], autograph=False)


def _bytes_signatures(answer: Callable[[tf.Tensor], Outputs], logits_of: Signature) -> dict[str, Signature]:
    """The signatures that take encoded images."""
    default = _of_bytes(answer)

    def answer_or_fail(image_bytes: tf.Tensor) -> Outputs:
        outputs = default(image_bytes)
        all_good = tf.debugging.Assert(
            tf.reduce_all(outputs["status"] == OK), [tf.strings.reduce_join(outputs["status"], separator="; ")]
        )
        with tf.control_dependencies([all_good]):
            return {name: tf.identity(output) for name, output in outputs.items()}

    def raw(image_bytes: tf.Tensor) -> Outputs:
        logits, sizes, statuses = logits_of(image_bytes)
        return {"logits": logits, "sizes": sizes, "status": statuses}

    return {"serving_default": default, "serving_strict": _of_bytes(answer_or_fail), "logits": _of_bytes(raw)}


def _encoded_class_map(logits: tf.Tensor, size: tf.Tensor, status: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Class map as PNG bytes, and the fraction of each class; empty and zero for an invalid image."""
    num_labels = max(logits.shape[-1], 2)  # a single logit decides between two classes

    def encode() -> tuple[tf.Tensor, tf.Tensor]:
        class_map = class_map_from_logits(logits, size)
        counts = tf.math.bincount(class_map, minlength=num_labels, maxlength=num_labels)
        fractions = tf.cast(counts / tf.size(class_map), tf.float32)
        return encode_png(class_map), tf.ensure_shape(fractions, [num_labels])

    return tf.cond(status == OK, encode, lambda: (tf.constant(""), tf.zeros([num_labels])))
