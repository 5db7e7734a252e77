"""Changes one expression of the package at a time and reports which changes no test notices.

    python -m tests.mutation                 # a sample of 300 of ops, modeling, checkpoints and training
    python -m tests.mutation --sample 50 ops # fewer, of one folder

A first run of the tests records which of them reach which line; a change runs only those, the file's own tests first
and then the fastest, until one fails. Neither mutmut nor cosmic-ray does this without importing TensorFlow for each
change (5 s); here the process that imported it is forked (Linux and macOS). Results are kept in build/mutation/ after
each change, and the next run goes on from there; delete the folder after changing code.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.abc
import importlib.machinery
import json
import os
import random
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tf_segformer"
RESULTS = ROOT / "build" / "mutation"
FOLDERS = ("ops", "modeling", "checkpoints", "training")
SECONDS = 90  # of tests for one change; one that makes a loop endless is noticed after four times as long
AT_ONCE = 2
CRASHED = 70
COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr,
}  # fmt: skip


class Mutant(NamedTuple):
    """One change: a file, the index of a place in it, and the change in words."""

    path: str
    place: int
    line: int
    change: str


def changed(node: ast.AST) -> ast.AST | None:
    """The node with its meaning changed, or None where nothing is worth a change."""
    new = copy.deepcopy(node)
    if isinstance(new, ast.Compare) and type(new.ops[0]) in COMPARISONS:
        new.ops[0] = COMPARISONS[type(new.ops[0])]()
    elif isinstance(new, ast.BinOp | ast.AugAssign) and type(new.op) in OPERATORS:
        new.op = OPERATORS[type(new.op)]()
    elif isinstance(new, ast.BoolOp):
        new.op = ast.Or() if isinstance(new.op, ast.And) else ast.And()
    elif isinstance(new, ast.UnaryOp) and isinstance(new.op, ast.Not | ast.USub):
        new = new.operand
    elif isinstance(new, ast.Constant):
        if isinstance(new.value, bool):
            new.value = not new.value
        elif isinstance(new.value, int | float):
            new.value = new.value + 1
        elif isinstance(new.value, str) and new.value:
            new.value += "-changed"
        else:
            return None
    elif isinstance(new, ast.Return) and new.value is not None and not is_none(new.value):
        new.value = ast.Constant(None)
    elif isinstance(new, ast.Expr) and isinstance(new.value, ast.Call):
        new = ast.Pass()
    elif isinstance(new, ast.If):
        new.test = ast.UnaryOp(ast.Not(), new.test)
    else:
        return None
    return ast.fix_missing_locations(ast.copy_location(new, node))


def is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def places(tree: ast.AST) -> Iterator[tuple[ast.AST, str, int | None]]:
    """Where a change may go: (parent, field, index), leaving out types, docstrings and the texts of errors."""
    for field, value in ast.iter_fields(tree):
        if field in ("annotation", "returns", "decorator_list", "type_params") or isinstance(tree, ast.JoinedStr):
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            docstring = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
            if (
                not isinstance(child, ast.AST)
                or docstring
                or isinstance(child, ast.Raise | ast.Import | ast.ImportFrom)
            ):
                continue
            if isinstance(tree, ast.keyword) and tree.arg == "name":  # of a layer
                continue
            if changed(child) is not None:
                yield tree, field, index
            yield from places(child)


def mutated(path: Path, place: int) -> tuple[ast.Module, int, str]:
    """The file's tree with one place changed, its line, and the change in words."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parent, field, index = list(places(tree))[place]
    old = getattr(parent, field) if index is None else getattr(parent, field)[index]
    new = changed(old)
    if index is None:
        setattr(parent, field, new)
    else:
        getattr(parent, field)[index] = new
    words = " -> ".join(ast.unparse(node).splitlines()[0][:60] for node in (old, new))
    return tree, old.lineno, words


def sample(folders: list[str], size: int, seed: int) -> list[Mutant]:
    everywhere = []
    for folder in folders:
        for path in sorted((PACKAGE / folder).rglob("*.py")):
            number = sum(1 for _ in places(ast.parse(path.read_text(encoding="utf-8"))))
            everywhere += [(path, place) for place in range(number)]
    chosen = random.Random(seed).sample(everywhere, min(size, len(everywhere)))
    return [Mutant(str(path.relative_to(ROOT)), place, *mutated(path, place)[1:]) for path, place in sorted(chosen)]


def record_coverage(tests: list[str], pytest_options: list[str]) -> None:
    """Runs the tests once, recording the lines that each reaches and the time it takes."""
    command = [
        sys.executable, "-m", "pytest", *tests, *pytest_options, "--cov=tf_segformer", "--cov-context=test",
        "--cov-report=", f"--junitxml={RESULTS / 'times.xml'}",
    ]  # fmt: skip
    environment = {**os.environ, "COVERAGE_FILE": str(RESULTS / "coverage")}
    if subprocess.run(command, cwd=ROOT, env=environment).returncode:
        raise SystemExit("the tests fail without any change")


def tests_by_line() -> tuple[dict[str, dict[int, list[str]]], Callable[[str], float]]:
    """The tests that reach each line of a file, the fastest first (line 0: any line of it), and the time of a test."""
    from coverage import CoverageData

    times = {}
    for case in xml.etree.ElementTree.parse(RESULTS / "times.xml").iter("testcase"):
        times[case.get("classname", "").rpartition(".")[2], case.get("name")] = float(case.get("time", 0))
    data = CoverageData(str(RESULTS / "coverage"))
    data.read()

    def seconds(test: str) -> float:
        *_, group, name = test.replace("::", "/").split("/")
        return times.get((group.removesuffix(".py"), name), 1.0)

    found: dict[str, dict[int, list[str]]] = {}
    for file in data.measured_files():
        lines = {
            line: sorted({each.rpartition("|")[0] for each in contexts if each}, key=seconds)
            for line, contexts in data.contexts_by_lineno(file).items()
        }
        lines[0] = sorted({test for tests in lines.values() for test in tests}, key=seconds)
        found[str(Path(file).resolve().relative_to(ROOT))] = lines
    return found, seconds


Result = tuple[Mutant, str]


class ChangedFile(importlib.machinery.SourceFileLoader):
    """Compiles a changed tree in place of the file that it was read from."""

    tree: ast.Module

    def get_code(self, fullname):
        return compile(self.tree, self.path, "exec")


class Finder(importlib.abc.MetaPathFinder):
    """Finds the changed module before Python finds the file."""

    def __init__(self, name: str, loader: ChangedFile):
        self.name, self.loader = name, loader

    def find_spec(self, fullname, path, target=None):
        if fullname == self.name:
            return importlib.util.spec_from_file_location(fullname, self.loader.path, loader=self.loader)
        return None


def run_changed(mutant: Mutant, tests: list[str]) -> int:
    """Runs the tests with the change in this process, quietly, and gives pytest's exit code."""
    import pytest

    path = ROOT / mutant.path
    name = ".".join(Path(mutant.path).with_suffix("").parts).removesuffix(".__init__")
    loader = ChangedFile(name, str(path))
    loader.tree = mutated(path, mutant.place)[0]
    sys.meta_path.insert(0, Finder(name, loader))
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    return int(pytest.main(["-x", "-n0", "-m", "", "-p", "no:cacheprovider", "-p", "no:cov", *tests]))


class Run(NamedTuple):
    """A process that tests one change, and when it has run too long."""

    mutant: Mutant
    process: int
    deadline: float


def start(mutant: Mutant, tests: list[str], seconds: float) -> Run:
    """Forks a process that runs the tests with the change."""
    child = os.fork()
    if not child:
        os.setpgrp()
        code = CRASHED
        try:
            code = run_changed(mutant, tests)
        finally:
            os._exit(code)
    return Run(mutant, child, time.monotonic() + 60 + 4 * seconds)


def outcome(run: Run) -> str | None:
    """ "killed", "timeout" (killed, too), "survived", "error" where no test ran, or None while it runs."""
    ended, status = os.waitpid(run.process, os.WNOHANG)
    if ended:
        code = os.waitstatus_to_exitcode(status)
        # 4: the file of a test cannot be imported any more, so that pytest does not find the test
        return {0: "survived", 5: "error"}.get(code, "killed")
    if time.monotonic() < run.deadline:
        return None
    os.killpg(run.process, signal.SIGKILL)
    os.waitpid(run.process, 0)
    return "timeout"


def results_of(mutants: list[Mutant], tests_of: Callable[[Mutant], tuple[list[str], float]]) -> Iterator[Result]:
    """Tests the changes, two at a time; "untested" are those whose line no test reaches."""
    waiting, running = list(reversed(mutants)), []
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            mutant = waiting.pop()
            tests, seconds = tests_of(mutant)
            if tests:
                running.append(start(mutant, tests, seconds))
            else:
                yield mutant, "untested"
        for run in list(running):
            if result := outcome(run):
                running.remove(run)
                yield run.mutant, result
        time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", default=FOLDERS)
    parser.add_argument("--sample", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--slow", action="store_true", help="with the slow tests")
    arguments = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    if not (RESULTS / "times.xml").exists():
        record_coverage(["tests"], ["-m", ""] if arguments.slow else [])
    reached, seconds = tests_by_line()
    log = RESULTS / "results.jsonl"
    known = {}
    if log.exists():
        for line in log.read_text(encoding="utf-8").splitlines():
            *fields, result = json.loads(line)
            known[Mutant(*fields)] = result
    import keras  # noqa: F401  so that each fork has it
    import tensorflow  # noqa: F401

    def tests_of(mutant: Mutant) -> tuple[list[str], float]:
        """Tests that reach the line (of a table: its file, or its folder), and how long they take."""
        lines, tests, total = reached.get(mutant.path, {}), [], 0.0
        folder, own = Path(mutant.path).parent, f"/test_{Path(mutant.path).stem}.py::"
        beside = {test for path, each in reached.items() if Path(path).parent == folder for test in each[0]}
        reaching = lines.get(mutant.line) or lines.get(0) or sorted(beside, key=seconds)
        for test in sorted(reaching, key=lambda test: own not in test):  # the order of time is kept within
            total += seconds(test)
            if tests and total > SECONDS:
                break
            tests.append(test)
        return tests, min(total, SECONDS)

    mutants = sample(arguments.folders, arguments.sample, arguments.seed)
    for mutant, result in results_of([each for each in mutants if each not in known], tests_of):
        known[mutant] = result
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps([*mutant, result]) + "\n")
        if result not in ("killed", "timeout"):
            print(f"{len(known)}/{len(mutants)} {mutant.path}:{mutant.line} {result}: {mutant.change}", flush=True)
    killed = sum(known[mutant] in ("killed", "timeout") for mutant in mutants)
    print(f"{killed} of {len(mutants)} changes are noticed: {killed / len(mutants):.0%}")


if __name__ == "__main__":
    main()
