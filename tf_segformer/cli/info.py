"""`tf-segformer info`: what a checkpoint is, what it costs, which classes it knows, where it lies."""

from __future__ import annotations

import json
from math import prod
from typing import TYPE_CHECKING, Any

import click

from tf_segformer.checkpoints.architecture import variant_name
from tf_segformer.cli.loading import load_model
from tf_segformer.cli.options import hub_options, read_numbers
from tf_segformer.configuration import SegformerConfig
from tf_segformer.hub import HubOptions, origin_of
from tf_segformer.modeling.macs import classification_macs, encoder_macs, segmentation_macs

if TYPE_CHECKING:
    from tf_segformer.checkpoints.loading import OpenCheckpoint
    from tf_segformer.modeling.models import PretrainedModel


@click.command(short_help="Describe a model.")
@click.argument("model")
@click.option(
    "--size", default="512", show_default=True, metavar="N[,N]", callback=read_numbers(int, 2),
    help="Height and width of the image whose cost is counted.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@hub_options
def info(model: str, size: int | tuple[int, int], as_json: bool, hub: HubOptions) -> None:
    """Describes MODEL: parameters, multiply-accumulates, labels, where it was loaded from.

    MODEL is a folder, a checkpoint file, the name of an embedded model or a Hub id "owner/name".

    Example: tf-segformer info camvid-b0 --size 1024,2048
    """
    size = (size, size) if isinstance(size, int) else size
    if min(size) < 1:
        raise click.BadParameter(f"{size} must be at least 1", param_hint="--size")
    facts = describe_model(*load_model(model, hub), size)
    if as_json:
        click.echo(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    labels = list(facts.pop("labels").values())
    width = max(map(len, facts))
    for name, value in facts.items():
        click.echo(f"{name.replace('_', ' ').replace('gmac', 'GMAC'):{width}}  {_as_text(value)}")
    click.echo(f"{'labels':{width}}  {len(labels)}: {', '.join(labels)}")


def describe_model(model: PretrainedModel, checkpoint: OpenCheckpoint, size: tuple[int, int]) -> dict[str, Any]:
    """What `info` prints, ready for JSON.

    Args:
        model: The model.
        checkpoint: What it was loaded from.
        size: (height, width) of the image whose cost is counted.

    Returns:
        Facts by name; costs in GMAC.
    """
    config = model.config
    trainable = sum(prod(variable.shape) for variable in model.trainable_variables)
    return {
        "loaded_from": str(checkpoint.path),
        **_origin(checkpoint),
        "file_megabytes": round(checkpoint.path.stat().st_size / 1e6, 1),
        "tensor_names": checkpoint.family,
        "task": checkpoint.task,
        "variant": variant_name(config) or "none of the published ones",
        "depths": list(config.depths),
        "hidden_sizes": list(config.hidden_sizes),
        "decoder_hidden_size": config.decoder_hidden_size,
        "num_channels": config.num_channels,
        "parameters_trainable": trainable,
        "parameters_total": model.count_params(),
        "size": list(size),
        **{name: round(macs / 1e9, 2) for name, macs in _costs(config, checkpoint.task, size).items()},
        "labels": {str(index): name for index, name in config.id2label.items()},
    }


def _origin(checkpoint: OpenCheckpoint) -> dict[str, str]:
    """The Hub's repository and commit, of the file itself or of the model that it was made from."""
    here = origin_of(checkpoint.path)
    if here is not None:
        return {"repository": here[0], "commit": here[1]}
    extra = checkpoint.config.extra
    names = {"made_from_repository": "_name_or_path", "made_from_commit": "_commit_hash"}
    return {name: str(extra[field]) for name, field in names.items() if "_commit_hash" in extra and field in extra}


def _costs(config: SegformerConfig, task: str, size: tuple[int, int]) -> dict[str, int]:
    """Multiply-accumulates of one image; of a decode head as it runs here and as the reference runs it."""
    if task == "segmentation":
        return {
            "gmac": segmentation_macs(config, size),
            "reference_gmac": segmentation_macs(config, size, composed_head=False),
        }
    return {"gmac": classification_macs(config, size) if task == "classification" else encoder_macs(config, size)}


def _as_text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)
