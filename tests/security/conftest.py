"""What shows that hostile code has run."""

from __future__ import annotations

import pytest


@pytest.fixture
def trace(tmp_path, monkeypatch):
    """The file that hostile code would write; the test fails where it exists or anything else has appeared."""
    path = tmp_path / "trace"
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    yield path
    assert not path.exists(), "code of the file was executed"
    assert {each.name for each in tmp_path.iterdir()} <= {"inside", "secret"}, "a file was written out of its folder"
