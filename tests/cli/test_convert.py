"""`tf-segformer convert` and `convert_weights.py`: weights from one world to another, told and verified."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.checkpoints.make_fixtures import FOLDER
from tf_segformer import SegformerConfig, SegformerForSemanticSegmentation
from tf_segformer.checkpoints.loading import open_checkpoint
from tf_segformer.cli import convert as convert_module

REPOSITORY = Path(__file__).parents[2]


def weights(folder_or_file):
    model = SegformerForSemanticSegmentation.from_pretrained(folder_or_file)
    return model.get_weights(), model.config


@pytest.mark.parametrize(
    ("target", "options", "written"),
    [
        ("folder", [], "folder/model.safetensors"),
        ("folder", ["--to", "nvlabs"], "folder/model.safetensors"),
        ("folder", ["--to", "keras"], "folder/model.keras"),
        ("model.keras", [], "model.keras"),
    ],
)
def test_every_target_holds_the_same_weights(run, checkpoint, tmp_path, target, options, written):
    source = checkpoint()
    outcome = run("convert", source, tmp_path / target, *options, "--verify")
    assert outcome.code == 0, outcome.err
    assert "Hugging Face (PyTorch): segmentation" in outcome.out
    assert "verified" in outcome.out
    first, second = weights(source), weights(tmp_path / written)
    for one, other in zip(first[0], second[0], strict=True):
        np.testing.assert_array_equal(one, other)
    assert first[1].id2label == second[1].id2label


def test_a_weights_file_of_keras_is_written_with_its_configuration_beside_it(run, tmp_path):
    source = SegformerForSemanticSegmentation(
        SegformerConfig.from_variant(
            "b0", num_labels=3, decoder_hidden_size=8, depths=(1, 1, 1, 1), block_norm_eps=2e-6
        )
    )
    source.save_pretrained(tmp_path / "source")
    outcome = run("convert", tmp_path / "source", tmp_path / "new" / "b0.weights.h5", "--verify")
    assert outcome.code == 0, outcome.err
    assert SegformerConfig.from_pretrained(tmp_path / "new").block_norm_eps == 2e-6
    for one, other in zip(source.get_weights(), weights(tmp_path / "new" / "b0.weights.h5")[0], strict=True):
        np.testing.assert_array_equal(one, other)


def test_names_of_nvlabs_are_in_the_file(run, checkpoint, tmp_path):
    run("convert", checkpoint(), tmp_path / "out", "--to", "nvlabs")
    names = load_file(tmp_path / "out" / "model.safetensors")
    assert {"backbone.block1.0.attn.kv.weight", "decode_head.linear_pred.bias"} <= set(names)


@pytest.mark.parametrize("to", ["huggingface", "keras"])
def test_the_configuration_of_the_images_goes_along(run, checkpoint, tmp_path, to):
    run("convert", checkpoint(), tmp_path / "out", "--to", to)
    name = "preprocessor_config.json"
    assert (tmp_path / "out" / name).read_bytes() == (checkpoint() / name).read_bytes()


def test_a_folder_with_an_archive_of_keras_is_a_model(run, checkpoint, tmp_path):
    run("convert", checkpoint(), tmp_path / "out", "--to", "keras")
    for one, other in zip(weights(checkpoint())[0], weights(tmp_path / "out")[0], strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_folder_can_be_converted_in_its_place(run, tmp_path):
    shutil.copytree(FOLDER / "tf", tmp_path / "model")
    before = weights(tmp_path / "model")[0]
    assert run("convert", tmp_path / "model", tmp_path / "model").code == 0
    assert (tmp_path / "model" / "model.safetensors").is_file()
    os.remove(tmp_path / "model" / "tf_model.h5")
    for one, other in zip(before, weights(tmp_path / "model")[0], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "content", ['["a", "b", "c", "d", "e"]', "a\nb\nc\nd\ne\n", '{"0":"a","1":"b","2":"c","3":"d","4":"e"}']
)
def test_class_names_are_taken_from_a_file(run, tmp_path, content):
    (tmp_path / "names").write_text(content)
    assert run("convert", FOLDER / "tf", tmp_path / "out", "--labels", tmp_path / "names").code == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["label2id"] == dict(
        zip("abcde", range(5), strict=True)
    )


def test_mistakes_are_one_line_and_exit_code_2(run, checkpoint, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(checkpoint(), broken)
    tensors = load_file(broken / "model.safetensors")
    save_file({name: tensors[name] for name in sorted(tensors)[3:]}, broken / "model.safetensors")
    cases = {
        "no such file or folder": [tmp_path / "none", tmp_path / "out"],
        "names for a model of 5 classes": [FOLDER / "tf", tmp_path / "out", "--labels", "cityscapes"],
        "nor a readable file of class names": [FOLDER / "tf", tmp_path / "out", "--labels", tmp_path / "none"],
        "missing: ": [broken, tmp_path / "out"],
        "give a folder": [checkpoint(), tmp_path / "model.safetensors"],
    }
    for message, arguments in cases.items():
        outcome = run("convert", *arguments)
        assert (outcome.code, message in outcome.err) == (2, True), outcome.err
        assert "Traceback" not in outcome.err
        assert not (tmp_path / "out").exists()


def test_a_difference_of_outputs_is_an_error(run, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(convert_module, "compare_outputs", lambda *_, **__: 1e-3)
    outcome = run("convert", checkpoint(), tmp_path / "out", "--verify")
    assert outcome.code == 2
    assert "differ" in outcome.err


def test_verification_sees_another_network(checkpoint, tmp_path):
    shutil.copytree(checkpoint(), tmp_path / "other")
    tensors = load_file(tmp_path / "other" / "model.safetensors")
    tensors["decode_head.classifier.bias"] = tensors["decode_head.classifier.bias"] + 0.1
    save_file(tensors, tmp_path / "other" / "model.safetensors")
    source = open_checkpoint(checkpoint())
    assert convert_module.compare_outputs(source, tmp_path / "other") > 1e-3
    assert convert_module.compare_outputs(source, checkpoint()) == 0


def test_a_large_checkpoint_has_a_progress_bar(run, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(convert_module, "LARGE", 0)
    outcome = run("convert", checkpoint(), tmp_path / "out")
    assert outcome.code == 0
    assert "converting" in outcome.out + outcome.err


@pytest.mark.parametrize("name", ["out", "out/model.keras"])
def test_the_script_does_the_same_without_loading_tensorflow(checkpoint, tmp_path, name):
    code = (
        "import sys, runpy; sys.argv = ['convert_weights.py', *sys.argv[1:]]\n"
        "try: runpy.run_path('convert_weights.py', run_name='__main__')\n"
        "finally: print('tensorflow' in sys.modules, 'torch' in sys.modules)\n"
    )
    command = [sys.executable, "-c", code, str(checkpoint()), str(tmp_path / name)]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "False False"
    assert list((tmp_path / "out").glob("model.*"))
