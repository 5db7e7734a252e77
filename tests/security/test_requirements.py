"""The lock files agree with setup.cfg: the floors are its lower bounds, the development lock covers it with hashes."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOT_LOCKED = ("parity",)  # with PyTorch, whose wheels differ by accelerator


def sections() -> configparser.ConfigParser:
    """setup.cfg."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    return setup


def lower_bounds(extras: tuple[str, ...]) -> dict[str, str]:
    """Lowest allowed version of every direct dependency."""
    setup = sections()
    lines = setup["options"]["install_requires"].split()
    for extra in extras:
        lines += setup["options.extras_require"][extra].split()
    found = [re.fullmatch(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", line) for line in lines]
    assert all(found), "every dependency states its lowest version and no highest one"
    return {canonical(match[1]): match[2] for match in found}


def pins(name: str) -> dict[str, str]:
    """Version of every package that a lock file names."""
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    return {canonical(match[1]): match[2] for match in re.finditer(r"^([\w.-]+)==([\w.+]+)", text, re.MULTILINE)}


def canonical(name: str) -> str:
    return name.lower().replace("_", "-")


def as_numbers(version: str) -> list[int]:
    """Comparable form of a version: 13.0 equals 13.0.0."""
    numbers = [int(part) for part in re.findall(r"\d+", version)]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return numbers


def test_the_floors_are_the_lowest_versions_that_setup_allows():
    floors = pins("floors.txt")
    for name, lowest in lower_bounds(("test",)).items():
        assert as_numbers(floors[name]) == as_numbers(lowest), f"{name}: run .ci/lock after changing setup.cfg"


def test_the_development_lock_holds_every_dependency_with_hashes():
    text = (ROOT / "requirements" / "development.txt").read_text(encoding="utf-8")
    locked = pins("development.txt")
    extras = tuple(name for name in sections()["options.extras_require"] if name not in NOT_LOCKED)
    for name, lowest in lower_bounds(extras).items():
        assert name in locked, f"{name}: .ci/lock leaves it out"
        assert as_numbers(locked[name]) >= as_numbers(lowest), f"{name}: run .ci/lock after changing setup.cfg"
    packages = re.split(r"\n(?=\S)", text.strip())
    unhashed = [each.split()[0] for each in packages if not each.startswith("#") and "--hash=sha256:" not in each]
    assert not unhashed


# Versions in which the published holes of SECURITY.md are closed.
CLOSED_IN = {"keras": "3.15.1", "pillow": "13.0", "tensorflow": "2.20", "huggingface-hub": "1.31", "safetensors": "0.5"}


@pytest.mark.parametrize("name", CLOSED_IN)
def test_no_version_with_a_published_hole_is_allowed(name):
    assert as_numbers(lower_bounds(())[name]) >= as_numbers(CLOSED_IN[name])
