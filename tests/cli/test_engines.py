"""`--engine` of predict and evaluate: a checkpoint in another engine, exported once; doctor says what there is."""

from __future__ import annotations

import json
import shutil

import pytest

from tf_segformer.inference import engines


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tf_segformer" / "engines"


@pytest.mark.parametrize(
    ("engine", "module"),
    [("onnxruntime", "onnxruntime"), pytest.param("litert", "ai_edge_litert", marks=pytest.mark.slow)],
)
def test_a_checkpoint_runs_in_an_engine_and_is_exported_once(run, checkpoint, image, tmp_path, cache, engine, module):
    pytest.importorskip(module)
    photo = image(tmp_path / "photo.png")
    arguments = ("predict", photo, "-o", tmp_path / "out", "--json", "-m")
    expected = json.loads(run(*arguments, checkpoint()).out)
    first = run(*arguments, checkpoint(), "--engine", engine)
    assert first.code == 0 and first.err.count("\n") == 1 and f"wrote {cache}" in first.err
    second = run(*arguments, checkpoint(), "--engine", engine)
    assert (second.code, second.err) == (0, "")
    for outcome in (first, second):
        assert json.loads(outcome.out)["class_fractions"] == pytest.approx(expected["class_fractions"], abs=1e-3)
    assert [path.suffix for path in cache.iterdir()] == [""] and len(list(cache.iterdir())) == 1
    (model,) = cache.glob("*/model.*")
    model.write_bytes(b"damaged")
    damaged = run(*arguments, checkpoint(), "--engine", engine)
    assert damaged.code == 2 and damaged.err.count("\n") == 1 and f"{model}: {engine} cannot load it" in damaged.err
    model.unlink()
    assert run(*arguments, checkpoint(), "--engine", engine).err == first.err
    other = tmp_path / "other"
    shutil.copytree(checkpoint(), other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"id2label": {"0": "a", "1": "b", "2": "c"}}))
    assert set(json.loads(run(*arguments, other, "--engine", engine).out)["class_fractions"]) <= {"a", "b", "c"}
    assert len(list(cache.iterdir())) == 2


def test_a_classifier_runs_in_an_engine(run, checkpoint, image, tmp_path):
    pytest.importorskip("openvino")
    photo = image(tmp_path / "photo.png")
    arguments = ("predict", photo, "--json", "-m", checkpoint("classification"))
    expected = json.loads(run(*arguments).out)["probabilities"]
    assert json.loads(run(*arguments, "--engine", "openvino").out)["probabilities"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("arguments", [("predict", "photo.png", "-m"), ("evaluate",)], ids=lambda each: each[0])
def test_what_an_engine_cannot_is_one_line(run, checkpoint, image, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    image(tmp_path / "photo.png")
    more = (tmp_path,) if arguments == ("evaluate",) else ()
    outcome = run(*arguments, checkpoint(), *more, "--engine", "litert", "--precision", "bfloat16")
    assert outcome.code == 2 and "is for tensorflow and openvino, not for --engine litert" in outcome.err
    outcome = run(*arguments, checkpoint("encoder"), *more, "--engine", "onnxruntime")
    assert outcome.code == 2 and "a model for encoder, it has no decode head" in outcome.err
    monkeypatch.setattr("tf_segformer.cli.engine_cache.is_installed", lambda name: False)
    outcome = run(*arguments, checkpoint(), *more, "--engine", "openvino")
    assert outcome.code == 2 and outcome.err.count("\n") == 1
    assert "it is not installed: pip install 'tf_segformer[openvino]'" in outcome.err


def test_doctor_names_the_engines_and_the_fastest(run, monkeypatch, cache):
    facts = json.loads(run("doctor", "--json").out)["engines"]
    assert list(facts) == [*engines.ENGINES, "auto", "cache"]
    assert facts["tensorflow"] == "installed"
    assert facts["auto"].startswith(engines.fastest_engine())
    assert facts["cache"] == str(cache)
