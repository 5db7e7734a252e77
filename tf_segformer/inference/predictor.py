"""SegmentationPredictor: images of any kind and number in, one class map each out."""

from __future__ import annotations

import copy
import functools
import itertools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tf_segformer.imaging import transforms
from tf_segformer.imaging.labels import checkpoint_palette, names_or_numbers
from tf_segformer.imaging.postprocess import class_map_and_confidence, class_map_from_logits, with_background
from tf_segformer.imaging.processor import CONFIG_NAME, SegformerImageProcessor
from tf_segformer.inference.engines import Engine, open_engine
from tf_segformer.inference.images import ON_ERROR, InputImage, as_images, read_images
from tf_segformer.inference.results import Failure, Results, SegmentationResult
from tf_segformer.inference.threads import map_in_threads
from tf_segformer.inference.windows import (
    BLENDS,
    TOTAL_STRIDE,
    ArrayLogits,
    LogitSource,
    ResizedLogits,
    SlidingWindowLogits,
    check_windows,
    class_map_from_views,
)

MODES = ("resize", "whole", "slide", "multiscale")
DEFAULT_SCALES = (0.75, 1.0, 1.25)  # the paper's for ADE20K

_MAX_PIXELS_IN_THREADS = 2**20  # of what the network sees: each thread has activations of its own

_Size = tuple[int, int]
Box = tuple[int, int, int, int]  # (top, left, height, width) of a window


class SegmentationPredictor:
    """Segments images of any size with a Keras model or an exported one, and an image processor.

    Modes:
        "resize": the image is resized as the processor says, the logits to the image.
        "whole": the image keeps its size, but for both sides being rounded up to a multiple of 32 (by resizing).
        "slide": windows of the image at its own size; the logits of each are resized to the window, then blended where
            windows overlap. The last windows are shifted inside. With blend="cosine" all begin at multiples of the
            encoder's 32 pixels: strides are rounded down to them, and the last windows are up to 31 pixels larger.
        "multiscale": "whole" at several scales; the mean of the softmax probabilities. With `window`, each scale is
            seen through windows as in "slide".
    Logits are resized bilinearly (half-pixel centres), a chunk of rows at a time: memory stays bounded for any image.

    Args:
        model: Keras model from (B, H, W, C) float32 to (B, h, w, K) logits, or to a dictionary with "logits"; or the
            folder (or file) of an exported model, or an engine, as `open_engine` takes them. Where K is 1, class 1 is
            where the sigmoid of the logit is above 0.5, and class 0 the background.
        processor: Prepares the images; by default that of the exported folder.
        mode: One of the modes above.
        window: Side of the windows or (height, width), in pixels; by default the processor's size.
        stride: Step between windows or (vertical, horizontal), at most the window; by default 3/4 of it.
        blend: How overlapping windows are averaged: "mean" counts them alike (mmsegmentation), "cosine" by weights
            that fall towards the window's border, where a network sees least (no seams; for rasters).
        scales: Scales of "multiscale", relative to the image; by default 0.75, 1 and 1.25.
        flip: Average the probabilities with those of the flipped image; by default in "multiscale" only.
        batch_size: Neighbouring images of equal size, or windows of one, that go through the model at once.
        labels: Class names by index; by default those of `model.config`, or "class 0", "class 1" and so on.
        return_confidence: Whether results carry the probability of the predicted class.
        return_logits: Whether results carry the model's logits ("resize" and "whole" without flip).
        progress: Whether to show a progress bar; by default for several images on a terminal.

    Raises:
        ValueError: For an unknown mode, an option out of range or of another mode, or a missing processor.
        CheckpointError: For a folder without an exported model.
        ImportError: For an exported model of which no engine is installed.

    Source: Xie et al. 2021, section 4.1 (sliding window on Cityscapes); the rules of mmsegmentation's test code.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(2, 4, strides=4)])
        >>> predictor = SegmentationPredictor(model, SegformerImageProcessor(size=64))
        >>> [result.class_map.shape for result in predictor([np.zeros((90, 120, 3), np.uint8)])]
        [(90, 120)]
    """

    def __init__(
        self,
        model: Any,
        processor: SegformerImageProcessor | None = None,
        mode: str = "resize",
        *,
        window: int | _Size | None = None,
        stride: int | _Size | None = None,
        blend: str | None = None,
        scales: Sequence[float] | None = None,
        flip: bool | None = None,
        batch_size: int = 1,
        labels: dict[int, str] | None = None,
        return_confidence: bool = False,
        return_logits: bool = False,
        progress: bool | None = None,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"mode={mode!r} is unknown: choose one of {', '.join(MODES)}")
        engine = open_engine(model)
        processor = _processor_of(engine) if processor is None else processor
        if not isinstance(processor, SegformerImageProcessor):
            raise TypeError(f"processor must be a SegformerImageProcessor, but is a {type(processor).__name__}")
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1")
        self.model = model
        self.engine = engine
        self.processor = processor
        self.mode = mode
        self.flip = mode == "multiscale" if flip is None else flip
        self.batch_size = batch_size
        self.labels = labels
        self.return_confidence = return_confidence
        self.return_logits = return_logits
        self.progress = progress
        self.scales = _check_scales(scales, mode)
        self.window, self.stride = check_windows(window, stride, mode, processor.target_size)
        if blend is not None and (blend not in BLENDS or self.window is None):
            raise ValueError(f"blend={blend!r} must be one of {', '.join(BLENDS)}, and needs mode='slide' or a window")
        self.blend = blend or "mean"
        self._averages = self.flip or mode in ("slide", "multiscale")
        if return_logits and self._averages:
            raise ValueError("return_logits needs mode 'resize' or 'whole' without flip: others average many logits")

    def __call__(self, images: Any, on_error: str = "raise") -> Results[SegmentationResult]:
        """Segments one image or many.

        Args:
            images: One or an iterable (a generator, too) of: path, encoded bytes, Pillow image, array or tensor
                (H, W), (H, W, C) or (C, H, W). An array with four axes is a batch.
            on_error: "raise" stops at an image that cannot be read; "skip" goes on and keeps it in `failures`.

        Returns:
            An iterator over one `SegmentationResult` for each readable image, in order. Images are read and
            segmented as the results are asked for, so that errors arise then too. Of a list, some more may be: an
            engine that takes several at once is then given them (OpenVINO, in mode "resize").

        Raises:
            ValueError: For an unknown `on_error`; while iterating, for an array that is no image.
            ImageError: While iterating, for a file that cannot be read.
        """
        if on_error not in ON_ERROR:
            raise ValueError(f"on_error={on_error!r} must be 'raise' or 'skip'")
        images = as_images(images)
        total = len(images) if hasattr(images, "__len__") else None
        failures: list[Failure] = []
        opened = read_images(images, self.engine.num_channels, self.processor, on_error, failures)
        results = (self._segment_in_threads if self._gains_by_threads(total) else self._segment)(opened)
        if self.progress or (self.progress is None and total != 1 and sys.stderr.isatty()):
            results = _with_progress_bar(results, total, failures)
        return Results(results, failures)

    def _segment(self, images: Iterator[InputImage]) -> Iterator[SegmentationResult]:
        """The results of images that were read, in order."""
        if self._averages:
            yield from map(self._segment_averaged, images)
            return

        def how(image: InputImage) -> tuple[_Size, _Size | None]:
            """The size at which the model sees an image, and its own where it is segmented on a GPU as a whole."""
            on_gpu = image.pixels.dtype == np.uint8 and self._class_maps_on_gpu is not None
            return self.view_sizes(image.size)[0], image.size if on_gpu else None

        for (size, on_gpu), neighbours in itertools.groupby(images, key=how):
            while batch := list(itertools.islice(neighbours, self.batch_size)):
                yield from self._segment_batch(batch, size, on_gpu is not None)

    def _gains_by_threads(self, total: int | None) -> bool:
        """Whether several images go through the network at once: of one size, not too large, and known to be many."""
        if self.mode != "resize" or self._averages or not self.processor.do_resize or self.batch_size > 1:
            return False
        moderate = math.prod(self.processor.target_size) <= _MAX_PIXELS_IN_THREADS
        return moderate and (total or 0) > 1 and self.engine.for_many is not None

    def _segment_in_threads(self, images: Iterator[InputImage]) -> Iterator[SegmentationResult]:
        """The results of images in order, several in work at once."""
        other = self.replace(engine=self.engine.for_many or self.engine)

        def segment(image: InputImage) -> SegmentationResult:
            return next(other._segment_batch([image], self.processor.target_size, on_gpu=False))

        return map_in_threads(segment, images, other.engine.session.at_once, lambda image: math.prod(image.size))

    def _segment_batch(self, images: list[InputImage], size: _Size, on_gpu: bool) -> Iterator[SegmentationResult]:
        """The results of images that go through the model at once; on a GPU they have one size."""
        pixels = [image.pixels for image in images]
        if on_gpu and self._class_maps_on_gpu is not None:
            class_maps, num_classes = self._class_maps_on_gpu(np.stack(pixels), size)
            yield from (self._result(image, each, num_classes) for image, each in zip(images, class_maps, strict=True))
            return
        yield from (self._from_logits(*each) for each in zip(images, self._logits(pixels, size), strict=True))

    @functools.cached_property
    def _class_maps_on_gpu(self) -> Callable[[np.ndarray, _Size], tuple[np.ndarray, int]] | None:
        """From images to class maps and the number of classes, where no more is wanted and Keras has a GPU."""
        if self.return_confidence or self.return_logits or self.engine.path is not None:
            return None
        from tf_segformer.inference.on_device import function_on_gpu  # imports Keras, which exported files do without

        return function_on_gpu(self.model, self.processor)

    def _from_logits(self, image: InputImage, logits: np.ndarray) -> SegmentationResult:
        """The result of an image that went through the model once."""
        if self.return_confidence:
            class_map, confidence = class_map_and_confidence(logits, image.size)
        else:
            class_map, confidence = class_map_from_logits(logits, image.size), None
        kept = logits if self.return_logits else None
        return self._result(image, class_map, with_background(logits[:1, :1]).shape[-1], confidence, kept)

    def _segment_averaged(self, image: InputImage) -> SegmentationResult:
        """The result of an image that the model sees in windows, at several scales or flipped."""
        views = [
            (ResizedLogits(self._view_logits(image.pixels, size, flipped), image.size), flipped)
            for size in self.view_sizes(image.size)
            for flipped in ((False, True) if self.flip else (False,))
        ]
        class_map, confidence = class_map_from_views(views, self.return_confidence)
        return self._result(image, class_map, views[0][0].num_classes, confidence)

    def _view_logits(self, pixels: np.ndarray, size: _Size, flipped: bool) -> LogitSource:
        """The logits of one view of an image: of the whole, or averaged over windows."""
        pixels = pixels[:, ::-1] if flipped else pixels
        if self.window is None or self.stride is None:
            return ArrayLogits(with_background(self._logits([pixels], size)[0]))
        processor = self.processor.with_statistics_of(pixels)  # windows by those of their image
        if size != pixels.shape[:2]:
            pixels = processor.resize(pixels, size)

        def read(box: Box) -> np.ndarray:
            top, left, height, width = box
            return pixels[top : top + height, left : left + width]

        return self.window_logits(size, read, processor)

    def window_logits(
        self,
        size: _Size,
        read: Callable[[Box], np.ndarray | None],
        processor: SegformerImageProcessor | None = None,
    ) -> SlidingWindowLogits:
        """The blended logits of an image of any size that is read a window at a time.

        Args:
            size: (H, W) of the image.
            read: From a box to its pixels (height, width, C), or None where the model need not be run.
            processor: Instead of the predictor's, such as what `with_statistics_of` gives of the whole image.

        Returns:
            A source of logits; rows are read from top to bottom.

        Raises:
            ValueError: The predictor's mode has no windows.

        Example:
            >>> import keras
            >>> model = keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(2, 4, strides=4)])
            >>> predictor = SegmentationPredictor(model, SegformerImageProcessor(), "slide", window=64)
            >>> predictor.window_logits((90, 120), lambda box: np.zeros((*box[2:], 3), np.uint8)).rows(0, 5).shape
            (5, 120, 2)
        """
        if self.window is None or self.stride is None:
            raise ValueError(f"mode={self.mode!r} has no windows: use mode='slide'")

        @functools.cache
        def blank(height: int, width: int) -> np.ndarray:
            """Logits without a preference, in the shape that the model gives."""
            pixels = np.zeros((height, width, self.engine.num_channels), self.processor.value_type or np.uint8)
            return np.zeros_like(with_background(self._logits([pixels], (height, width))[0]))

        def predict(boxes: Sequence[Box]) -> Iterator[np.ndarray]:
            for shape, alike in itertools.groupby(boxes, key=lambda box: box[2:]):
                while crops := [read(box) for box in itertools.islice(alike, self.batch_size)]:
                    present = [crop for crop in crops if crop is not None]
                    logits = iter(with_background(self._logits(present, shape, processor)) if present else ())
                    yield from (blank(*shape) if crop is None else next(logits) for crop in crops)

        # "mean" is mmsegmentation's, and a network of one fixed size takes no larger windows
        multiple = TOTAL_STRIDE if self.blend != "mean" and self.engine.fixed_size is None else 1
        return SlidingWindowLogits(size, self.window, self.stride, predict, self.blend, multiple)

    def replace(self, **attributes: Any) -> SegmentationPredictor:
        """The same predictor, whose network is loaded once, with other attributes, such as `processor`."""
        other = copy.copy(self)
        vars(other).pop("_class_maps_on_gpu", None)  # made for the attributes of before
        vars(other).update(attributes)
        return other

    def class_names(self, num_classes: int) -> dict[int, str]:
        """The names of the classes of a class map: `labels`, or those of the model, or "class 0", "class 1" and so on.

        Args:
            num_classes: Number of classes K of the logits (two where the model has one).

        Returns:
            Name by class.

        Raises:
            ValueError: Another number of labels.
        """
        return names_or_numbers(self.labels or getattr(self.engine.config, "id2label", None), num_classes)

    def _logits(
        self, images: Sequence[np.ndarray], size: _Size, processor: SegformerImageProcessor | None = None
    ) -> np.ndarray:
        """Prepares images of one kind at a size and runs the model: (B, h, w, K) float32."""
        as_configured = self.mode == "resize" and self.processor.do_resize
        batch = (processor or self.processor)(
            list(images),
            input_data_format=transforms.CHANNELS_LAST,
            do_resize=as_configured or any(image.shape[:2] != size for image in images),
            size=size,
        )
        logits = self.engine(batch["pixel_values"])
        if logits.ndim != 4:
            raise ValueError(f"the model gives an output of shape {logits.shape}, not logits (B, h, w, K) of pixels")
        return logits

    def view_sizes(self, size: _Size) -> list[_Size]:
        """The sizes at which the model sees an image; neighbouring images of equal ones share a batch.

        Args:
            size: (H, W) of the image.

        Returns:
            One (H, W) per scale.
        """
        if self.mode == "resize" and self.processor.do_resize:
            return [self.processor.target_size]
        if self.mode in ("resize", "slide"):
            return [size]
        return [(_round_up(size[0] * scale), _round_up(size[1] * scale)) for scale in self.scales]

    def _result(
        self,
        image: InputImage,
        class_map: np.ndarray,
        num_classes: int,
        confidence: np.ndarray | None = None,
        logits: np.ndarray | None = None,
    ) -> SegmentationResult:
        """Adds the class names, their colors and the source of the image."""
        labels = self.class_names(num_classes)
        palette = checkpoint_palette(self.engine.config, num_classes)
        return SegmentationResult(image.index, image.source, class_map, labels, confidence, logits, palette)


def _processor_of(engine: Engine) -> SegformerImageProcessor:
    """The processor that an exported folder holds."""
    path = None if engine.path is None else engine.path.with_name(CONFIG_NAME)
    if path is None or not path.is_file():
        where = "a Keras model has" if path is None else f"{path.parent} has"
        raise ValueError(f"{where} no {CONFIG_NAME}: give the processor of the model")
    return SegformerImageProcessor.from_pretrained(path)


def _check_scales(scales: Sequence[float] | None, mode: str) -> tuple[float, ...]:
    """The scales at which the image is seen; 1 alone outside "multiscale"."""
    if scales is not None and mode != "multiscale":
        raise ValueError(f"scales={tuple(scales)} belong to mode='multiscale', not to {mode!r}")
    if mode != "multiscale":
        return (1.0,)
    scales = tuple(DEFAULT_SCALES if scales is None else scales)
    if not scales or min(scales) <= 0:
        raise ValueError(f"scales={scales} must be numbers above 0")
    return scales


def _round_up(length: float) -> int:
    """The next multiple of the encoder's stride."""
    return max(1, math.ceil(length / TOTAL_STRIDE)) * TOTAL_STRIDE


def _with_progress_bar(
    results: Iterator[SegmentationResult], total: int | None, failures: list[Failure]
) -> Iterator[SegmentationResult]:
    """Passes the results on and shows how many images are done, on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=sys.stdout.isatty()) as progress:
        task = progress.add_task("segmenting", total=total)
        for done, result in enumerate(results, 1):
            progress.update(task, completed=done + len(failures))
            yield result
        progress.update(task, completed=total)
