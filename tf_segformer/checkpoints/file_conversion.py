"""Converts checkpoints tensor by tensor, without building a model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tf_segformer.checkpoints.families import FAMILIES
from tf_segformer.checkpoints.formats.keras import write_keras_archive, write_keras_weights
from tf_segformer.checkpoints.loading import Translation, match_shapes, translate
from tf_segformer.checkpoints.pretrained import checkpoint_config, load_pretrained, write_pretrained
from tf_segformer.checkpoints.readers import read_checkpoint
from tf_segformer.checkpoints.schema import TASK_CLASSES, infer_task, variable_shapes
from tf_segformer.checkpoints.tensors import LazyTensor
from tf_segformer.configuration import CONFIG_NAME, VARIANTS, SegformerConfig
from tf_segformer.errors import CheckpointError
from tf_segformer.hub import KERAS_ARCHIVE_NAME, find_file, resolve_weights
from tf_segformer.imaging.labels import LABELS
from tf_segformer.io import read_text

TARGETS = ("huggingface", "nvlabs", "keras")
KERAS_WRITERS = {".keras": write_keras_archive, ".weights.h5": write_keras_weights}
PREPROCESSOR_NAME = "preprocessor_config.json"

Progress = Callable[[int], Any]
"""Called with the number of bytes of every tensor that has been read."""


@dataclass(frozen=True)
class Source:
    """A checkpoint that was recognised and found complete.

    Args:
        translation: Its tensors under the names of the model's variables.
        config: Its configuration.
        task: A key of `TASK_CLASSES`.
        preprocessor: The preprocessor_config.json beside it, if any.
    """

    translation: Translation
    config: SegformerConfig
    task: str
    preprocessor: Path | None

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        return sum(tensor.nbytes for tensor in self.translation.tensors.values())

    def describe(self) -> str:
        """What it is, in a line."""
        variant = variant_name(self.config)
        labels = "" if self.task == "encoder" else f", {self.config.num_labels} classes"
        family = FAMILIES[self.translation.family].title
        count = len(self.translation.tensors)
        return f"{family}: {self.task} {variant}{labels}, {count} variables, {self.nbytes / 1e6:.1f} MB"


def open_checkpoint(name_or_path: str | Path, *, labels: str | Path | None = None, **hub_options: Any) -> Source:
    """Recognises a checkpoint and checks that every tensor of its model is there in the right shape.

    Args:
        name_or_path: A checkpoint file, a folder, the name of an embedded model or a Hub id "owner/name".
        labels: Names of the classes: a key of `imaging.labels.LABELS`, or a file with one name a line or a JSON list.
        **hub_options: `revision`, `token`, `cache_dir` and `local_files_only` for the Hub.

    Returns:
        The checkpoint; its tensors are not yet read.

    Raises:
        CheckpointError: Where it cannot be found, read or recognised, lacks tensors, or has another number of classes.
    """
    checkpoint = read_checkpoint(resolve_weights(name_or_path, **hub_options))
    translation = translate(checkpoint)
    config = checkpoint_config(checkpoint, translation, find_file(name_or_path, [CONFIG_NAME], **hub_options))
    if labels is not None:
        names = read_labels(labels)
        if len(names) != config.num_labels:
            raise CheckpointError(f"{labels}: {len(names)} names for a model of {config.num_labels} classes")
        config = config.replace(id2label=dict(enumerate(names)))
    task = infer_task(translation.tensors)
    match_shapes(variable_shapes(config, task), translation)
    preprocessor = find_file(name_or_path, [PREPROCESSOR_NAME], **hub_options)
    return Source(translation, config, task, preprocessor)


def read_labels(labels: str | Path) -> tuple[str, ...]:
    """Names of classes: those of a data set, or of a file with one name a line or a JSON list or object.

    Args:
        labels: A key of `imaging.labels.LABELS`, or a path.

    Returns:
        The names in the order of their indices.

    Raises:
        CheckpointError: For a file that cannot be read or holds no names.

    Example:
        >>> len(read_labels("cityscapes"))
        19
    """
    if str(labels) in LABELS:
        return LABELS[str(labels)]
    try:
        text = read_text(labels)
        values = json.loads(text) if text.lstrip()[:1] in ("[", "{") else text.splitlines()
        if isinstance(values, dict):  # id2label
            values = [values[str(index)] for index in range(len(values))]
    except (OSError, ValueError, KeyError, RecursionError) as error:
        known = ", ".join(LABELS)
        raise CheckpointError(f"{labels}: neither {known} nor a readable file of class names: {error}") from error
    names = tuple(str(name).strip() for name in values if str(name).strip())
    if not names:
        raise CheckpointError(f"{labels}: no class name in it")
    return names


def convert_checkpoint(source: Source, target: str | Path, *, to: str, progress: Progress | None = None) -> Path:
    """Writes a checkpoint in another world's format.

    Args:
        source: What `open_checkpoint` returned.
        target: For "huggingface" and "nvlabs" a folder, which gets config.json and model.safetensors; for "keras" a
            file "*.keras", or "*.weights.h5", which gets config.json beside it, or a folder, which gets model.keras.
        to: One of `TARGETS`.
        progress: Called with the bytes of every tensor that has been read.

    Returns:
        The folder or file that was written, which `from_pretrained` loads.

    Raises:
        CheckpointError: Where the target cannot be written, its format has no place for this decode head, or a
            config.json of another model lies where one of this model is due.
    """
    target = Path(target)
    tensors = {name: _counted(tensor, progress) for name, tensor in source.translation.tensors.items()}
    expected = variable_shapes(source.config, source.task)
    tensors = {name: tensors[name] for name in expected}
    suffix = next((suffix for suffix in KERAS_WRITERS if target.name.endswith(suffix)), None)
    if to == "keras" and suffix is not None:
        KERAS_WRITERS[suffix](target, source.config, tensors)
        return target
    if target.is_file() or target.suffix in (".safetensors", ".keras", ".h5"):
        raise CheckpointError(f"{target}: give a folder, which gets config.json and the weights")
    if to == "keras":
        write_keras_archive(target / KERAS_ARCHIVE_NAME, source.config, tensors)
    else:
        write_pretrained(target, source.config, tensors, family=to)
    if source.preprocessor is not None and source.preprocessor.resolve().parent != target.resolve():
        shutil.copyfile(source.preprocessor, target / PREPROCESSOR_NAME)
    return target / KERAS_ARCHIVE_NAME if to == "keras" else target


def compare_outputs(source: str | Path, target: str | Path, task: str, **hub_options: Any) -> float:
    """Loads two checkpoints and runs them on the same random image.

    Args:
        source: The one that was converted.
        target: The one that was written.
        task: A key of `TASK_CLASSES`.
        **hub_options: `revision`, `token`, `cache_dir` and `local_files_only` for the source.

    Returns:
        Largest difference of the outputs over the largest output.
    """
    import numpy as np

    from tf_segformer.modeling import models

    model_class = getattr(models, TASK_CLASSES[task])
    first = load_pretrained(model_class, source, **hub_options)
    second = load_pretrained(model_class, target)
    image = np.random.default_rng(0).standard_normal((1, 97, 131, first.config.num_channels), dtype=np.float32)
    expected = first.predict_on_batch(image)
    return float(np.abs(second.predict_on_batch(image) - expected).max() / max(np.abs(expected).max(), 1e-30))


def variant_name(config: SegformerConfig) -> str:
    """ "B0" to "B5", or "of its own" for another encoder.

    Example:
        >>> variant_name(SegformerConfig.from_variant("b3"))
        'B3'
    """
    for name, fields in VARIANTS.items():
        if (config.hidden_sizes, config.depths) == (fields["hidden_sizes"], fields["depths"]):
            return name.upper()
    return "of its own"


def _counted(tensor: LazyTensor, progress: Progress | None) -> LazyTensor:
    """The tensor, which tells of its reading."""
    if progress is None:
        return tensor

    def read() -> Any:
        values = tensor.read()
        progress(tensor.nbytes)
        return values

    return replace(tensor, read=read)
