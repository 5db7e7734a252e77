"""Segments a video frame by frame in steady memory: an overlay video and one of class maps (extra `video`)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np

from tf_segformer.errors import ImageError
from tf_segformer.imaging.labels import palette_for
from tf_segformer.imaging.visualize import draw_overlay
from tf_segformer.inference.predictor import SegmentationPredictor
from tf_segformer.inference.results import SegmentationResult, WrittenResult
from tf_segformer.io import atomic_write

_Write = Callable[[Any, np.ndarray, np.ndarray], None]  # from a frame, its pixels and its class map

SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")


def read_frames(path: str | PathLike, layout: str = "rgb24") -> Iterator[np.ndarray]:
    """The frames of a video, one after the other, upright.

    Args:
        path: Video file.
        layout: FFmpeg's name of the pixel format: "rgb24" for (H, W, 3), "gray" for the (H, W) class maps that
            `segment_video` writes ("gray16le" from 257 classes on).

    Yields:
        uint8 (or uint16) arrays.

    Raises:
        ImageError: No video that can be read.
        ImportError: PyAV is missing.

    Example:
        >>> import av, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with av.open(f"{folder}/two.mkv", "w") as video:
        ...         stream = video.add_stream("ffv1", rate=25, width=32, height=16, pix_fmt="gray")
        ...         for value in (0, 200):
        ...             frame = av.VideoFrame.from_ndarray(np.full((16, 32), value, np.uint8), "gray")
        ...             video.mux(stream.encode(frame))
        ...         video.mux(stream.encode())
        ...     [int(frame.max()) for frame in read_frames(f"{folder}/two.mkv", "gray")]
        [0, 200]
    """
    with _open_video(path) as container:
        for frame in _decode(container, path):
            yield _upright(frame, layout)


def segment_video(
    predictor: SegmentationPredictor,
    path: str | PathLike,
    *,
    overlay: str | PathLike | None = None,
    classes: str | PathLike | None = None,
    alpha: float = 0.5,
    progress: Callable[[int, int | None], None] | None = None,
) -> WrittenResult:
    """Segments every frame of a video; frames keep their times, sound is left out.

    Args:
        predictor: Segments each frame by itself, `batch_size` of them at once.
        path: Video file.
        overlay: Video to write, if any: .mp4, H.264, the class colors over the frames (an odd last row or column is
            repeated, because H.264 has even sides).
        classes: Video of class maps to write, if any: .mkv, lossless FFV1, gray values are classes.
        alpha: Weight of the colors.
        progress: Called after each frame with the frames done and their number, None where the file does not say.

    Returns:
        Fractions of the classes over all frames, with "frames" among its details.

    Raises:
        ImageError: No video that can be read, or a model of other than 3 channels.
        ImportError: PyAV is missing.

    Example:
        >>> import av, tempfile
        >>> from tf_segformer import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor
        >>> model = SegformerForSemanticSegmentation(SegformerConfig(num_labels=2, depths=(1, 1, 1, 1)))
        >>> predictor = SegmentationPredictor(model, SegformerImageProcessor(size=32))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with av.open(f"{folder}/street.mkv", "w") as video:
        ...         stream = video.add_stream("ffv1", rate=25, width=32, height=16, pix_fmt="bgr0")
        ...         video.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 32, 3), np.uint8))))
        ...         video.mux(stream.encode())
        ...     result = segment_video(predictor, f"{folder}/street.mkv", classes=f"{folder}/classes.mkv")
        ...     [class_map.shape for class_map in read_frames(f"{folder}/classes.mkv", "gray")]
        [(16, 32)]
        >>> result.details["frames"]
        1
    """
    waiting: deque[tuple[Any, np.ndarray]] = deque()  # frames that went in and whose class map did not come out yet
    done, size, counts, labels = 0, (0, 0), np.zeros(0, np.int64), {}

    def read(container: Any) -> Iterator[np.ndarray]:
        for frame in _decode(container, path):
            waiting.append((frame, _upright(frame, "rgb24")))
            yield waiting[-1][1]

    channels = predictor.engine.num_channels
    if channels != 3:
        raise ImageError(f"{path}: a video has 3 channels, the model takes {channels}.")
    with ExitStack() as files:
        container = files.enter_context(_open_video(path))
        stream = container.streams.video[0]
        writers: list[_Write] = []
        for done, result in enumerate(predictor(read(container)), 1):
            frame, pixels = waiting.popleft()
            if done == 1:
                size, labels = pixels.shape[:2], result.labels
                counts = np.zeros(len(labels), np.int64)
                if overlay is not None:
                    writers.append(files.enter_context(_overlay_writer(overlay, stream, result, alpha)))
                if classes is not None:
                    writers.append(files.enter_context(_class_writer(classes, stream, result)))
            if pixels.shape[:2] != size:
                raise ImageError(f"{path}: frame {done} is {pixels.shape[:2]}, the first is {size}.")
            counts += np.bincount(result.class_map.ravel(), minlength=len(labels))
            for write in writers:
                write(frame, pixels, result.class_map)
            if progress is not None:
                progress(done, stream.frames or None)
    if not done:
        raise ImageError(f"{path}: the video has no frame.")
    return WrittenResult(fspath(path), size, counts, labels, {"frames": done})


def require_av(path: object) -> None:
    """Says what to install where the extra is missing.

    Args:
        path: The video, for the message.

    Raises:
        ImportError: PyAV is missing.
    """
    if find_spec("av") is None:
        raise ImportError(f"{path}: videos need PyAV: pip install 'tf_segformer[video]'")


@contextmanager
def _open_video(path: str | PathLike) -> Iterator[Any]:
    """Opens a file, not a stream of the network, that has a video in it."""
    require_av(path)
    import av

    if not Path(path).is_file():
        raise ImageError(f"{path}: there is no such file.")
    try:
        container = av.open(fspath(path))
    except av.FFmpegError as error:
        raise ImageError(f"{path}: no video that can be read ({error.strerror}).") from error
    with container:
        if not container.streams.video:
            raise ImageError(f"{path}: there is no video in this file.")
        yield container


def _decode(container: Any, path: str | PathLike) -> Iterator[Any]:
    """PyAV's frames; damage becomes an ImageError."""
    import av

    try:
        yield from container.decode(video=0)
    except av.FFmpegError as error:
        raise ImageError(f"{path}: damaged video ({error.strerror}).") from error


def _upright(frame: Any, layout: str) -> np.ndarray:
    """A frame as an array, turned as its display matrix says (videos of telephones)."""
    return np.rot90(frame.to_ndarray(format=layout), frame.rotation // 90)


@contextmanager
def _overlay_writer(path: str | PathLike, source: Any, first: SegmentationResult, alpha: float) -> Iterator[_Write]:
    """Appends the class colors over each frame."""
    height, width = first.class_map.shape
    padding = ((0, height % 2), (0, width % 2), (0, 0))
    names = list(first.labels.values())
    palette = palette_for(names) if first.palette is None else first.palette
    with _video_writer(path, source, (height + height % 2, width + width % 2), "mp4", "libx264", "yuv420p") as append:

        def write(frame: Any, pixels: np.ndarray, class_map: np.ndarray) -> None:
            painted = draw_overlay(pixels, class_map, names, palette=palette, alpha=alpha, legend=False)
            append(np.pad(np.asarray(painted), padding, mode="edge"), "rgb24", frame)

        yield write


@contextmanager
def _class_writer(path: str | PathLike, source: Any, first: SegmentationResult) -> Iterator[_Write]:
    """Appends each class map as gray values."""
    layout, dtype = ("gray", np.uint8) if len(first.labels) <= 256 else ("gray16le", np.uint16)
    with _video_writer(path, source, first.class_map.shape, "matroska", "ffv1", layout) as append:
        yield lambda frame, pixels, class_map: append(class_map.astype(dtype), layout, frame)


@contextmanager
def _video_writer(
    path: str | PathLike, source: Any, size: tuple[int, int], container: str, codec: str, layout: str
) -> Iterator[Callable[[np.ndarray, str, Any], None]]:
    """Gives a function that appends an image with the time of a frame; the file is whole or not there at all."""
    import av

    with atomic_write(path) as partial, av.open(str(partial), "w", format=container) as output:
        stream: Any = output.add_stream(codec, rate=source.average_rate or 25)
        stream.height, stream.width, stream.pix_fmt = *size, layout
        stream.codec_context.time_base = source.time_base

        def write(image: np.ndarray, kind: str, source_frame: Any) -> None:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format=kind)
            frame.pts, frame.time_base = source_frame.pts, source_frame.time_base
            output.mux(stream.encode(frame))

        yield write
        output.mux(stream.encode(None))
