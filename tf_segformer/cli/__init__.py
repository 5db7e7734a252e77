"""The command line `tf-segformer`: one subcommand per task, each imported when it is called."""

from __future__ import annotations

import os
import sys
import warnings
from importlib import import_module

import click

from tf_segformer import __version__
from tf_segformer.errors import SegformerError

COMMANDS = {
    "predict": ("tf_segformer.cli.predict:predict", "Segment photos: class map, overlay, fraction of each class."),
    "predict-dataset": (
        "tf_segformer.cli.predict_dataset:predict_dataset",
        "Segment a dataset of any size: Parquet with a row per image.",
    ),
    "info": ("tf_segformer.cli.info:info", "Describe a model: parameters, GMACs, labels, origin."),
    "convert": ("tf_segformer.cli.convert:convert", "Move weights between PyTorch, Hugging Face and Keras."),
    "evaluate": ("tf_segformer.cli.evaluate:evaluate", "Measure mIoU on a labelled dataset."),
    "benchmark": ("tf_segformer.cli.benchmark:benchmark", "Compare a model's forms on this machine."),
    "check": ("tf_segformer.cli.check:check", "Describe a labelled dataset and list its problems."),
    "train": ("tf_segformer.cli.train:train", "Train or fine-tune on a labelled dataset."),
    "export": ("tf_segformer.cli.export:export", "Write a SavedModel, LiteRT, ONNX or OpenVINO file."),
    "serving-config": (
        "tf_segformer.cli.serving_config:serving_config",
        "Configure TensorFlow Serving.",
    ),
    "doctor": ("tf_segformer.cli.doctor:doctor", "Print versions, devices and settings of this installation."),
}


OUT_OF_MEMORY = (
    "out of memory: take a smaller --batch-size; predict and evaluate need less with --mode slide and a small "
    "--window, train with --precision bfloat16 or --rematerialize"
)


class LazyGroup(click.Group):
    """Lists the subcommands without importing them, so that `--help` answers at once."""

    def list_commands(self, context: click.Context) -> list[str]:
        """The names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Imports the module of one subcommand."""
        if name not in COMMANDS:
            return None
        module, _, function = COMMANDS[name][0].partition(":")
        return getattr(import_module(module), function)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the table of subcommands from their summaries."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example: tf-segformer predict photo.jpg",
)
@click.version_option(__version__, prog_name="tf-segformer")
def cli() -> None:
    """SegFormer in Keras 3: segment images, train, convert weights, export and serve.

    Exit codes: 0 done; 1 some images could not be read; 2 wrong arguments or input, with a line on stderr.

    Completion of commands and options in bash (zsh and fish likewise): add the line
    eval "$(_TF_SEGFORMER_COMPLETE=bash_source tf-segformer)" to ~/.bashrc.
    """


def main() -> None:
    """Runs the command line; an error that a user can mend is one line on stderr and exit code 2."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's start-up notes are not about the user's image
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # nor are the Hub client's notes on each of its attempts
    warnings.formatwarning = _format_warning
    try:
        cli(standalone_mode=True)
    except (SegformerError, OSError, ImportError) as error:
        click.echo(f"tf-segformer: {error}", err=True)
        sys.exit(2)
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        click.echo(f"tf-segformer: {OUT_OF_MEMORY}", err=True)
        sys.exit(2)


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning for users as one line without a place in the code; others as Python prints them."""
    if category is UserWarning:
        return f"tf-segformer: warning: {message}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"


def _is_out_of_memory(error: Exception) -> bool:
    """Whether the device (whose backend has an error class of its own) or the machine ran out of memory."""
    name = type(error).__name__
    return (
        name in ("MemoryError", "OutOfMemoryError", "ResourceExhaustedError") or "RESOURCE_EXHAUSTED" in str(error)[:99]
    )
