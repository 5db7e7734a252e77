"""Says what is wrong with the Keras of this installation before a package that needs it fails obscurely."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import os
import warnings
from typing import Any

OLDEST_KERAS = (3, 12)


@functools.cache  # several packages ask when they are imported
def check_keras(version: str | None = None) -> None:
    """Rejects a Keras that is too old; warns where `tf.keras` is switched to Keras 2 next to it.

    Args:
        version: Version to judge; None takes that of the installed Keras.

    Raises:
        ImportError: Naming the version found, the one needed, and the command that installs it.

    Example:
        >>> check_keras("2.15.0")
        Traceback (most recent call last):
        ImportError: tf_segformer needs Keras 3.12 or newer, but finds 2.15.0: pip install -U tensorflow keras
    """
    if version is None:
        version = importlib.metadata.version("keras")  # without the seconds that importing it takes
    major, minor = (int(part) for part in version.split(".")[:2])
    if (major, minor) < OLDEST_KERAS:
        oldest = ".".join(map(str, OLDEST_KERAS))
        raise ImportError(
            f"tf_segformer needs Keras {oldest} or newer, but finds {version}: pip install -U tensorflow keras"
        )
    if os.environ.get("TF_USE_LEGACY_KERAS", "").lower() in ("1", "true"):
        warnings.warn(
            "TF_USE_LEGACY_KERAS is set: tf.keras is Keras 2 then, whose optimizers, losses, callbacks and layers do "
            "not work with these Keras 3 models. Use `import keras` instead of `tf.keras`, or unset the variable.",
            stacklevel=3,
        )


def import_extra(module: str, extra: str, what: str) -> Any:
    """Imports a module that an extra of this package installs.

    Args:
        module: Name of the module.
        extra: Name of the extra.
        what: What needs it, for the message.

    Returns:
        The module.

    Raises:
        ImportError: It is not installed; the message has the command that installs it.

    Example:
        >>> import_extra("no_such_module", "onnx", "export to ONNX")
        Traceback (most recent call last):
        ImportError: export to ONNX needs no_such_module: pip install 'tf_segformer[onnx]'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise ImportError(f"{what} needs {name}: pip install 'tf_segformer[{extra}]'") from error
