"""`tf-segformer convert` and `convert_weights.py`: weights from any format to another."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from tf_segformer.checkpoints.file_conversion import KERAS_WRITERS, TARGETS, convert_checkpoint, read_labels
from tf_segformer.checkpoints.loading import OpenCheckpoint, open_checkpoint
from tf_segformer.cli.loading import import_keras
from tf_segformer.cli.options import hub_options
from tf_segformer.errors import CheckpointError
from tf_segformer.hub import HubOptions

LARGE = 50_000_000  # bytes from which a progress bar is worth its line
TOLERANCE = 1e-5


@click.command(short_help="Move weights between PyTorch, Hugging Face and Keras.")
@click.argument("source")
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--to", type=click.Choice(TARGETS), help="Format of TARGET; by default keras for a .keras or .weights.h5 file, "
    "huggingface for a folder.",
)  # fmt: skip
@click.option("--labels", metavar="NAME|FILE", help="Class names: ade20k, cityscapes, camvid, voc, or a file of them.")
@click.option("--verify", is_flag=True, help="Load TARGET again and compare its outputs with those of SOURCE.")
@hub_options
def convert(
    source: str,
    target: Path,
    to: str | None,
    labels: str | None,
    verify: bool,
    hub: HubOptions,
) -> None:
    """Converts the weights SOURCE and writes them to TARGET.

    SOURCE is a checkpoint file (.safetensors, .bin, .pth, .h5, .keras), a folder or a Hub id, with the names of
    Hugging Face, NVlabs, mmsegmentation, segmentation_models_pytorch, keras-hub or this project. TARGET is a folder,
    or a .keras or .weights.h5 file.

    Example: tf-segformer convert segformer.b0.512x512.ade.160k.pth segformer-b0 --labels ade20k --verify
    """
    to = to or ("keras" if target.name.endswith(tuple(KERAS_WRITERS)) else "huggingface")
    opened = open_checkpoint(source, hub)
    if labels is not None:
        opened = opened.relabeled(read_labels(labels))
    opened.check_complete()
    click.echo(opened.describe())
    with _progress_bar(opened) as bar:
        written = convert_checkpoint(opened, target, to=to, progress=bar.update if bar else None)
    click.echo(f"wrote {written}")
    if verify:
        import_keras()  # without TensorFlow's start-up notes
        difference = compare_outputs(opened, written)
        if not difference <= TOLERANCE:
            raise CheckpointError(
                f"{written}: its outputs differ from those of {source} by {difference:.1e} (relative)"
            )
        click.echo(f"verified: outputs of {source} and {written} differ by {difference:.1e} (relative)")


def compare_outputs(source: OpenCheckpoint, target: str | Path) -> float:
    """Loads two checkpoints and runs them on the same random image.

    Args:
        source: The one that was converted.
        target: The one that was written.

    Returns:
        Largest difference of the outputs over the largest output.
    """
    import numpy as np

    from tf_segformer.loading import load_model

    first, second = load_model(source), load_model(target)
    image = np.random.default_rng(0).standard_normal((1, 97, 131, first.config.num_channels), dtype=np.float32)
    expected = first.predict_on_batch(image)
    return float(np.abs(second.predict_on_batch(image) - expected).max() / max(np.abs(expected).max(), 1e-30))


def _progress_bar(source: OpenCheckpoint) -> Any:
    """A progress bar over the bytes of a large checkpoint, nothing for a small one."""
    if source.nbytes < LARGE:
        return nullcontext()
    return click.progressbar(length=source.nbytes, label="converting", update_min_steps=source.nbytes // 100)
