"""The rooms and the arrows between them: who may import whom, and what importing the package costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "tf_segformer"
LEAVES = {"errors", "half_pixel", "hub", "io", "requirements"}
ALLOWED = {
    "ops": LEAVES,
    "configuration": LEAVES,
    "modeling": LEAVES | {"ops", "configuration"},
    "imaging": LEAVES,
    "checkpoints": LEAVES | {"configuration", "imaging"},
    "data": LEAVES | {"imaging"},
    "inference": LEAVES | {"ops", "imaging"},
    "evaluation": LEAVES | {"ops", "imaging", "inference"},
    "training": LEAVES | {"ops", "configuration", "modeling", "imaging", "data", "inference", "evaluation"},
    "deploy": LEAVES | {"ops", "modeling", "imaging", "inference"},
    **{leaf: {"errors", "io"} for leaf in sorted(LEAVES)},
}
# A model's from_pretrained, save_pretrained and push_to_hub are methods, because users look for them there; they
# import the room of checkpoints when they are called.
METHODS = {("modeling/models.py", "checkpoints"), ("evaluation/metrics.py", "training")}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports(path: Path) -> set[str]:
    """The modules of this package that a file imports, anywhere in it."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tf_segformer"):
            modules |= {f"{node.module}.{each.name}" for each in node.names}
        elif isinstance(node, ast.Import):
            modules |= {each.name for each in node.names if each.name.startswith("tf_segformer")}
    return modules


@pytest.mark.parametrize("name", ALLOWED)
def test_a_room_imports_only_what_it_may(name):
    files = sorted((ROOT / name).rglob("*.py")) or [ROOT / f"{name}.py"]
    for path in files:
        where = path.relative_to(ROOT).as_posix()
        rooms = {room(module) for module in imports(path)} - {name, ""}
        surplus = {each for each in rooms - ALLOWED[name] if (where, each) not in METHODS}
        assert not surplus, f"{where} imports {surplus}"


def test_every_room_is_known_and_none_imports_the_command_line():
    rooms = {path.stem for path in ROOT.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert rooms - {"__init__", "__main__", "__pycache__", "cli", "embedded", "py"} == set(ALLOWED)
    for path in ROOT.rglob("*.py"):
        if path.parent.name != "cli" and path.name != "__main__.py":
            assert not {module for module in imports(path) if room(module) == "cli"}, path


def test_importing_the_package_loads_nothing_heavy_and_prints_nothing():
    code = (
        "import sys, tf_segformer; print(sorted({'tensorflow', 'keras', 'numpy', 'PIL', 'click'} & set(sys.modules)))"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent, check=True)
    assert (finished.stdout.strip(), finished.stderr) == ("[]", "")


def test_every_public_name_is_there():
    import tf_segformer

    for name in tf_segformer.__all__:
        assert getattr(tf_segformer, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = tf_segformer.nonsense


def test_every_file_says_in_its_first_line_why_it_exists():
    for path in ROOT.rglob("*.py"):
        assert path.read_text(encoding="utf-8").startswith('"""'), path
