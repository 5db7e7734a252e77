"""`tf-segformer serving-config`: the configuration and warm-up requests of TensorFlow Serving for an exported model."""

from __future__ import annotations

from pathlib import Path

import click

from tf_segformer.cli.loading import import_keras


@click.command("serving-config", short_help="Write the configuration of TensorFlow Serving.")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(file_okay=False, path_type=Path), default="serving", show_default=True,
    help="Folder for the configuration files.",
)  # fmt: skip
@click.option("--name", default="segformer", show_default=True, help="Name of the model on the server.")
@click.option("--max-batch-size", type=click.IntRange(1), default=8, show_default=True, help="Images that run at once.")
@click.option(
    "--batch-timeout", type=click.IntRange(0), default=2000, show_default=True, metavar="MICROSECONDS",
    help="How long an image waits for others.",
)  # fmt: skip
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True, help="Batches at the same time.")
def serving_config(
    folder: Path, output: Path, name: str, max_batch_size: int, batch_timeout: int, threads: int
) -> None:
    """Writes models.config, batching.config and monitoring.config, and warm-up requests into the model in FOLDER.

    FOLDER is what `tf-segformer export` wrote to. Prints the commands that start the server and ask for its health.

    Example: tf-segformer serving-config served
    """
    import_keras()  # and TensorFlow, without its start-up notes
    from tf_segformer.deploy.tf_serving.configuration import WARMUP_PATH, newest_version, write_serving_config

    commands = write_serving_config(
        folder,
        output,
        name=name,
        max_batch_size=max_batch_size,
        batch_timeout_micros=batch_timeout,
        threads=threads,
    )
    click.echo(f"wrote {newest_version(folder) / WARMUP_PATH}")
    for file in ("models.config", "batching.config", "monitoring.config"):
        click.echo(f"wrote {output / file}")
    for title, command in (
        ("Start the server in Docker", commands.docker),
        ("or start an installed one", commands.server),
        ("Ask for its health", commands.health),
    ):
        click.echo(f"\n{title}:\n  {command}")
