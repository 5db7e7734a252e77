"""The model of a batch job: what distinguishes it from any other, and the predictor that each worker makes of it."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tf_segformer.checkpoints.loading import OpenCheckpoint, open_checkpoint
from tf_segformer.errors import CheckpointError
from tf_segformer.hub import DEFAULT_HUB, HubOptions
from tf_segformer.imaging.processor import CONFIG_NAME, SegformerImageProcessor
from tf_segformer.inference.predictor import SegmentationPredictor


@dataclass(frozen=True)
class ModelSource:
    """A checkpoint by name and how it is run; workers on other machines find it by the same name.

    Args:
        name_or_path: A folder, a checkpoint file, the name of an embedded model or a Hub id "owner/name".
        hub: How to reach the Hub.
        precision: "float32", "float16" or "bfloat16"; the weights stay float32.
        options: Of `SegmentationPredictor`: mode, window, stride, blend, scales, flip.

    Example:
        >>> len(ModelSource("camvid-b0").fingerprint())
        64
    """

    name_or_path: str
    hub: HubOptions = DEFAULT_HUB
    precision: str = "float32"
    options: Mapping[str, Any] = field(default_factory=dict)

    def open(self) -> tuple[OpenCheckpoint, SegformerImageProcessor | None]:
        """The checkpoint and its processor, without Keras.

        Returns:
            The checkpoint, and the processor where it has one.

        Raises:
            CheckpointError: It cannot be found or read, or is not for segmentation.
        """
        opened = open_checkpoint(self.name_or_path, self.hub)
        if opened.task != "segmentation":
            raise CheckpointError(f"{opened.path}: is for {opened.task}; predict-dataset needs one for segmentation")
        file = opened.find_file(CONFIG_NAME)
        return opened, None if file is None else SegformerImageProcessor.from_pretrained(file)

    def fingerprint(self) -> str:
        """What changes with any weight, the configuration or the preprocessing.

        Returns:
            SHA-256 in hexadecimal digits.

        Raises:
            CheckpointError: As for `open`.
        """
        return _fingerprint(*self.open())

    def class_names(self) -> dict[int, str]:
        """The name of each class, with a warning where images are preprocessed by default values."""
        opened, processor = self.open()
        if processor is None:
            size = SegformerImageProcessor().target_size
            warnings.warn(
                f"{self.name_or_path} has no {CONFIG_NAME}: images are resized to {size[1]}x{size[0]}, ImageNet's mean",
                stacklevel=3,
            )
        return opened.config.id2label

    def predictor(self, fingerprint: str, batch_size: int) -> SegmentationPredictor:
        """Loads the model.

        Args:
            fingerprint: What it must have.
            batch_size: Most images in a batch.

        Returns:
            The predictor.

        Raises:
            CheckpointError: The checkpoint is another one by now, or on this machine.
        """
        from tf_segformer.loading import load_model

        opened, processor = self.open()
        if _fingerprint(opened, processor) != fingerprint:
            raise CheckpointError(f"{opened.path}: other weights or settings than where the job was started")
        model = load_model(opened, dtype=None if self.precision == "float32" else f"mixed_{self.precision}")
        processor = SegformerImageProcessor() if processor is None else processor
        return SegmentationPredictor(model, processor, **self.options, batch_size=batch_size, progress=False)


def _fingerprint(opened: OpenCheckpoint, processor: SegformerImageProcessor | None) -> str:
    """SHA-256 over configuration, preprocessing and every tensor."""
    settings = [opened.config.to_dict(), None if processor is None else processor.to_dict()]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(opened.mapped.tensors.items()):
        digest.update(f"{name} {tensor.shape} {tensor.dtype}".encode())
        digest.update(tensor.read().tobytes())
    return digest.hexdigest()
