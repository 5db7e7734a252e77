"""SegformerConfig: the architecture as the fields of the Hub's config.json, and the six published variants."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from tf_segformer.errors import CheckpointError
from tf_segformer.io import committed_file, read_json, write_json

CONFIG_NAME = "config.json"

MAX_COUNT = 2**16
"""Largest number of channels or classes: a file that says more is damaged, and would cost memory."""
MAX_BLOCKS = 1000
"""Largest number of transformer blocks of all stages: B5 has 52."""
MAX_PARAMETERS = 2**31
"""Largest number of parameters of an encoder, or of a decode head: B5 has 85 million."""

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "swish")
DECODE_HEADS = ("segformer", "mmseg")

# Xie et al. 2021, appendix, table 6: what sets the six encoders apart, and the width of their decode head.
VARIANTS: dict[str, dict[str, Any]] = {
    "b0": {"hidden_sizes": (32, 64, 160, 256), "depths": (2, 2, 2, 2), "decoder_hidden_size": 256},
    "b1": {"hidden_sizes": (64, 128, 320, 512), "depths": (2, 2, 2, 2), "decoder_hidden_size": 256},
    "b2": {"hidden_sizes": (64, 128, 320, 512), "depths": (3, 4, 6, 3), "decoder_hidden_size": 768},
    "b3": {"hidden_sizes": (64, 128, 320, 512), "depths": (3, 4, 18, 3), "decoder_hidden_size": 768},
    "b4": {"hidden_sizes": (64, 128, 320, 512), "depths": (3, 8, 27, 3), "decoder_hidden_size": 768},
    "b5": {"hidden_sizes": (64, 128, 320, 512), "depths": (3, 6, 40, 3), "decoder_hidden_size": 768},
}

_STAGE_FIELDS = ("depths", "sr_ratios", "hidden_sizes", "patch_sizes", "strides", "num_attention_heads", "mlp_ratios")
_PROBABILITY_FIELDS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "classifier_dropout_prob",
    "drop_path_rate",
)
_POSITIVE_FIELDS = ("initializer_range", "layer_norm_eps", "embedding_norm_eps", "block_norm_eps", "stage_norm_eps")
_COUNT_FIELDS = ("num_channels", "num_encoder_blocks", "decoder_hidden_size")


@dataclass
class SegformerConfig:
    """Architecture and labels of a SegFormer, field for field the Hub's config.json.

    Args:
        num_channels: Channels of the image, at least 1.
        num_encoder_blocks: Number of stages; every per-stage tuple has this length.
        depths: Transformer blocks in each stage.
        sr_ratios: Sequence reduction in each stage: keys and values are taken at 1/ratio of the resolution.
        hidden_sizes: Channels of each stage, divisible by its number of heads.
        patch_sizes: Kernel size of each stage's overlapping patch embedding.
        strides: Stride of each stage's patch embedding.
        num_attention_heads: Attention heads of each stage.
        mlp_ratios: Width of each stage's feed-forward network over its hidden size.
        hidden_act: Activation of the feed-forward network; "gelu" is the exact (erf) one.
        hidden_dropout_prob: Dropout after attention and in the feed-forward network, in [0, 1).
        attention_probs_dropout_prob: Dropout of the attention probabilities, in [0, 1).
        classifier_dropout_prob: Dropout before the decode head's classifier, in [0, 1).
        initializer_range: Standard deviation of the initial weights.
        drop_path_rate: Stochastic depth of the last block, in [0, 1); grows linearly from 0 over all blocks.
        layer_norm_eps: Kept for the Hub's file; no network of Hugging Face reads it (they all run 1e-5).
        decoder_hidden_size: Width of the decode head.
        semantic_loss_ignore_index: Label that no loss or metric counts.
        num_labels: Number of classes; class names default to LABEL_0, LABEL_1, ... as on the Hub.
        id2label: Class names by index; decides `num_labels` where both are given and agree.
        label2id: Index by class name; derived from `id2label` where it is not given.
        embedding_norm_eps: Epsilon of the patch embeddings' and sequence reductions' layer norms.
        block_norm_eps: Epsilon of the blocks' and stages' layer norms. Hugging Face runs 1e-5 in all norms, NVlabs
            1e-6 here, mmsegmentation 1e-6 in all.
        stage_norm_eps: Epsilon of the stages' layer norms where it is not that of the blocks: keras-hub runs 1e-5.
        decode_head_type: "segformer" (paper and Hugging Face) or "mmseg" (mmsegmentation 1.x: a normalized, activated
            projection a stage).
        token_merging: Fraction of the queries of every attention that are merged with a similar neighbor, from 0 for
            none to 0.75, or one fraction per stage. Saves time on large images; the outputs change a little.
        extra: Fields of a config.json that this class does not know; written back by `to_dict`.

    Raises:
        ValueError: Naming the field and its value, where a field is out of range or disagrees with another.

    Source: Xie et al. 2021, https://arxiv.org/abs/2105.15203; field names of Hugging Face transformers.

    Example:
        >>> config = SegformerConfig.from_variant("b2", num_labels=19)
        >>> config.depths, config.num_labels
        ((3, 4, 6, 3), 19)
    """

    num_channels: int = 3
    num_encoder_blocks: int = 4
    depths: tuple[int, ...] = (2, 2, 2, 2)
    sr_ratios: tuple[int, ...] = (8, 4, 2, 1)
    hidden_sizes: tuple[int, ...] = (32, 64, 160, 256)
    patch_sizes: tuple[int, ...] = (7, 3, 3, 3)
    strides: tuple[int, ...] = (4, 2, 2, 2)
    num_attention_heads: tuple[int, ...] = (1, 2, 5, 8)
    mlp_ratios: tuple[float, ...] = (4, 4, 4, 4)
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    classifier_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    drop_path_rate: float = 0.1
    layer_norm_eps: float = 1e-6
    decoder_hidden_size: int = 256
    semantic_loss_ignore_index: int = 255
    # None stands for "as the others say"; after __post_init__ none of the three is None
    num_labels: int = None  # type: ignore[assignment]
    id2label: dict[int, str] = None  # type: ignore[assignment]
    label2id: dict[str, int] = None  # type: ignore[assignment]
    embedding_norm_eps: float = 1e-5
    block_norm_eps: float = 1e-5
    stage_norm_eps: float | None = None
    decode_head_type: str = "segformer"
    token_merging: float | tuple[float, ...] = 0.0
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in _STAGE_FIELDS:
            value = getattr(self, name)
            if isinstance(value, str) or not hasattr(value, "__iter__"):
                raise _reject(name, value, "must be a list with one number a stage")
            setattr(self, name, tuple(value))
        if isinstance(self.token_merging, list):
            self.token_merging = tuple(self.token_merging)
        self._check_numbers()
        self._check_stages()
        self._resolve_labels()

    def _check_numbers(self) -> None:
        """Rejects single numbers out of range and names that no table knows."""
        for name in _COUNT_FIELDS:
            if not _is_count(getattr(self, name)):
                raise _reject(name, getattr(self, name), f"must be a whole number from 1 to {MAX_COUNT}")
        for name in _PROBABILITY_FIELDS:
            if not (_is_number(getattr(self, name)) and 0 <= getattr(self, name) < 1):
                raise _reject(name, getattr(self, name), "must be at least 0 and below 1")
        for name in _POSITIVE_FIELDS:
            value = getattr(self, name)
            if not (_is_number(value) and value > 0) and (value, name) != (None, "stage_norm_eps"):
                raise _reject(name, getattr(self, name), "must be above 0")
        for name, known in (("hidden_act", ACTIVATIONS), ("decode_head_type", DECODE_HEADS)):
            if getattr(self, name) not in known:
                raise _reject(name, getattr(self, name), f"must be one of {', '.join(known)}")
        if not isinstance(self.semantic_loss_ignore_index, Integral):
            raise _reject("semantic_loss_ignore_index", self.semantic_loss_ignore_index, "must be a whole number")

    def _check_stages(self) -> None:
        """Rejects per-stage lists that disagree with the number of stages or with each other."""
        for name in _STAGE_FIELDS:
            value = getattr(self, name)
            if len(value) != self.num_encoder_blocks:
                raise _reject(name, value, f"must have num_encoder_blocks={self.num_encoder_blocks} entries")
            if name == "mlp_ratios":
                if not all(_is_number(entry) and entry > 0 for entry in value):
                    raise _reject(name, value, "must be numbers above 0")
            elif not all(_is_count(entry) for entry in value):
                raise _reject(name, value, f"must be whole numbers from 1 to {MAX_COUNT}")
        fractions = self.stage_token_merging
        valid = all(_is_number(fraction) and 0 <= fraction <= 0.75 for fraction in fractions)  # one of 2x2 tokens stays
        if len(fractions) != self.num_encoder_blocks or not valid:
            one_per_stage = f"or num_encoder_blocks={self.num_encoder_blocks} such numbers, one per stage"
            raise _reject("token_merging", self.token_merging, f"must be from 0 to 0.75, {one_per_stage}")
        for size, heads in zip(self.hidden_sizes, self.num_attention_heads, strict=True):
            if size % heads:
                raise _reject("hidden_sizes", self.hidden_sizes, f"has {size}, not divisible by its {heads} heads")

        blocks = [
            depth * size * size * (4 + 2 * ratio)
            for depth, size, ratio in zip(self.depths, self.hidden_sizes, self.mlp_ratios, strict=True)
        ]
        patches = [
            size * channels * patch * patch
            for size, channels, patch in zip(
                self.hidden_sizes, (self.num_channels, *self.hidden_sizes), self.patch_sizes, strict=False
            )
        ]
        if sum(self.depths) > MAX_BLOCKS:
            raise _reject("depths", self.depths, f"has more than {MAX_BLOCKS} blocks")
        if sum(blocks) + sum(patches) > MAX_PARAMETERS:
            raise _reject("hidden_sizes", self.hidden_sizes, f"makes more than {MAX_PARAMETERS} parameters")
        width = self.decoder_hidden_size
        if width * (width + sum(self.hidden_sizes)) * self.num_encoder_blocks > MAX_PARAMETERS:
            raise _reject("decoder_hidden_size", width, f"makes more than {MAX_PARAMETERS} parameters")

    @property
    def stage_token_merging(self) -> tuple[float, ...]:
        """The fraction of `token_merging` in each stage."""
        one = self.token_merging
        return one if isinstance(one, tuple) else (one,) * self.num_encoder_blocks

    def _resolve_labels(self) -> None:
        """Makes num_labels, id2label and label2id agree, or says which of them does not."""
        if self.num_labels is not None and not _is_count(self.num_labels):
            raise _reject("num_labels", self.num_labels, f"must be a whole number from 1 to {MAX_COUNT}")
        if self.id2label is None:
            count = 2 if self.num_labels is None else self.num_labels  # transformers' default is two labels
            self.id2label = {index: f"LABEL_{index}" for index in range(count)}
        try:
            self.id2label = {int(index): str(name) for index, name in self.id2label.items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise _reject("id2label", self.id2label, "must map indices to names") from error
        control = next((name for name in self.id2label.values() if _CONTROL_CHARACTER.search(name)), None)
        if control is not None:  # names are printed: an escape sequence would reach the terminal
            raise _reject("id2label", control, "must have no control characters in its names")
        if sorted(self.id2label) != list(range(len(self.id2label))):
            raise _reject("id2label", self.id2label, "must have the indices 0, 1, 2, ... without a gap")
        if self.num_labels is None:
            self.num_labels = len(self.id2label)
        if self.num_labels != len(self.id2label):
            raise _reject("num_labels", self.num_labels, f"disagrees with the {len(self.id2label)} names of id2label")
        if self.label2id is None:
            self.label2id = {name: index for index, name in self.id2label.items()}
        try:
            self.label2id = {str(name): int(index) for name, index in self.label2id.items()}
        except (AttributeError, TypeError, ValueError, OverflowError) as error:
            raise _reject("label2id", self.label2id, "must map names to indices") from error

    @classmethod
    def from_variant(cls, variant: str, **fields: Any) -> SegformerConfig:
        """The configuration of one of the six published variants.

        Args:
            variant: "b0" to "b5" (also "mit-b0", "MiT_B0" and the like).
            **fields: Fields to set in addition to those of the variant, such as `num_labels=19`.

        Returns:
            A new configuration.

        Raises:
            ValueError: For an unknown variant or field.

        Example:
            >>> SegformerConfig.from_variant("b0", num_labels=150).decoder_hidden_size
            256
        """
        name = variant.lower().replace("_", "-").removeprefix("mit-")
        if name not in VARIANTS:
            raise ValueError(f"variant={variant!r} is unknown: choose one of {', '.join(VARIANTS)}")
        unknown = set(fields) - {each.name for each in dataclasses.fields(cls)}
        if unknown:
            raise ValueError(f"SegformerConfig has no field {', '.join(sorted(unknown))}")
        return cls(**{**VARIANTS[name], **fields})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SegformerConfig:
        """Reads the dictionary of a config.json; unknown fields are kept in `extra`.

        Args:
            values: The parsed config.json.

        Returns:
            A new configuration.

        Raises:
            ValueError: For a file of another architecture and for inconsistent fields.

        Example:
            >>> SegformerConfig.from_dict({"depths": [1, 1, 1, 1], "torch_dtype": "float32"}).extra
            {'torch_dtype': 'float32'}
        """
        values = dict(values)
        if values.get("model_type", "segformer") != "segformer":
            raise _reject("model_type", values["model_type"], "is not a SegFormer")
        values.pop("model_type", None)
        if "num_hidden_layers" in values and "num_encoder_blocks" not in values:  # the Hub's alias
            values["num_encoder_blocks"] = values.pop("num_hidden_layers")
        if values.get("id2label") is not None:
            values.pop("num_labels", None)  # as in transformers: the names decide
        known = {each.name for each in dataclasses.fields(cls)} - {"extra"}
        extra = {**values.get("extra", {}), **{name: values[name] for name in values if name not in known | {"extra"}}}
        return cls(**{name: values[name] for name in values if name in known}, extra=extra)

    def to_dict(self) -> dict[str, Any]:
        """The dictionary to write as config.json; `from_dict` reads it back.

        Fields that only this project knows are written where they differ from Hugging Face's behaviour.

        Returns:
            JSON-ready values: lists for tuples, string keys in id2label.

        Example:
            >>> SegformerConfig().to_dict()["hidden_sizes"]
            [32, 64, 160, 256]
        """
        defaults = {each.name: each.default for each in dataclasses.fields(self)}
        values: dict[str, Any] = {**self.extra, "model_type": "segformer"}
        for name in defaults:
            value = getattr(self, name)
            ours_by_default = name in _OWN_FIELDS and value == defaults[name]
            if name in ("extra", "num_labels") or ours_by_default:
                continue
            values[name] = list(value) if isinstance(value, tuple) else value
        values["id2label"] = {str(index): name for index, name in self.id2label.items()}
        values["label2id"] = dict(self.label2id)
        return values

    def replace(self, **fields: Any) -> SegformerConfig:
        """A copy with some fields changed; a new `num_labels` or `id2label` renames the labels.

        Args:
            **fields: Fields and their new values.

        Returns:
            A new configuration, checked like any other.

        Example:
            >>> SegformerConfig(num_labels=150).replace(num_labels=11).num_labels
            11
        """
        if "num_labels" in fields and "id2label" not in fields and fields["num_labels"] == self.num_labels:
            fields.pop("num_labels")  # the same count keeps its names
        if {"num_labels", "id2label"} & set(fields):
            fields = {"num_labels": None, "id2label": None, "label2id": None, **fields}
        return dataclasses.replace(self, **{"extra": dict(self.extra), **fields})

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **hub: Any) -> SegformerConfig:
        """Reads the config.json of a folder, an embedded model or a Hub repository.

        Args:
            name_or_path: A folder, a config.json, the name of an embedded model or a Hub id "owner/name".
            **hub: Fields of `HubOptions`: `revision`, `token`, `cache_dir` and `local_files_only`.

        Returns:
            A new configuration. One from the Hub holds the id and the commit that it came from in its `extra` fields
            `_name_or_path` and `_commit_hash`, which are saved with it.

        Raises:
            CheckpointError: Where there is no such file or it is not a SegFormer configuration.
        """
        from tf_segformer.hub import HubOptions, resolve_file

        path = committed_file(name_or_path)
        if not path.is_file():
            path = resolve_file(name_or_path, CONFIG_NAME, HubOptions(**hub))
        fields = read_config_fields(path)
        try:
            return cls.from_dict(fields)
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{path}: not a usable SegFormer configuration: {error}") from error

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes config.json into a folder, which is made where it is missing.

        Args:
            folder: The folder to write to.
        """
        write_json(Path(folder) / CONFIG_NAME, self.to_dict())


def read_config_fields(path: str | Path) -> dict[str, Any]:
    """The fields that a config.json states, before anything is checked.

    Args:
        path: The file.

    Returns:
        Field -> value; for a file from the Hub with the id and the commit that it came from, as `_name_or_path` and
        `_commit_hash`.

    Raises:
        CheckpointError: For a file that is missing, too large or no JSON object.
    """
    from tf_segformer.hub import origin_of

    try:
        fields = read_json(path)
        if not isinstance(fields, dict):
            raise ValueError("it holds no JSON object")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a usable SegFormer configuration: {error}") from error
    origin = origin_of(path)
    if origin is not None:  # as Hugging Face's libraries name what they record
        fields["_name_or_path"], fields["_commit_hash"] = origin
    return fields


_OWN_FIELDS = ("embedding_norm_eps", "block_norm_eps", "stage_norm_eps", "decode_head_type", "token_merging")
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_COUNT


def _reject(name: str, value: Any, reason: str) -> ValueError:
    shown = repr(value)
    return ValueError(f"{name}={shown if len(shown) < 200 else shown[:200] + '...'}: {reason}")
