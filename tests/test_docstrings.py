"""Public names are documented, and the examples in every docstring give what they say."""

from __future__ import annotations

import doctest
import inspect
import pkgutil
from importlib import import_module

import pytest

import tf_segformer

MODULES = ["tf_segformer"] + [
    module.name
    for module in pkgutil.walk_packages(tf_segformer.__path__, "tf_segformer.")
    if not module.name.endswith("__main__")
]
EXTRAS = {"tf_segformer.deploy.edge": "tf2onnx", "tf_segformer.deploy.serving": "tensorflow_serving"}
PUBLIC_CLASSES = [name for name in tf_segformer.__all__ if name[0] == "S"]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_give_what_they_say(name, tmp_path, monkeypatch):
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name])
    monkeypatch.chdir(tmp_path)
    module = import_module(name)
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    for example in finder.find(module, name):
        runner.run(example, out=report.append)
    assert not runner.summarize(verbose=False).failed, "".join(report)


@pytest.mark.parametrize("name", PUBLIC_CLASSES)
def test_public_classes_say_what_they_take_and_show_an_example(name):
    text = inspect.getdoc(getattr(tf_segformer, name))
    assert ">>> " in text
    assert "Args:" in text


@pytest.mark.parametrize("module", ["losses", "metrics", "optimization"])
def test_every_function_of_the_public_modules_shows_an_example(module):
    room = getattr(tf_segformer, module)
    for name, value in vars(room).items():
        if not name.startswith("_") and getattr(value, "__module__", None) == room.__name__:
            assert ">>> " in (inspect.getdoc(value) or ""), f"{room.__name__}.{name} has no example"
