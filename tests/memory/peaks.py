"""Measures in a process of its own how much memory a computation takes at its peak, and how much its plain form takes.

python tests/memory/peaks.py attention_in_chunks    # prints {"ours": bytes, "plain": bytes}
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"  # its allocator keeps what a first run took, which hides that of the second
os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[2]))

import keras
import numpy as np
import tensorflow as tf

from tf_segformer import (
    SegformerConfig,
    SegformerDecodeHead,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    losses,
)
from tf_segformer.data.examples import LabelledImage
from tf_segformer.imaging import postprocess
from tf_segformer.inference import windows
from tf_segformer.ops import attention, chunked_head, tracing

Run = Callable[[], object]
UNBOUNDED = 2**50


def status(field: str) -> int:
    """A field of /proc/self/status in bytes."""
    return 1024 * int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def peak_of(run: Run) -> int:
    """The bytes that `run` adds to the process at its peak; a first run has traced and allocated what stays.

    The median of several runs, since TensorFlow orders its operations anew in each.
    """
    run()
    peaks = []
    for _ in range(3):
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, see proc(5)
        before = status("VmRSS")
        run()
        peaks.append(status("VmHWM") - before)
    return statistics.median(peaks)


def with_value(module: object, name: str, value: object, make: Callable[[], Run]) -> Run:
    """What `make` gives, traced and run while a name of a module has another value."""
    run: list[Run] = []

    def changed() -> object:
        before = getattr(module, name)
        setattr(module, name, value)
        try:
            run[:] = run or [make()]
            return run[0]()
        finally:
            setattr(module, name, before)

    return changed


def gradient_of(function: Callable, *inputs: tf.Tensor) -> Run:
    """Traces the sum of a function and its gradients by the inputs and all variables."""

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            result = tf.reduce_sum(function(*inputs))
        variables = tape.watched_variables()
        return [tf.reduce_sum(each) for each in tape.gradient(result, [*inputs, *variables]) if each is not None]

    return step


def attention_in_chunks() -> tuple[Run, Run]:
    tokens = tf.random.normal((1, 6144, 1, 16))

    def make() -> Run:
        return tf.function(lambda: attention.attention(tokens, tokens, tokens))

    return make(), with_value(attention, "MAX_ELEMENTS", UNBOUNDED, make)


def attention_gradient() -> tuple[Run, Run]:
    tokens = tf.random.normal((1, 6144, 1, 16))

    def make() -> Run:
        return gradient_of(lambda x: attention.attention(x, x, x, training=True), tokens)

    return make(), with_value(tracing, "tuned_for_cpu", lambda: False, make)


def head_in_chunks() -> tuple[Run, Run]:
    maps = [tf.random.normal((1, 224 // 2**stage, 224 // 2**stage, 8)) for stage in range(4)]
    head = SegformerDecodeHead(num_labels=5, hidden_size=768)
    head(maps)

    def make() -> Run:
        return tf.function(lambda: head(maps))

    return make(), with_value(chunked_head, "MAX_HIDDEN", UNBOUNDED, make)


def class_map() -> tuple[Run, Run]:
    logits = np.random.default_rng(0).standard_normal((1, 128, 128, 64), np.float32)

    def whole() -> object:
        return tf.image.resize(logits, (1536, 1536)).numpy().argmax(-1)

    return lambda: postprocess.class_map_from_logits(logits[0], (1536, 1536)), whole


def loss_in_chunks() -> tuple[Run, Run]:
    logits = tf.random.normal((8, 96, 96, 100))
    labels = tf.random.uniform((8, 384, 384), maxval=100, dtype=tf.int32)
    loss = losses.SegmentationLoss()

    def plain(logits: tf.Tensor) -> tf.Tensor:
        resized = tf.image.resize(logits, (384, 384))
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, resized)

    return gradient_of(lambda x: loss(labels, x), logits), gradient_of(plain, logits)


def large_image() -> tuple[Run, Run]:
    """Windows below one another: what was read of the upper one is freed before the lower one is computed."""
    windows.CHUNK_BYTES = 2**22  # so that the windows' own logits are what counts

    def predict(boxes: list) -> list[np.ndarray]:
        return [np.ones((height // 4, width // 4, 400), np.float32) for _, _, height, width in boxes]

    def class_map() -> object:
        logits = windows.SlidingWindowLogits((1500, 768), (768, 768), (732, 768), predict)
        return windows.class_map_from_views([(logits, False)])

    return class_map, with_value(windows.ResizedLogits, "free_before", lambda self, row: None, lambda: class_map)


def _training_step(**options: bool) -> Run:
    config = SegformerConfig(
        hidden_sizes=(32, 64, 96, 128), num_attention_heads=(1, 2, 3, 4), depths=(4, 1, 1, 1), decoder_hidden_size=256
    )
    model = SegformerForSemanticSegmentation(config, **options)
    images, labels = tf.random.normal((2, 384, 384, 3)), tf.zeros((2, 384, 384), tf.int32)
    loss = losses.SegmentationLoss()
    return gradient_of(lambda x: loss(labels, model(x, training=True)), images)


def training_step() -> tuple[Run, Run]:
    return _training_step(), with_value(tracing, "tuned_for_cpu", lambda: False, _training_step)


def rematerialized_training_step() -> tuple[Run, Run]:
    return _training_step(rematerialize=True), _training_step()


def validation_of_a_large_image() -> tuple[Run, Run]:
    from PIL import Image

    from tf_segformer.training import validation

    validation.MOST_PIXELS, validation._WINDOW, validation._STRIDE = 256 * 256, 256, 192
    windows.CHUNK_BYTES = 2**22  # so that the network is what counts
    side = 1024
    config = SegformerConfig(depths=(1, 1, 1, 1), num_labels=4)
    model = SegformerForSemanticSegmentation(config)
    model.compile(loss=losses.SegmentationLoss())
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8))
    labels = np.zeros((side, side), np.int32)
    example = LabelledImage("a", "a", lambda: image, lambda: labels, lambda: image)

    class Dataset(list):
        size, num_labels = 1, 4

    validate = validation.Validation(model, Dataset([example]), SegformerImageProcessor(do_resize=False))
    return validate, with_value(validation, "MOST_PIXELS", UNBOUNDED, lambda: validate)


# A claim about memory, and the most that our form may take of what the plain form takes.
CLAIMS = {
    attention_in_chunks: 0.5,
    attention_gradient: 0.5,
    head_in_chunks: 0.6,
    class_map: 0.5,
    large_image: 0.7,
    loss_in_chunks: 0.6,
    training_step: 0.8,
    rematerialized_training_step: 0.9,
    validation_of_a_large_image: 0.5,
}

if __name__ == "__main__":
    keras.utils.set_random_seed(0)
    claim = next(each for each in CLAIMS if each.__name__ == sys.argv[1])
    ours, plain = map(peak_of, claim())
    print(json.dumps({"ours": ours, "plain": plain, "bound": CLAIMS[claim]}))
