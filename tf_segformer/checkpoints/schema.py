"""Names and shapes of a model's variables, told from its configuration: a checkpoint is checked without building it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tf_segformer.configuration import SegformerConfig

TASK_CLASSES = {
    "segmentation": "SegformerForSemanticSegmentation",
    "classification": "SegformerForImageClassification",
    "encoder": "SegformerModel",
}


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


_Shapes = Iterator[tuple[str, tuple[int, ...]]]


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
