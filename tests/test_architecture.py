"""The packages, who may import whom, how large they may grow, which words they use, and what importing them costs."""

from __future__ import annotations

import ast
import re
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
    "loading": LEAVES | {"configuration", "modeling", "checkpoints"},
    "data": LEAVES | {"imaging"},
    "inference": LEAVES | {"ops", "imaging", "configuration"},
    "batch": LEAVES | {"checkpoints", "imaging", "inference", "loading"},
    "raster": LEAVES | {"imaging", "inference"},
    "evaluation": LEAVES | {"ops", "imaging", "inference"},
    "training": LEAVES | {"ops", "configuration", "modeling", "imaging", "data", "inference", "evaluation"},
    "deploy": LEAVES | {"ops", "modeling", "imaging", "inference", "evaluation"},
    "benchmarking": LEAVES | {"checkpoints", "deploy", "evaluation", "imaging", "inference", "loading"},
    "transformers": LEAVES | {"ops", "configuration", "modeling", "imaging", "checkpoints", "training"},
    **{leaf: {"errors", "io"} for leaf in sorted(LEAVES)},
}
# A model's from_pretrained, save_pretrained and push_to_hub are methods, because users look for them there; they
# import the package of checkpoints when they are called.
METHODS = {("modeling/pretrained.py", "checkpoints")}


def package(module: str) -> str:
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
def test_a_package_imports_only_what_it_may(name):
    files = sorted((ROOT / name).rglob("*.py")) or [ROOT / f"{name}.py"]
    for path in files:
        where = path.relative_to(ROOT).as_posix()
        packages = {package(module) for module in imports(path)} - {name, ""}
        surplus = {each for each in packages - ALLOWED[name] if (where, each) not in METHODS}
        assert not surplus, f"{where} imports {surplus}"


def test_every_package_is_known_and_none_imports_the_command_line():
    packages = {path.stem for path in ROOT.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert packages - {"__init__", "__main__", "__pycache__", "cli", "embedded", "py"} == set(ALLOWED)
    for path in ROOT.rglob("*.py"):
        if path.parent.name != "cli" and path.name != "__main__.py":
            assert not {module for module in imports(path) if package(module) == "cli"}, path


def test_the_table_of_the_documentation_has_the_same_dependencies():
    page = (ROOT.parent / "docs" / "layout.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| [^`].* \| ?(.*)\|$", page, re.MULTILINE)
    table = {name: set(re.findall(r"\w+", names)) for name, names in rows}
    assert table == {name: allowed - LEAVES for name, allowed in ALLOWED.items() if name not in LEAVES}


# A file is read in one sitting. Whoever needs more lines raises the number in the same commit and says why.
LONGEST_FILE = 400
# 31,240 and 3,390 before ONNX files whose convolutions onnxruntime computes in 8 bits, and turns of several calls.
BUDGET = {"tf_segformer": 31_330, "tf_segformer/modeling": 1_660, "benchmarks": 3_395}


def count_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("folder", ["tf_segformer", "benchmarks"])
def test_no_file_is_longer_than_one_sitting(folder):
    paths = [path for path in (ROOT.parent / folder).rglob("*") if path.suffix in (".py", ".js", ".css", ".html")]
    files = {str(path): count_lines(path) for path in sorted(paths)}
    assert {path: lines for path, lines in files.items() if lines > LONGEST_FILE} == {}


@pytest.mark.parametrize("folder", BUDGET)
def test_folders_stay_within_their_budget(folder):
    assert sum(map(count_lines, (ROOT.parent / folder).rglob("*.py"))) <= BUDGET[folder]


# The field's words: what is not written, what is written instead, and the files in which the word has another sense.
PAINTING = (
    "imaging/drawing.py",
    "imaging/visualize.py",
    "imaging/__init__.py",
    "evaluation/",
    "training/run_log.py",
    "data/layouts/label_studio.py",
    "data/layouts/polygons.py",
    "data/previews.py",
    "inference/video.py",
    "raster/overlay.py",
    "cli/",
)
WORDS = {
    r"pictures?": ("image", ()),
    r"colou?red? in|colours?": ("color", ()),
    r"draw[ns]?|drawing": ("trace, sample, initialize; only an image is drawn", PAINTING),
    r"rooms?|arrows?": ("package, dependency; Arrow is a format", ("data/hugging_face.py", "batch/")),
    r"slopes?": ("gradient, dx", ()),
    r"strips": ("chunks of rows", ()),
    r"in turn": ("sequentially", ()),
    r"aside": ("temporary", ()),
    r"class_shares|class shares": ("class_fractions", ()),
    r"refus(e|es|ed|al|als)": ("reject", ()),
    r"(one|row|map|file|table) a (stage|block|class|image|file|row|position|family)": (
        "one per stage",
        ("cli/",),
    ),
    r"tells|told": ("detects, says, reports", ("cli/",)),
    r"beside": ("next to, and", ("cli/",)),
    r"anew": ("again, reinitialized", ("training/", "cli/")),
    r"rate_factor|warmup_ratio|max_class_share": ("lr_multiplier, warmup_start_factor, max_class_ratio", ()),
}


@pytest.mark.parametrize("word", WORDS)
def test_the_field_s_words_are_used(word):
    instead, elsewhere = WORDS[word]
    pattern = re.compile(rf"(?<![A-Za-z])({word})(?![A-Za-z])", re.IGNORECASE)
    for path in sorted(ROOT.rglob("*.py")):
        if not path.relative_to(ROOT).as_posix().startswith(elsewhere):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                found = pattern.search(line)
                assert not found, f"{path}:{number}: {found[0]!r}: say {instead!r}"


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


def test_the_networks_ask_for_no_backend_and_no_context():
    """What is faster or smaller in one place is chosen in `ops`: the networks read like the paper."""
    for path in sorted((ROOT / "modeling").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {
            (node.module or "") if isinstance(node, ast.ImportFrom) else alias.name
            for node in ast.walk(tree)
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for alias in node.names
        }
        assert not {name.split(".")[0] for name in imported} & {"contextvars", "tensorflow", "jax", "torch"}, path.name
        called = {node.func for node in ast.walk(tree) if isinstance(node, ast.Call)}
        names = {getattr(function, "attr", getattr(function, "id", "")) for function in called}
        assert "backend" not in names, f"{path.name} asks which backend runs"
