"""From a checkpoint to a model: what it is, whether it fits, and its tensors into the model's variables."""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tf_segformer.checkpoints import adapter_merging
from tf_segformer.checkpoints.architecture import (
    infer_config,
    infer_task,
    num_labels_of,
    variable_shapes,
    variant_name,
)
from tf_segformer.checkpoints.channels import FIRST_KERNEL, with_channels
from tf_segformer.checkpoints.descriptions import foreign_fields
from tf_segformer.checkpoints.families import FAMILIES
from tf_segformer.checkpoints.formats.tensorflow import find_tensorflow_index
from tf_segformer.checkpoints.mapping import MappedCheckpoint, map_names, model_variables
from tf_segformer.checkpoints.names import HEADS
from tf_segformer.checkpoints.readers import read_checkpoint
from tf_segformer.checkpoints.tensors import Checkpoint
from tf_segformer.configuration import CONFIG_NAME, SegformerConfig, read_config_fields
from tf_segformer.errors import CheckpointError
from tf_segformer.hub import ADAPTER_NAME, DEFAULT_HUB, HubOptions, find_file, resolve_weights

if TYPE_CHECKING:
    import keras

_CONFIG_FIELDS = frozenset(each.name for each in dataclasses.fields(SegformerConfig))
_PRESET_FILES, _IN_PRESET = ("model.weights.h5", "task.weights.h5"), "overlapping_patching_and_embedding"
_HEAD_HINT = (
    "\nPass ignore_mismatched_sizes=True to keep the encoder: a head of another size is newly initialized, the kernel "
    "of other channels spread over them."
)

_ENCODER_HINT = "\nSegformerModel.from_pretrained takes the encoder alone and leaves the rest out."


@dataclass(frozen=True)
class OpenCheckpoint:
    """A checkpoint that was found and recognized; its tensors are read when a model or a file takes them.

    Args:
        name_or_path: What it was opened by.
        hub: How the Hub was reached.
        mapped: Its tensors under the names of the model's variables.
        config: Its configuration.
        named: Whether its classes have names; otherwise they are LABEL_0, LABEL_1, ...
    """

    name_or_path: str | Path
    hub: HubOptions
    mapped: MappedCheckpoint
    config: SegformerConfig
    named: bool = True

    @property
    def path(self) -> Path:
        """The file of the weights."""
        return self.mapped.path

    @property
    def task(self) -> str:
        """What its tensors are for: a key of `TASK_CLASSES`."""
        return infer_task(self.mapped.tensors)

    @property
    def family(self) -> str:
        """Whose names its tensors have, in words."""
        return FAMILIES[self.mapped.family].title

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        return sum(tensor.nbytes for tensor in self.mapped.tensors.values())

    def find_file(self, name: str) -> Path | None:
        """Another file of the same model, such as preprocessor_config.json, or None where it has none."""
        return find_file(self.name_or_path, [name], self.hub)

    def describe(self) -> str:
        """What it is, in a line."""
        variant = variant_name(self.config) or "of its own"
        labels = "" if self.task == "encoder" else f", {self.config.num_labels} classes"
        count = len(self.mapped.tensors)
        return f"{self.family}: {self.task} {variant}{labels}, {count} variables, {self.nbytes / 1e6:.1f} MB"

    def relabeled(self, class_names: Sequence[str]) -> OpenCheckpoint:
        """The same checkpoint with other names of its classes.

        Args:
            class_names: One name per class.

        Raises:
            CheckpointError: For another number of classes.
        """
        if len(class_names) != self.config.num_labels:
            raise CheckpointError(f"{len(class_names)} names for a model of {self.config.num_labels} classes")
        return dataclasses.replace(self, config=self.config.replace(id2label=dict(enumerate(class_names))))

    def with_token_merging(self, fraction: float | None) -> OpenCheckpoint:
        """The same checkpoint with another `token_merging`; None leaves it as it is."""
        return (
            self if fraction is None else dataclasses.replace(self, config=self.config.replace(token_merging=fraction))
        )

    def check_complete(self) -> None:
        """Checks, without building the model, that every tensor of it is there and no other.

        Raises:
            CheckpointError: Listing every tensor that is missing, unexpected or misshapen.
        """
        match_shapes(variable_shapes(self.config, self.task), self.mapped)


def open_checkpoint(
    name_or_path: str | Path,
    hub: HubOptions = DEFAULT_HUB,
    *,
    config: SegformerConfig | None = None,
    num_attention_heads: Sequence[int] | None = None,
) -> OpenCheckpoint:
    """Finds a checkpoint, detects whose names it has and reads its configuration, once for all that follows.

    Args:
        name_or_path: A folder, a checkpoint file, the prefix of a TensorFlow checkpoint, the name of an embedded model
            or a Hub id "owner/name".
        hub: How to reach the Hub.
        config: The configuration; by default config.json next to the weights, or what the tensors imply.
        num_attention_heads: One number per stage, which no tensor implies, for a checkpoint of other widths than those
            of B0 to B5 without a config.json.

    Returns:
        The checkpoint; its tensors are not yet read. Every `from_pretrained` takes it in place of the name.

    Raises:
        CheckpointError: Where it cannot be found, read or recognized.

    Example:
        >>> open_checkpoint("camvid-b0").describe()
        'Hugging Face (PyTorch): segmentation B0, 11 classes, 207 variables, 7.4 MB'
    """
    index = find_tensorflow_index(Path(name_or_path).expanduser())
    if index is not None and not Path(name_or_path).expanduser().is_dir():
        name_or_path = index  # a prefix is no file by itself
    checkpoint = _with_classifier(read_checkpoint(index or resolve_weights(name_or_path, hub)), name_or_path, hub)
    if checkpoint.path.name == ADAPTER_NAME:
        return _open_adapter(checkpoint, name_or_path, hub)
    fields = checkpoint.config
    if config is None and fields is None:
        config_file = find_file(name_or_path, [CONFIG_NAME], hub)
        fields = None if config_file is None else read_config_fields(config_file)
    fields, known = _parted(fields, checkpoint.path)
    if num_attention_heads is not None:
        known["num_attention_heads"] = num_attention_heads
    if config is None and fields is not None:
        config = _config_from(fields, checkpoint.path)
    mapped = map_names(checkpoint, known.get("depths") if config is None else config.depths)
    if config is None:
        named = checkpoint.class_names is not None
        return OpenCheckpoint(name_or_path, hub, mapped, _inferred_config(checkpoint, mapped, known), named)
    if fields is not None:  # what config.json leaves out, such as epsilons, is the family's own
        own = {name: value for name, value in FAMILIES[mapped.family].fields.items() if name not in fields}
        config = config.replace(**own)
    return OpenCheckpoint(name_or_path, hub, mapped, config)


def load_pretrained(
    build: Callable[..., keras.Model],
    source: str | Path | OpenCheckpoint,
    *,
    config: SegformerConfig | None = None,
    num_labels: int | None = None,
    id2label: Mapping[int, str] | None = None,
    ignore_mismatched_sizes: bool = False,
    new_channels: str = "spread",
    **options: Any,
) -> keras.Model:
    """Builds the model of a checkpoint and fills in its weights.

    Args:
        build: Makes the model of a configuration and further arguments, such as one of the SegFormer classes. The
            checkpoint overwrites the initial weights of the encoder.
        source: A folder, a checkpoint file, the name of an embedded model, a Hub id "owner/name", or a checkpoint
            that is open already.
        config: The configuration; by default config.json next to the weights, or what the tensors imply.
        num_labels: Number of classes, where it shall differ from the checkpoint's.
        id2label: Names of the classes, where they shall differ.
        ignore_mismatched_sizes: Reinitialize a head of another size and warn, instead of raising; with another
            `num_channels`, change the first kernel.
        new_channels: How that kernel is changed: "spread" over the channels, so that an image of equal channels gives
            the same map; "zero" for further channels, so that RGB with further bands does; or "random".
        **options: Fields of `HubOptions`, fields of the configuration that shall differ, and arguments of `build`.

    Returns:
        The model.

    Raises:
        CheckpointError: Where the checkpoint cannot be found, read, recognized or matched.
    """
    hub = HubOptions.pop_from(options)
    changes = {name: options.pop(name) for name in list(options) if name in _CONFIG_FIELDS}
    heads = changes.get("num_attention_heads")
    opened = (
        source
        if isinstance(source, OpenCheckpoint)
        else open_checkpoint(source, hub, config=config, num_attention_heads=heads)
    )
    if num_labels is not None:
        changes["num_labels"] = num_labels
    if id2label is not None:
        changes["id2label"] = dict(id2label)
    model = build(opened.config.replace(**changes), **options)
    mapped = opened.mapped
    if ignore_mismatched_sizes:
        mapped = with_channels(mapped, model.config.num_channels, new_channels, model.config.initializer_range)
    load_weights_into(model, mapped, ignore_mismatched_sizes=ignore_mismatched_sizes)
    if not opened.named and not {"num_labels", "id2label"} & set(changes):
        _warn_of_names(opened, model)
    return model


def load_any_weights(model: keras.Model, path: str | Path, *, ignore_mismatched_sizes: bool = False) -> None:
    """Fills a model with the weights of any checkpoint, which is read as one of the model's configuration.

    Args:
        model: One of the SegFormer models.
        path: What `open_checkpoint` takes.
        ignore_mismatched_sizes: As of `load_weights_into`.

    Raises:
        CheckpointError: For a file that cannot be read, or does not fit; the model is then unchanged.
    """
    opened = open_checkpoint(path, config=model.config)
    load_weights_into(model, opened.mapped, ignore_mismatched_sizes=ignore_mismatched_sizes)


def load_weights_into(model: keras.Model, mapped: MappedCheckpoint, *, ignore_mismatched_sizes: bool = False) -> None:
    """Fills a model with the weights of a checkpoint, all of them or none.

    A model with a head takes a checkpoint that has none: the head stays as it is, and a warning says so.

    Args:
        model: One of the SegFormer models; its variables' dtypes decide.
        mapped: The checkpoint's tensors.
        ignore_mismatched_sizes: Leave a tensor of the head that has another shape as it is and warn, for fine-tuning
            to other classes.

    Raises:
        CheckpointError: Listing every tensor that is missing, unexpected or misshapen. The model is then unchanged.
    """
    variables = model_variables(model)
    shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
    for name in match_shapes(shapes, mapped, ignore_mismatched_sizes=ignore_mismatched_sizes):
        values = mapped.tensors[name].read()
        variables[name].assign(values.astype(variables[name].dtype, copy=False))


def match_shapes(
    expected: Mapping[str, tuple[int, ...]], mapped: MappedCheckpoint, *, ignore_mismatched_sizes: bool = False
) -> list[str]:
    """Compares the names and shapes of a checkpoint with those that a model needs.

    Args:
        expected: Name of each variable of the model -> its shape.
        mapped: The checkpoint's tensors.
        ignore_mismatched_sizes: Let tensors of the head have another shape.

    Returns:
        The variables to fill, in the order of `expected`. Warns of those that stay as they are.

    Raises:
        CheckpointError: Listing every tensor that is missing, unexpected or misshapen.
    """
    found = mapped.shapes
    new_heads = tuple(head for head in HEADS if _has(expected, head) and not _has(found, head))
    other_heads = tuple(head for head in HEADS if not _has(expected, head))
    wanted = [name for name in expected if not name.startswith(new_heads)]
    missing = [name for name in wanted if name not in found]
    unexpected = [name for name in found if name not in expected and not name.startswith(other_heads)]
    misshapen = [name for name in wanted if name in found and found[name] != tuple(expected[name])]
    encoder_alone = len(other_heads) == len(HEADS)
    unknown = mapped.unknown_in_encoder if encoder_alone else mapped.unknown
    reinitialized = [name for name in misshapen if ignore_mismatched_sizes and name.startswith(HEADS)]
    problems = [
        *(f"missing: {name} {tuple(expected[name])}" for name in missing),
        *(f"unexpected: {name}" for name in (*(mapped.sources[name] for name in unexpected), *unknown)),
        *(
            f"misshapen: {mapped.sources[name]} gives {name} {found[name]}, the model has {tuple(expected[name])}"
            for name in misshapen
            if name not in reinitialized
        ),
    ]
    if problems:
        remedied = (*HEADS, FIRST_KERNEL)
        only_the_head = not missing and not unexpected and all(name.startswith(remedied) for name in misshapen)
        title, lines = FAMILIES[mapped.family].title, "\n  ".join(problems)
        hint = _HEAD_HINT if only_the_head else _ENCODER_HINT if mapped.unknown and not encoder_alone else ""
        raise CheckpointError(f"{mapped.path} ({title}) does not fit the model, nothing was loaded:\n  {lines}{hint}")
    left_out = [*mapped.left_out, *(name for name in mapped.unknown if name not in unknown)]
    if left_out:
        _warn(f"{mapped.path}: {len(left_out)} tensors are not of this model and were left out: {_summary(left_out)}")
    for head in new_heads:
        _warn(f"{mapped.path} has no {head.rstrip('/')}: the model's is newly initialized, train it first")
    if reinitialized:
        names = ", ".join(reinitialized)
        _warn(f"{mapped.path} has other shapes of {names}: newly initialized, train them first")
    return [name for name in wanted if name not in reinitialized]


def _open_adapter(adapter: Checkpoint, name_or_path: str | Path, hub: HubOptions) -> OpenCheckpoint:
    """An adapter of PEFT, merged into the base that it names."""
    path = find_file(name_or_path, [adapter_merging.CONFIG_NAME], hub)
    if path is None:
        raise CheckpointError(
            f"{adapter.path}: an adapter of PEFT without its {adapter_merging.CONFIG_NAME}: put it next to it"
        )
    fields = adapter_merging.read_adapter_config(path)
    base = open_checkpoint(fields["base_model_name_or_path"], dataclasses.replace(hub, revision=fields.get("revision")))
    mapped = adapter_merging.merge_adapter(base.mapped, adapter, fields)
    count = num_labels_of(mapped.shapes)
    config = base.config if count in (None, base.config.num_labels) else base.config.replace(num_labels=count)
    return OpenCheckpoint(name_or_path, hub, mapped, config, named=base.named and config is base.config)


def _parted(fields: Mapping[str, Any] | None, path: Path) -> tuple[Mapping[str, Any] | None, dict[str, Any]]:
    """What a config.json states: the fields of a SegformerConfig, or what another package says of one."""
    try:
        foreign = None if fields is None else foreign_fields(fields)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return (fields, {}) if foreign is None else (None, foreign)


def _with_classifier(checkpoint: Checkpoint, name_or_path: str | Path, hub: HubOptions) -> Checkpoint:
    """A preset of keras-hub with both its files: one holds the classifier, the other the rest."""
    if checkpoint.path.name not in _PRESET_FILES:
        return checkpoint
    other = next(name for name in _PRESET_FILES if name != checkpoint.path.name)
    path = find_file(name_or_path, [other], hub)
    if path is None:
        return checkpoint
    files = {checkpoint.path.name: checkpoint.tensors, other: read_checkpoint(path).tensors}
    encoders = [name for name, tensors in files.items() if any(_IN_PRESET in tensor for tensor in tensors)]
    if encoders != [_PRESET_FILES[0]]:
        return checkpoint
    return dataclasses.replace(checkpoint, tensors={**files[other], **checkpoint.tensors})


def _warn_of_names(opened: OpenCheckpoint, model: keras.Model) -> None:
    """Says that classes have numbers only, where a model has classes of the checkpoint."""
    if opened.task != "encoder" and any(name.startswith(HEADS) for name in model_variables(model)):
        _warn(
            f"{opened.path} has no config.json next to it: the architecture was inferred from the shapes of its "
            f"tensors, and its {opened.config.num_labels} classes are named LABEL_0, LABEL_1, ...: pass id2label="
        )


def _summary(names: Sequence[str]) -> str:
    """Names of tensors, those of one module as one."""
    modules = Counter(".".join(name.split(".")[:2]) for name in names)
    return ", ".join(name if count == 1 else f"{name}... ({count})" for name, count in modules.items())[:2000]


def _config_from(fields: Mapping[str, Any], path: Path) -> SegformerConfig:
    """The configuration that a config.json, or a file with one inside, states."""
    try:
        return SegformerConfig.from_dict(fields)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: not a usable SegFormer configuration: {error}") from error


def _inferred_config(checkpoint: Checkpoint, mapped: MappedCheckpoint, known: Mapping[str, Any]) -> SegformerConfig:
    """The configuration that the tensors imply, with class names and palette where the file holds them."""
    config = infer_config(mapped, known)
    if checkpoint.class_names is not None and len(checkpoint.class_names) == config.num_labels:
        config = config.replace(id2label=dict(enumerate(checkpoint.class_names)))
        if checkpoint.palette is not None:
            config.extra["palette"] = [list(color) for color in checkpoint.palette]
    return config


def _warn(message: str) -> None:
    """Warns at the line that called `from_pretrained`."""
    warnings.warn(message, UserWarning, stacklevel=6)


def _has(names: Mapping[str, Any], head: str) -> bool:
    return any(name.startswith(head) for name in names)
