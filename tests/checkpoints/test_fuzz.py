"""Damaged files: each is read or rejected, at once, within its size, and nothing is executed, not even libhdf5."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkpoints.make_fixtures import FOLDER

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


pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the process limits its own memory as Linux does"
)


def outcome_of(kind: str, count: int) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.checkpoints.fuzz", kind, str(count)]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:] or f"killed by signal {-ended.returncode}"
    outcome = json.loads(ended.stdout)
    assert outcome["read"] + outcome["rejected"] == count
    assert outcome["slowest"] < 2
    return outcome


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_or_rejected(kind):
    assert outcome_of(kind, FILES_OF_A_KIND)["rejected"] > FILES_OF_A_KIND / 2


@pytest.mark.parametrize("kind", ["h5", "torch pickle"])
def test_some_damaged_files_are_read_or_rejected(kind):
    assert outcome_of(kind, 200)["rejected"] > 100


def test_files_behind_published_holes_of_libhdf5_end_no_process():
    assert outcome_of("cve", 137)["rejected"] > 100


def test_no_file_is_read_by_libhdf5(tmp_path):
    code = (
        "import sys; from pathlib import Path; from tf_segformer.checkpoints.readers import read_checkpoint\n"
        "tensors = read_checkpoint(Path(sys.argv[1])).tensors\n"
        "print(len([tensor.read() for tensor in tensors.values()]), 'h5py' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(FOLDER / "tf" / "tf_model.h5")]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    number, loaded = ended.stdout.split()
    assert (int(number) > 100, loaded) == (True, "False")
