"""The training state on disk: every variable of model and optimizer, whole or not at all."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tf_segformer.errors import CheckpointError
from tf_segformer.io import atomic_write

_META = "__meta__"


def save_state(path: str | Path, model: keras.Model, meta: dict[str, Any]) -> None:
    """Writes weights, moving averages, seeds of dropout, optimizer moments and loss scale.

    Args:
        path: File ending in ".npz"; an earlier one stays whole until the new one is complete.
        model: Compiled model whose optimizer is built.
        meta: Plain values, such as the step.

    Example:
        >>> save_state("state.npz", model, {"step": 500})
    """
    path = Path(path)
    arrays: dict[str, Any] = {
        name: keras.ops.convert_to_numpy(variable) for name, variable in _named_variables(model).items()
    }
    arrays[_META] = np.array(json.dumps(meta))
    with atomic_write(path, fsync=True) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)


def load_state(path: str | Path, model: keras.Model) -> dict[str, Any]:
    """Reads what `save_state` wrote into a model of the same architecture and optimizer.

    Args:
        path: The file.
        model: Compiled model whose optimizer is built.

    Returns:
        The `meta` that was saved.

    Raises:
        CheckpointError: The file is missing, damaged, or of another model or optimizer; the model is unchanged.

    Example:
        >>> save_state("state.npz", model, {"step": 500})
        >>> load_state("state.npz", model)["step"]
        500
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no training state to resume from")
    try:
        with np.load(path, allow_pickle=False) as file:
            stored = {name: file[name] for name in file.files}
        meta = json.loads(str(stored.pop(_META)))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path}: not a readable training state ({error})") from error
    variables = _named_variables(model)
    wrong = sorted(set(stored) ^ set(variables))
    wrong += [name for name in set(stored) & set(variables) if stored[name].shape != tuple(variables[name].shape)]
    if wrong:
        raise CheckpointError(
            f"{path}: belongs to another model or optimizer ({len(wrong)} tensors differ, such as {wrong[0]}): "
            "resume with the recipe that the run was started with"
        )
    for name, variable in variables.items():
        variable.assign(stored[name])
    return meta


def _named_variables(model: keras.Model) -> dict[str, Any]:
    """Variables by position and path without its first part, which counts up with every model of a process."""
    groups = {"model": model.variables, "optimizer": model.optimizer.variables}
    return {
        f"{group}/{index:04d}/{variable.path.rpartition('/')[2]}": variable
        for group, variables in groups.items()
        for index, variable in enumerate(variables)
    }
