"""`tf-segformer doctor`: versions, devices and settings, for bug reports and slow machines."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from typing import Any

import click

from tf_segformer import __version__
from tf_segformer.cli.loading import import_keras
from tf_segformer.inference.engines import ENGINES, fastest_engine, how_to_install, is_installed

_PACKAGES = (
    "tensorflow", "keras", "numpy", "pillow", "h5py", "safetensors", "huggingface_hub", "jax", "torch", "transformers",
    "onnxruntime", "openvino",
)  # fmt: skip
_SETTINGS = (
    "KERAS_BACKEND", "OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "TF_ENABLE_ONEDNN_OPTS",
    "TF_XLA_FLAGS", "XLA_FLAGS", "CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE", "HF_ENDPOINT",
)  # fmt: skip


@click.command(short_help="Print versions, devices and settings.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    """Prints what this installation consists of and runs on.

    Example: tf-segformer doctor --json
    """
    facts = examine()
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    for section, values in facts.items():
        click.echo(section.replace("_", " "))
        for name, value in values.items():
            click.echo(f"  {name:24}  {', '.join(value) if isinstance(value, list) else value}")


def examine() -> dict[str, dict[str, Any]]:
    """What `doctor` prints: a dictionary of names and values for each section."""
    import_keras()
    import keras
    from huggingface_hub import constants

    from tf_segformer.hub import embedded_models

    return {
        "versions": {"tf_segformer": __version__, "python": platform.python_version(), **_versions()},
        "machine": {
            "system": platform.platform(),
            "processor": platform.machine(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        },
        "keras": {
            "backend": keras.backend.backend(),
            "devices": keras.distribution.list_devices(),
            "floats": keras.config.floatx(),
            "dtype_policy": keras.config.dtype_policy().name,
            "image_data_format": keras.config.image_data_format(),
            **_tensorflow_settings(keras.backend.backend()),
        },
        "engines": _engines(),
        "environment": {name: os.environ.get(name, "not set") for name in _SETTINGS},
        "models": {
            "embedded": embedded_models() or "none",
            "hub_cache": constants.HF_HUB_CACHE,
        },
    }


def _engines() -> dict[str, str]:
    """Whether each engine is installed, which one `--engine auto` takes for a checkpoint, and the cache folder."""
    from tf_segformer.cli.engine_cache import cache_folder

    found = {name: "installed" if is_installed(name) else f"missing: {how_to_install(name)}" for name in ENGINES}
    chosen = fastest_engine()
    why = "TensorFlow sees a GPU" if chosen != next(each for each in ENGINES if is_installed(each)) else "on this CPU"
    return {**found, "auto": f"{chosen} ({why})", "cache": str(cache_folder())}


def _versions() -> dict[str, str]:
    """Versions of the packages that matter here."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _tensorflow_settings(backend: str) -> dict[str, Any]:
    """Threads and kernels of TensorFlow; 0 threads means one per core."""
    if backend != "tensorflow":
        return {}
    import tensorflow as tf

    return {
        "intra_op_threads": tf.config.threading.get_intra_op_parallelism_threads(),
        "inter_op_threads": tf.config.threading.get_inter_op_parallelism_threads(),
        "onednn": "off" if os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0" else "on where the build has it",
        "built_with_cuda": tf.test.is_built_with_cuda(),
    }
