"""`tf-segformer info`: what a checkpoint is, what it costs, which classes it knows, where it lies."""

from __future__ import annotations

import json
from math import prod
from typing import Any

import click

from tf_segformer.checkpoints.architecture import variant_name
from tf_segformer.cli.loading import LoadedModel, load_model
from tf_segformer.cli.options import read_numbers
from tf_segformer.configuration import SegformerConfig
from tf_segformer.hub import origin_of
from tf_segformer.modeling.macs import classification_macs, encoder_macs, segmentation_macs


@click.command(short_help="Describe a model.")
@click.argument("model")
@click.option(
    "--size", default="512", show_default=True, metavar="N[,N]", callback=read_numbers(int, 2),
    help="Height and width of the image whose cost is counted.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(model: str, size: int | tuple[int, int], as_json: bool) -> None:
    """Describes MODEL: parameters, multiply-accumulates, labels, where it was loaded from.

    MODEL is a folder, a checkpoint file, the name of an embedded model or a Hub id "owner/name".

    Example: tf-segformer info camvid-b0 --size 1024,2048
    """
    size = (size, size) if isinstance(size, int) else size
    if min(size) < 1:
        raise click.BadParameter(f"{size} must be at least 1", param_hint="--size")
    facts = describe_model(load_model(model), size)
    if as_json:
        click.echo(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    labels = list(facts.pop("labels").values())
    width = max(map(len, facts))
    for name, value in facts.items():
        click.echo(f"{name.replace('_', ' ').replace('gmac', 'GMAC'):{width}}  {_as_text(value)}")
    click.echo(f"{'labels':{width}}  {len(labels)}: {', '.join(labels)}")


def describe_model(loaded: LoadedModel, size: tuple[int, int]) -> dict[str, Any]:
    """What `info` prints, ready for JSON.

    Args:
        loaded: The model and its origin.
        size: (height, width) of the image whose cost is counted.

    Returns:
        Facts by name; costs in GMAC.
    """
    config = loaded.model.config
    trainable = sum(prod(variable.shape) for variable in loaded.model.trainable_variables)
    return {
        "loaded_from": str(loaded.weights),
        **_origin(loaded),
        "file_megabytes": round(loaded.weights.stat().st_size / 1e6, 1),
        "tensor_names": loaded.family,
        "task": loaded.task,
        "variant": variant_name(config) or "none of the published ones",
        "depths": list(config.depths),
        "hidden_sizes": list(config.hidden_sizes),
        "decoder_hidden_size": config.decoder_hidden_size,
        "num_channels": config.num_channels,
        "parameters_trainable": trainable,
        "parameters_total": loaded.model.count_params(),
        "size": list(size),
        **{name: round(macs / 1e9, 2) for name, macs in _costs(config, loaded.task, size).items()},
        "labels": {str(index): name for index, name in config.id2label.items()},
    }


def _origin(loaded: LoadedModel) -> dict[str, str]:
    """The Hub's repository and commit, of the file itself or of the model that it was made from."""
    here = origin_of(loaded.weights)
    if here is not None:
        return {"repository": here[0], "commit": here[1]}
    extra = loaded.model.config.extra
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
