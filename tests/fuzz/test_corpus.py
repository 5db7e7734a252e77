"""Every input that fuzzing has kept, the findings among them, is read or ends in an error of the package."""

from __future__ import annotations

import pytest

from tests.fuzz.targets import CORPUS, TARGETS, run


@pytest.mark.parametrize("name", TARGETS)
def test_kept_inputs_are_read_or_rejected(name):
    kept = sorted((CORPUS / name).iterdir())
    assert kept
    for path in kept:
        run(name, path.read_bytes())
