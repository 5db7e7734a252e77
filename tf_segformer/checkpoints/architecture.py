"""Works out the configuration of a checkpoint from its tensors where no config.json lies beside it."""

from __future__ import annotations

import re
from typing import Any

from tf_segformer.checkpoints.families import FAMILIES
from tf_segformer.checkpoints.loading import Translation
from tf_segformer.configuration import VARIANTS, SegformerConfig
from tf_segformer.errors import CheckpointError

# Heads leave no trace in the shapes of tensors; the published encoders of either width have these.
_HEADS_BY_HIDDEN_SIZES = {fields["hidden_sizes"]: (1, 2, 5, 8) for fields in VARIANTS.values()}


def infer_config(translation: Translation) -> SegformerConfig:
    """The configuration that the shapes of a checkpoint imply.

    Strides follow the patch sizes as in the paper (7 -> 4, 3 -> 2), attention heads the widths of B0 to B5.

    Args:
        translation: The checkpoint's tensors under the names of the model's variables.

    Returns:
        A configuration with the epsilons of the checkpoint's family.

    Raises:
        CheckpointError: For an encoder that is incomplete or of other widths than B0 to B5: it needs a config.json.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in translation.tensors.items()}
    try:
        fields = _encoder_fields(shapes)
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{translation.path}: no config.json beside it, and its encoder lacks {error}") from error
    widths = fields["hidden_sizes"]
    if widths not in _HEADS_BY_HIDDEN_SIZES:
        raise CheckpointError(
            f"{translation.path}: the widths {widths} are of no published variant, so that its attention heads cannot "
            "be told from its tensors: put its config.json beside it"
        )
    fields["num_attention_heads"] = _HEADS_BY_HIDDEN_SIZES[widths]
    return SegformerConfig(**fields, **_head_fields(shapes), **FAMILIES[translation.family].fields)


def _encoder_fields(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """What the encoder's shapes say, stage by stage."""
    stages = range(1 + max(int(match[1]) for name in shapes if (match := re.match(r"patch_embedding_(\d+)/", name))))
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
    for classifier in ("decode_head/classifier/kernel", "classifier/kernel"):
        if classifier in shapes:
            fields["num_labels"] = shapes[classifier][-1]
    for projection, head in (("linear_c_0", "segformer"), ("convolution_0", "mmseg")):
        if f"decode_head/{projection}/kernel" in shapes:
            fields["decoder_hidden_size"] = shapes[f"decode_head/{projection}/kernel"][-1]
            fields["decode_head_type"] = head
    return fields


def _ratio(wide: int, narrow: int) -> float:
    """A whole number where it is one, as config.json has it."""
    return wide // narrow if wide % narrow == 0 else wide / narrow
