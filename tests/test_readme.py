"""Every command and code block of the README runs as written, in order, in a folder of its own."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from tf_segformer.cli import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
INSTALLS = [code for _, code in BLOCKS if "-m venv" in code]  # run as written by .ci/run
RUNNABLE = [(language, code) for language, code in BLOCKS if code not in INSTALLS]
HUB_MODEL = "nvidia/segformer-b0-finetuned-ade-512-512"


def load_helper(path: str):
    spec = spec_from_file_location(Path(path).stem, ROOT / "tests" / path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """What the README's reader has: the clone's example, images with labels, a Hub; and the environment."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "examples", folder / "examples")
    load_helper("training/scenes.py").write_dataset(folder / "my-dataset", train=8, val=2)
    hub = load_helper("checkpoints/hub_server.py").HubServer()
    checkpoint = ROOT / "tests" / "modeling" / "golden" / "segmentation"
    hub.files[HUB_MODEL] = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(folder / "hub-cache"),
        "HF_HUB_DISABLE_XET": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    yield folder, environment
    hub.close()


def title(block: tuple[str, str]) -> str:
    return next(line for line in block[1].splitlines() if not line.startswith(("import", "from")) and line)[:40]


@pytest.mark.slow
@pytest.mark.parametrize("block", RUNNABLE, ids=title)
def test_block_runs_as_written(block, workspace):
    language, code = block
    folder, environment = workspace
    for package in ("jax", "transformers"):
        if package in code and not find_spec(package):
            pytest.skip(f"needs {package}, of the extra 'parity'")
    shells = {"python": [sys.executable, "-c", code], "bash": ["bash", "-euo", "pipefail", "-c", code]}
    finished = subprocess.run(shells[language], cwd=folder, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, f"{code}\n{finished.stdout}\n{finished.stderr[-3000:]}"


def test_the_figures_of_the_exported_forms_are_those_of_the_results():
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    pattern = r"^\| one image \| float32 .*\n\|---.*\n((?:\| B.*\n)+)"
    (measured,), (stated,) = (re.findall(pattern, text, re.MULTILINE) for text in (results, README))
    assert measured == stated
    for percent in re.findall(r"62\.\d+ %", README):
        assert f" {percent} |" in results


def test_the_install_commands_name_extras_and_images_that_exist():
    options = configparser.ConfigParser()
    options.read(ROOT / "setup.cfg")
    extras = set(options["options.extras_require"])
    assert len(INSTALLS) == 2
    for name in re.findall(r"\.\[([\w,]+)\]", README):
        assert set(name.split(",")) <= extras
    for path in re.findall(r"\]\(([^)#:]+)\)", README) + re.findall(r"examples/[\w.]+", README):
        assert (ROOT / path).exists(), path


def test_the_cost_that_the_readme_states_is_what_info_prints():
    from tf_segformer import SegformerConfig
    from tf_segformer.modeling.macs import segmentation_macs

    config = SegformerConfig.from_variant("b0", num_labels=11)
    ours = segmentation_macs(config, (512, 512)) / 1e9
    reference = segmentation_macs(config, (512, 512), composed_head=False) / 1e9
    assert f"{ours:.1f} instead of {reference:.1f} GMAC" in README


def test_fine_tuning_takes_less_than_twenty_lines():
    (code,) = [code for language, code in BLOCKS if language == "python" and ".fit(" in code]
    assert len(code.splitlines()) < 20


PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_imports_and_options_in_the_pages_exist(page):
    text = page.read_text(encoding="utf-8")
    for line in re.findall(r"^from tf_segformer.*$", text, re.MULTILINE):
        exec(line, {})
    commands = re.findall(r"tf-segformer ([a-z][a-z-]*)((?:[^\n`|]|\\\n)*)", text)
    for name, arguments in commands:
        command = cli.get_command(None, name)
        assert command is not None, name
        options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert set(re.findall(r"(?<=\s)--?[a-z][a-z-]*", arguments)) <= options | {"--help"}, (name, arguments)


def test_files_in_the_table_of_the_layout_exist():
    text = (ROOT / "docs" / "layout.md").read_text(encoding="utf-8")
    for row in re.findall(r"^\| [^|]+ \| (`.*) \|$", text, re.MULTILINE):
        room = Path()
        for name in re.findall(r"`([\w/.]+)`", row):
            room = Path(name).parent if "/" in name else room
            assert (ROOT / "tf_segformer" / room / Path(name).name).exists() or (ROOT / "tf_segformer" / name).exists()
