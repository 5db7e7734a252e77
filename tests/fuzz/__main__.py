"""Fuzzes one target by coverage: python -m tests.fuzz TARGET [CORPUS...] [options of libFuzzer] (needs atheris).

With files in the place of folders, these are run once each: how a finding is repeated.
"""

from __future__ import annotations

import sys
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
    atheris.Setup([*sys.argv, *kept], lambda data: run(name, data), **mutator)
    atheris.Fuzz()


def mutate_json(data: bytes, max_size: int, seed: int) -> bytes:
    """What libFuzzer calls for its next input."""
    return mutate(bytes(data), max_size, seed, atheris.Mutate)


if __name__ == "__main__":
    main()
