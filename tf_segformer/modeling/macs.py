"""Multiply-accumulates of a SegFormer, computed from its configuration alone."""

from __future__ import annotations

from math import prod

from tf_segformer.configuration import SegformerConfig
from tf_segformer.ops.token_merging import count_merged


def encoder_macs(config: SegformerConfig, size: tuple[int, int] = (512, 512)) -> int:
    """Multiply-accumulates of the encoder for one image: convolutions, linear maps and attention products.

    Args:
        config: The architecture.
        size: (height, width) of the image.

    Returns:
        Number of multiply-accumulates. Norms, activations and additions are not counted, as is the custom.

    Example:
        >>> round(encoder_macs(SegformerConfig.from_variant("b0")) / 1e9, 1)
        3.2
    """
    total = 0
    channels = config.num_channels
    for stage, (height, width) in enumerate(stage_sizes(config, size)):
        tokens, hidden = height * width, config.hidden_sizes[stage]
        total += tokens * config.patch_sizes[stage] ** 2 * channels * hidden
        total += config.depths[stage] * _block_macs(config, stage, (height, width))
        channels = hidden
    return total


def segmentation_macs(config: SegformerConfig, size: tuple[int, int] = (512, 512), composed_head: bool = True) -> int:
    """Multiply-accumulates of encoder and decode head for one image; resizing is not counted.

    Args:
        config: The architecture.
        size: (height, width) of the image.
        composed_head: Count the head as this project runs it (each stage projected and fused at its own resolution),
            not as the reference does (projected, upsampled, concatenated, then fused at the first stage's).

    Returns:
        Number of multiply-accumulates.

    Example:
        >>> config = SegformerConfig.from_variant("b0", num_labels=150)
        >>> [round(segmentation_macs(config, composed_head=composed) / 1e9, 1) for composed in (True, False)]
        [4.1, 8.4]
    """
    width = config.decoder_hidden_size
    tokens = [prod(each) for each in stage_sizes(config, size)]
    projection = sum(count * channels * width for count, channels in zip(tokens, config.hidden_sizes, strict=True))
    if not composed_head:
        fusion = tokens[0] * len(tokens) * width**2
    elif config.decode_head_type == "mmseg":  # an activation stands between projection and fusion
        fusion = sum(tokens) * width**2
    else:
        fusion = 0  # part of the projections; the product of the small matrices folds into constants
    classifier = tokens[0] * width * config.num_labels
    return encoder_macs(config, size) + projection + fusion + classifier


def classification_macs(config: SegformerConfig, size: tuple[int, int] = (224, 224)) -> int:
    """Multiply-accumulates of encoder and linear classifier for one image.

    Args:
        config: The architecture.
        size: (height, width) of the image.

    Returns:
        Number of multiply-accumulates.
    """
    return encoder_macs(config, size) + config.hidden_sizes[-1] * config.num_labels


def stage_sizes(config: SegformerConfig, size: tuple[int, int]) -> list[tuple[int, int]]:
    """(height, width) of each stage's feature map for an image of the given size."""
    sizes = []
    for patch, stride in zip(config.patch_sizes, config.strides, strict=True):
        height, width = ((side + 2 * (patch // 2) - patch) // stride + 1 for side in size)
        size = (height, width)
        sizes.append(size)
    return sizes


def _block_macs(config: SegformerConfig, stage: int, map_size: tuple[int, int]) -> int:
    """One transformer block: attention over reduced keys, then the feed-forward network with its 3x3 convolution."""
    tokens, hidden, ratio = prod(map_size), config.hidden_sizes[stage], config.sr_ratios[stage]
    reduced = prod(max(side // ratio, 1) for side in map_size)  # the convolution floors, but keeps one key
    reduction = reduced * ratio**2 * hidden**2 if ratio > 1 else 0
    queries = tokens - count_merged(*map_size, config.stage_token_merging[stage])
    projections = 2 * queries * hidden**2 + 2 * reduced * hidden**2  # query and output; key and value
    products = 2 * queries * reduced * hidden  # scores, and their sum of values
    inner = int(hidden * config.mlp_ratios[stage])
    feed_forward = 2 * tokens * hidden * inner + 9 * tokens * inner
    return reduction + projections + products + feed_forward
