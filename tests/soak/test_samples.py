"""A short sample of each soak: what the long runs of CONTRIBUTING check must hold from the first minute."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, and reads /proc"),
]


def outcome(*command: str) -> dict:
    """The line of JSON that a soak prints."""
    arguments = [sys.executable, "-m", *command]
    root = Path(__file__).parents[2]
    ended = subprocess.run(arguments, cwd=root, capture_output=True, text=True, timeout=900, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(ended.stdout.splitlines()[-1])


def test_what_is_on_disk_is_whole_after_every_kill():
    killed = outcome("tests.soak.kill", "6")
    assert [killed[writer]["kills"] for writer in ("predict", "save_pretrained", "train")] == [2, 2, 2]


def test_a_server_under_load_gives_every_request_its_answer():
    pytest.importorskip("tensorflow_serving", reason='needs the extra "serving"')
    loaded = outcome("tests.soak.serving", "320")
    assert loaded["requests"] >= 320
    assert loaded["counts"]["dropped connections"] > 0
