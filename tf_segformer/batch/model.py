"""The model of a batch job: what distinguishes it from any other, and the predictor that each worker makes of it."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tf_segformer.checkpoints.loading import OpenCheckpoint, open_checkpoint
from tf_segformer.errors import CheckpointError
from tf_segformer.hub import DEFAULT_HUB, HubOptions, find_file
from tf_segformer.imaging.fields import defaults_note
from tf_segformer.imaging.processor import CONFIG_NAME, SegformerImageProcessor
from tf_segformer.inference.engines import AUTO, Engine, is_exported, open_engine
from tf_segformer.inference.predictor import SegmentationPredictor

_KERAS = "keras"


@dataclass(frozen=True)
class OpenModel:
    """A model that was found; its weights are read when they are asked for.

    Args:
        path: Its file.
        config: Its configuration, where it is known.
        processor: Prepares its images; None where no file says how.
        engine: What runs it: an engine's name, or "keras".
        update: Feeds its weights into a digest.
        load: Gives what `SegmentationPredictor` takes.
    """

    path: Path
    config: Any
    processor: SegformerImageProcessor | None
    engine: str
    update: Callable[[Any], None]
    load: Callable[[], Any]

    def fingerprint(self) -> str:
        """What changes with any weight, the configuration or the preprocessing: SHA-256 in hexadecimal digits."""
        settings = [None if each is None else each.to_dict() for each in (self.config, self.processor)]
        digest = hashlib.sha256(json.dumps([self.engine, *settings], sort_keys=True, default=str).encode())
        self.update(digest)
        return digest.hexdigest()

    @property
    def class_names(self) -> dict[int, str]:
        """The name of each class; without a configuration, none."""
        return dict(getattr(self.config, "id2label", {}))

    def warn_of_defaults(self) -> None:
        """Warns where images are preprocessed by values that no file gives."""
        if self.processor is None:
            note = defaults_note(SegformerImageProcessor().target_size)
            warnings.warn(f"{self.path}: has no {CONFIG_NAME}: {note}", stacklevel=3)


@dataclass(frozen=True)
class ModelSource:
    """A model by name and how it is run; workers on other machines find it by the same name.

    Args:
        name_or_path: A folder, a checkpoint file, the name of an embedded model, a Hub id "owner/name", or the folder
            or file of an exported model.
        hub: How to reach the Hub.
        precision: "float32", "float16" or "bfloat16"; the weights stay float32.
        options: Of `SegmentationPredictor`: mode, window, stride, blend, scales, flip.
        engine: Which engine runs an exported model; "auto" takes the fastest that is installed. A checkpoint is run by
            Keras.

    Example:
        >>> len(ModelSource("camvid-b0").open().fingerprint())
        64
    """

    name_or_path: str
    hub: HubOptions = DEFAULT_HUB
    precision: str = "float32"
    options: Mapping[str, Any] = field(default_factory=dict)
    engine: str = AUTO

    def open(self) -> OpenModel:
        """Finds the model, without Keras.

        Returns:
            The model.

        Raises:
            CheckpointError: It cannot be found or read, or is not for segmentation.
            ImportError: No engine is installed that runs the exported model.
            ValueError: The engine does not compute in that precision, or does not run a checkpoint.
        """
        if is_exported(Path(self.name_or_path).expanduser()):
            engine = open_engine(self.name_or_path, self.engine, self.precision)
            opened, task = _of_engine(engine), engine.task
        else:
            if self.engine not in (AUTO, _KERAS):
                raise ValueError(f"engine={self.engine!r} runs what export wrote, and {self.name_or_path} is none")
            checkpoint = open_checkpoint(self.name_or_path, self.hub)
            opened, task = _of_checkpoint(checkpoint, self.precision), checkpoint.task
        if task != "segmentation":
            raise CheckpointError(f"{opened.path}: is for {task}; predict-dataset needs one for segmentation")
        return opened

    def predictor(self, fingerprint: str, batch_size: int) -> SegmentationPredictor:
        """Loads the model.

        Args:
            fingerprint: What it must have.
            batch_size: Most images in a batch.

        Returns:
            The predictor.

        Raises:
            CheckpointError: The model is another one by now, or on this machine.
        """
        opened = self.open()
        if opened.fingerprint() != fingerprint:
            raise CheckpointError(f"{opened.path}: other weights or settings than where the job was started")
        processor = opened.processor or SegformerImageProcessor()
        return SegmentationPredictor(opened.load(), processor, **self.options, batch_size=batch_size, progress=False)


def _processor(file: Path | None) -> SegformerImageProcessor | None:
    """The processor of a file, if there is one."""
    return None if file is None else SegformerImageProcessor.from_pretrained(file)


def _of_checkpoint(checkpoint: OpenCheckpoint, precision: str) -> OpenModel:
    """A checkpoint, which Keras runs."""

    def update(digest: Any) -> None:
        for name, tensor in sorted(checkpoint.mapped.tensors.items()):
            digest.update(f"{name} {tensor.shape} {tensor.dtype}".encode())
            digest.update(tensor.read().tobytes())

    def load() -> Any:
        from tf_segformer.loading import load_model

        return load_model(checkpoint, dtype=None if precision == "float32" else f"mixed_{precision}")

    processor = _processor(checkpoint.find_file(CONFIG_NAME))
    return OpenModel(checkpoint.path, checkpoint.config, processor, _KERAS, update, load)


def _of_engine(engine: Engine) -> OpenModel:
    """An exported model; its files are compared."""
    assert engine.path is not None  # open_engine was given a path
    path = engine.path
    alone = path.name not in ("saved_model.pb", "model.xml")  # others keep weights in files next to them

    def update(digest: Any) -> None:
        for file in [path] if alone else sorted(each for each in path.parent.rglob("*") if each.is_file()):
            digest.update(f"{file.relative_to(path.parent)} ".encode())
            digest.update(file.read_bytes())

    return OpenModel(
        path, engine.config, _processor(find_file(path.parent, [CONFIG_NAME])), engine.name, update, lambda: engine
    )
