"""The architecture behind a checkpoint: variables from a configuration, and a configuration from variables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tf_segformer.checkpoints.families import FAMILIES
from tf_segformer.checkpoints.mapping import MappedCheckpoint
from tf_segformer.configuration import VARIANTS, SegformerConfig
from tf_segformer.errors import CheckpointError

TASK_CLASSES = {
    "segmentation": "SegformerForSemanticSegmentation",
    "classification": "SegformerForImageClassification",
    "encoder": "SegformerModel",
}

# Heads leave no trace in the shapes of tensors; the published encoders of either width have these.
_HEADS_BY_HIDDEN_SIZES = {fields["hidden_sizes"]: (1, 2, 5, 8) for fields in VARIANTS.values()}

_Shapes = Iterator[tuple[str, tuple[int, ...]]]


def infer_task(variables: Iterable[str]) -> str:
    """The task that a set of variables is for: a key of `TASK_CLASSES`.

    Example:
        >>> infer_task(["stage_norm_0/gamma", "classifier/bias"])
        'classification'
    """
    variables = list(variables)
    if any(name.startswith("decode_head/") for name in variables):
        return "segmentation"
    return "classification" if any(name.startswith("classifier/") for name in variables) else "encoder"


def variable_shapes(config: SegformerConfig, task: str) -> dict[str, tuple[int, ...]]:
    """The variables that a model has.

    Args:
        config: Its configuration.
        task: A key of `TASK_CLASSES`.

    Returns:
        Name such as "block_0_0/attention/query/kernel" -> shape.

    Example:
        >>> variable_shapes(SegformerConfig(num_labels=10), "classification")["classifier/kernel"]
        (256, 10)
    """
    shapes = dict(_encoder(config))
    if task == "classification":
        shapes.update(_linear("classifier", config.hidden_sizes[-1], config.num_labels))
    if task == "segmentation":
        head = _segformer_head if config.decode_head_type == "segformer" else _mmseg_head
        shapes.update(head(config))
        shapes.update(_linear("decode_head/classifier", config.decoder_hidden_size, config.num_labels))
    return shapes


def infer_config(mapped: MappedCheckpoint, known: Mapping[str, Any] | None = None) -> SegformerConfig:
    """The configuration that the shapes of a checkpoint imply.

    Strides follow the patch sizes as in the paper (7 -> 4, 3 -> 2), attention heads the widths of B0 to B5.

    Args:
        mapped: The checkpoint under the names of the model's variables.
        known: Fields that are known, such as the attention heads of other widths than those of B0 to B5.

    Returns:
        A configuration with the epsilons of the checkpoint's family.

    Raises:
        CheckpointError: For an encoder that is incomplete, or of other widths than B0 to B5 whose attention heads are
            not known.
    """
    try:
        fields = _encoder_fields(mapped.shapes)
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{mapped.path}: no config.json next to it, and its encoder lacks {error}") from error
    widths = fields["hidden_sizes"]
    known = {"num_attention_heads": _HEADS_BY_HIDDEN_SIZES.get(widths), **(known or {})}
    if known["num_attention_heads"] is None:
        raise CheckpointError(
            f"{mapped.path}: the widths {widths} are of no published variant, and the number of attention heads is in "
            "no tensor's shape: pass num_attention_heads=, such as (1, 2, 5, 8), or config=, or put its config.json "
            "next to it"
        )
    try:
        return SegformerConfig(**{**fields, **_head_fields(mapped.shapes), **FAMILIES[mapped.family].fields, **known})
    except ValueError as error:
        raise CheckpointError(f"{mapped.path}: no config.json next to it, and its tensors imply {error}") from error


def num_labels_of(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """The number of classes that the shapes of variables imply; None where there is no classifier.

    Example:
        >>> num_labels_of({"decode_head/classifier/kernel": (256, 19)})
        19
    """
    classifiers = [name for name in ("decode_head/classifier/kernel", "classifier/kernel") if name in shapes]
    return shapes[classifiers[-1]][-1] if classifiers else None


def variant_name(config: SegformerConfig) -> str | None:
    """The published variant that has an encoder.

    Args:
        config: The encoder's configuration.

    Returns:
        "B0" to "B5", or None for an encoder of its own.

    Example:
        >>> variant_name(SegformerConfig.from_variant("b3"))
        'B3'
    """
    for name, fields in VARIANTS.items():
        if (config.hidden_sizes, config.depths) == (fields["hidden_sizes"], fields["depths"]):
            return name.upper()
    return None


def _encoder(config: SegformerConfig) -> _Shapes:
    """Patch embedding, blocks and norm of every stage."""
    channels = config.num_channels
    for stage, size in enumerate(config.hidden_sizes):
        patch = config.patch_sizes[stage]
        yield f"patch_embedding_{stage}/projection/kernel", (patch, patch, channels, size)
        yield f"patch_embedding_{stage}/projection/bias", (size,)
        yield from _norm(f"patch_embedding_{stage}/layer_norm", size)
        for block in range(config.depths[stage]):
            yield from _block(
                f"block_{stage}_{block}", size, int(size * config.mlp_ratios[stage]), config.sr_ratios[stage]
            )
        yield from _norm(f"stage_norm_{stage}", size)
        channels = size


def _block(name: str, size: int, hidden: int, reduction: int) -> _Shapes:
    """Attention and feed-forward network of one block."""
    yield from _norm(f"{name}/layer_norm_1", size)
    for projection in ("query", "key", "value", "output_dense"):
        yield from _linear(f"{name}/attention/{projection}", size, size)
    if reduction > 1:
        yield f"{name}/attention/sequence_reduction/kernel", (reduction, reduction, size, size)
        yield f"{name}/attention/sequence_reduction/bias", (size,)
        yield from _norm(f"{name}/attention/layer_norm", size)
    yield from _norm(f"{name}/layer_norm_2", size)
    yield from _linear(f"{name}/mlp/dense_1", size, hidden)
    yield f"{name}/mlp/depthwise_convolution/kernel", (3, 3, hidden, 1)
    yield f"{name}/mlp/depthwise_convolution/bias", (hidden,)
    yield from _linear(f"{name}/mlp/dense_2", hidden, size)


def _segformer_head(config: SegformerConfig) -> _Shapes:
    """The paper's head without its classifier."""
    width = config.decoder_hidden_size
    for stage, size in enumerate(config.hidden_sizes):
        yield from _linear(f"decode_head/linear_c_{stage}", size, width)
    yield "decode_head/linear_fuse/kernel", (len(config.hidden_sizes) * width, width)
    yield from _batch_norm("decode_head/batch_norm", width)


def _mmseg_head(config: SegformerConfig) -> _Shapes:
    """mmsegmentation's head without its classifier."""
    width = config.decoder_hidden_size
    for stage, size in enumerate(config.hidden_sizes):
        yield f"decode_head/convolution_{stage}/kernel", (size, width)
        yield from _batch_norm(f"decode_head/batch_norm_{stage}", width)
    yield "decode_head/fusion/kernel", (len(config.hidden_sizes) * width, width)
    yield from _batch_norm("decode_head/fusion_norm", width)


def _linear(name: str, inputs: int, outputs: int) -> _Shapes:
    yield f"{name}/kernel", (inputs, outputs)
    yield f"{name}/bias", (outputs,)


def _norm(name: str, size: int) -> _Shapes:
    yield f"{name}/gamma", (size,)
    yield f"{name}/beta", (size,)


def _batch_norm(name: str, size: int) -> _Shapes:
    yield from _norm(name, size)
    yield f"{name}/moving_mean", (size,)
    yield f"{name}/moving_variance", (size,)


def _encoder_fields(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """What the encoder's shapes say, stage by stage."""
    numbers = (int(match[1]) for name in shapes if (match := re.match(r"patch_embedding_(\d+)/", name)))
    stages = range(1 + max(numbers, default=0))
    kernels = [shapes[f"patch_embedding_{stage}/projection/kernel"] for stage in stages]  # (p, p, C_in, C_out)
    depths = [
        len({match[1] for name in shapes if (match := re.match(rf"block_{stage}_(\d+)/", name))}) for stage in stages
    ]
    reductions = [shapes.get(f"block_{stage}_0/attention/sequence_reduction/kernel", (1,))[0] for stage in stages]
    hidden_layers = [shapes[f"block_{stage}_0/mlp/dense_1/kernel"] for stage in stages]  # (C, ratio * C)
    return {
        "num_encoder_blocks": len(stages),
        "num_channels": kernels[0][2],
        "patch_sizes": tuple(kernel[0] for kernel in kernels),
        "strides": tuple((kernel[0] + 1) // 2 for kernel in kernels),
        "hidden_sizes": tuple(kernel[3] for kernel in kernels),
        "depths": tuple(depths),
        "sr_ratios": tuple(reductions),
        "mlp_ratios": tuple(_ratio(wide, narrow) for narrow, wide in hidden_layers),
    }


def _head_fields(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """What the shapes of the head say, if there is one."""
    fields: dict[str, Any] = {}
    if (count := num_labels_of(shapes)) is not None:
        fields["num_labels"] = count
    for projection, head in (("linear_c_0", "segformer"), ("convolution_0", "mmseg")):
        if f"decode_head/{projection}/kernel" in shapes:
            fields["decoder_hidden_size"] = shapes[f"decode_head/{projection}/kernel"][-1]
            fields["decode_head_type"] = head
    return fields


def _ratio(wide: int, narrow: int) -> float:
    """A whole number where it is one, as config.json has it."""
    return wide // narrow if wide % narrow == 0 else wide / narrow
