"""Claims about memory hold against the plain form, each measured in a process of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("peaks.py")
CLAIMS = re.findall(r"^    (\w+): 0\.\d+,$", SCRIPT.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc is read")
@pytest.mark.parametrize("claim", CLAIMS)
def test_the_peak_is_a_fraction_of_the_plain_form_s(claim):
    finished = subprocess.run([sys.executable, str(SCRIPT), claim], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-3000:]
    measured = json.loads(finished.stdout.splitlines()[-1])
    assert 0 < measured["ours"] < measured["bound"] * measured["plain"], measured


def test_every_claim_is_found():
    assert len(CLAIMS) == 9
