"""Fuzzes one target by coverage: python -m tests.fuzz TARGET [CORPUS...] [options of libFuzzer] (needs atheris).

With files in the place of folders, these are run once each: how a finding is repeated.
"""

from __future__ import annotations

import hashlib
import sys
from functools import partial
from pathlib import Path

import atheris

from tests.fuzz.json_mutation import mutate
from tests.fuzz.targets import CORPUS, run

OF_JSON = ("annotations", "configuration", "keras", "lists")
INSTRUMENTED = ["tf_segformer", "zipfile", "json", "csv", "yaml", "PIL"]


def main() -> None:
    """Fuzzes the target that the first argument names, from its kept inputs and those of the given folders."""
    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=INSTRUMENTED):  # the first run imports what the target needs
        for path in sorted((CORPUS / name).iterdir()):
            run(name, path.read_bytes())
    kept = [] if any(Path(argument).is_file() for argument in sys.argv[1:]) else [str(CORPUS / name)]
    mutator = {"custom_mutator": mutate_json} if name in OF_JSON else {}
    atheris.Setup([*sys.argv, *kept], partial(run_and_keep, name), **mutator)
    atheris.Fuzz()


def run_and_keep(name: str, data: bytes) -> None:
    """Runs a target and writes an input that fails to a file: libFuzzer does so for signals, not for exceptions."""
    try:
        run(name, data)
    except Exception:
        option = "-artifact_prefix="
        prefix = next((each.removeprefix(option) for each in sys.argv if each.startswith(option)), "")
        Path(f"{prefix}exception-{hashlib.sha1(data).hexdigest()}").write_bytes(data)
        raise


def mutate_json(data: bytes, max_size: int, seed: int) -> bytes:
    """What libFuzzer calls for its next input."""
    return mutate(bytes(data), max_size, seed, atheris.Mutate)


if __name__ == "__main__":
    main()
