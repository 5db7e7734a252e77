"""`tf-segformer info`: what a checkpoint is, what it costs, which classes it knows, where it lies."""

from __future__ import annotations

import json
from typing import Any

import click

from tf_segformer.checkpoints.loading import open_checkpoint
from tf_segformer.cli.loading import import_keras
from tf_segformer.cli.options import hub_options, read_numbers
from tf_segformer.hub import HubOptions


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
    opened = open_checkpoint(model, hub)  # a bad one is reported before the seconds that Keras takes
    import_keras()
    from tf_segformer.loading import describe_model

    facts = describe_model(opened, size)
    if as_json:
        click.echo(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    labels = list(facts.pop("labels").values())
    width = max(map(len, facts))
    for name, value in facts.items():
        click.echo(f"{name.replace('_', ' ').replace('gmac', 'GMAC'):{width}}  {_as_text(value)}")
    click.echo(f"{'labels':{width}}  {len(labels)}: {', '.join(labels)}")


def _as_text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)
