"""All datasets of an HDF5 file as lazy tensors."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from tf_segformer.checkpoints.formats.hdf5.datasets import is_dataset, read_dataset
from tf_segformer.checkpoints.formats.hdf5.groups import links
from tf_segformer.checkpoints.formats.hdf5.objects import Message, read_messages, root_group
from tf_segformer.checkpoints.formats.hdf5.source import Source
from tf_segformer.checkpoints.tensors import LazyTensor

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
MAX_TENSORS = 10_000  # a B5 in training has 3,600


def read_datasets(source: Source, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, LazyTensor]:
    """Walks the groups of a file and describes the datasets in them.

    Args:
        source: The file.
        wanted: Says of a dataset's path whether it is wanted; the others may be of any type.

    Returns:
        Path such as "layers/dense/vars/0" -> tensor, not yet read. An object that has several paths is there once.

    Raises:
        ValueError: For a damaged file, for more than `MAX_TENSORS`, and for a wanted dataset that is not numbers in it.
        OSError: The file cannot be read.
    """
    found: dict[str, LazyTensor] = {}
    try:
        with source:
            pending = [("", root_group(source))]
            seen = {pending[0][1]}
            while pending:
                path, address = pending.pop()
                messages = read_messages(source, address)
                if is_dataset(messages):
                    if wanted(path):
                        found[path] = _tensor(source, path, messages)
                        if len(found) > MAX_TENSORS:
                            raise ValueError(f"more than {MAX_TENSORS} tensors")
                    continue
                for name, child in sorted(links(source, messages), reverse=True):
                    if child not in seen:
                        seen.add(child)
                        source.spend(2 * len(path))  # groups within groups have long paths
                        pending.append((f"{path}/{name}" if path else name, child))
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"a damaged structure: {error}") from error
    return found


def _tensor(source: Source, path: str, messages: Sequence[Message]) -> LazyTensor:
    """A dataset as a tensor; errors name its path."""
    try:
        return read_dataset(source, messages)
    except ValueError as error:
        raise ValueError(f"{path[:100]}: {error}") from error
