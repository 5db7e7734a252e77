"""`predict --server`: images are segmented by TensorFlow Serving instead of a model in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from click.core import ParameterSource

from tf_segformer.cli.loading import import_keras
from tf_segformer.cli.options import HUB_OPTION_NAMES
from tf_segformer.deploy.tf_serving.client import OK, Client
from tf_segformer.errors import ImageError
from tf_segformer.imaging.files import MAX_FILE_BYTES
from tf_segformer.inference.results import Failure, Results, SegmentationResult
from tf_segformer.io import read_bytes

_LOCAL_OPTIONS = (
    "model", "mode", "window", "stride", "blend", "scales", "flip", "batch_size", "engine", "precision",
    *HUB_OPTION_NAMES,
)  # fmt: skip


class RemotePredictor:
    """Replaces a `SegmentationPredictor`: one request per image.

    Args:
        client: A client of the server.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def __call__(self, images: Sequence[Path], on_error: str = "skip") -> Results[SegmentationResult]:
        """Segments image files; one that cannot be read or is rejected becomes a failure.

        Args:
            images: Paths of JPEG or PNG files.
            on_error: "skip", the one way there is here.

        Returns:
            The results in order, each asked for when it is taken.
        """
        failures: list[Failure] = []
        return Results(self._results(images, failures), failures)

    def _results(self, images: Sequence[Path], failures: list[Failure]) -> Iterator[SegmentationResult]:
        for index, path in enumerate(images):
            try:
                encoded = read_bytes(path, MAX_FILE_BYTES)
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                failures.append(Failure(index, str(path), ImageError(f"{path}: {reason}")))
                continue
            (answer,) = self._client.segment([encoded])
            if answer.status != OK or answer.class_map is None:
                failures.append(Failure(index, str(path), ImageError(f"{path}: {answer.status}")))
                continue
            yield SegmentationResult(index, str(path), answer.class_map, dict(enumerate(answer.labels)))


def make_remote_predictor(context: click.Context, url: str, name: str, saved_kinds: Sequence[str]) -> RemotePredictor:
    """A predictor for `predict --server`; options that the server decides become a usage error.

    Args:
        context: Of the command.
        url: Address of the server.
        name: Name of the model on it.
        saved_kinds: What is to be written; logits stay on the server.

    Returns:
        The predictor.
    """
    given = [one for one in _LOCAL_OPTIONS if context.get_parameter_source(one) == ParameterSource.COMMANDLINE]
    if given:
        raise click.UsageError(f"--{given[0].replace('_', '-')} has no effect with --server: the server decides it")
    if "logits" in saved_kinds:
        raise click.UsageError("--save logits needs a model in this process, not --server")
    if url.startswith("grpc"):
        import_keras()  # and TensorFlow, without its start-up notes
    try:
        return RemotePredictor(Client(url, name))
    except (ValueError, ImportError) as error:
        raise click.UsageError(str(error)) from error
