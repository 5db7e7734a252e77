"""10,000 damaged files: each is read or rejected, at once, within its size, and nothing is executed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

KINDS = (
    "safetensors",
    "index",
    "torch zip",
    "torch pickle",
    "torch stream",
    "h5",
    "keras config",
    "keras weights",
)
FILES_OF_A_KIND = 1250
REPOSITORY = Path(__file__).parents[2]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the process limits its own memory as Linux does")
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_or_rejected(kind):
    command = [sys.executable, "-m", "tests.checkpoints.fuzz", kind, str(FILES_OF_A_KIND)]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:] or f"killed by signal {-ended.returncode}"
    outcome = json.loads(ended.stdout)
    assert outcome["read"] + outcome["rejected"] == FILES_OF_A_KIND
    assert outcome["rejected"] > FILES_OF_A_KIND / 2
    assert outcome["slowest"] < 2
