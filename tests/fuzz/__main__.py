"""Fuzzes one target by coverage: python -m tests.fuzz TARGET [CORPUS...] [options of libFuzzer] (needs atheris)."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["tf_segformer", "zipfile", "json", "PIL"]):
    from tests.fuzz.targets import CORPUS, run


def main() -> None:
    """Fuzzes the target that the first argument names, from its kept inputs and those of the given folders."""
    name = sys.argv.pop(1)
    atheris.Setup([*sys.argv, str(CORPUS / name)], lambda data: run(name, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
