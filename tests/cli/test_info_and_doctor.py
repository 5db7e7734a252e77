"""`tf-segformer info` and `doctor` tell what is there."""

from __future__ import annotations

import json

import keras
import pytest

from tf_segformer.modeling.models import SegformerForSemanticSegmentation


def test_info_counts_parameters_and_names_the_file(run, checkpoint):
    outcome = run("info", checkpoint(), "--json", "--size", "64,96")
    facts = json.loads(outcome.out)
    model = SegformerForSemanticSegmentation.from_pretrained(checkpoint())
    assert facts["parameters_total"] == model.count_params()
    assert facts["parameters_total"] - facts["parameters_trainable"] == 2 * 8  # the batch norm's moving statistics
    assert facts["loaded_from"] == str(checkpoint() / "model.safetensors")
    assert facts["labels"] == {"0": "meadow", "1": "sky", "2": "house"}
    assert (facts["task"], facts["variant"], facts["size"]) == ("segmentation", "none of the published ones", [64, 96])


def test_info_prints_both_costs(run, checkpoint):
    outcome = run("info", checkpoint())
    assert outcome.code == 0
    assert "reference GMAC" in outcome.out
    assert "3: meadow, sky, house" in outcome.out


@pytest.mark.parametrize("task", ["classification", "encoder"])
def test_info_tells_the_task(run, checkpoint, task):
    assert json.loads(run("info", checkpoint(task), "--json").out)["task"] == task


def test_info_on_nothing_is_one_line(run, tmp_path):
    outcome = run("info", tmp_path / "nothing")
    assert outcome.code == 2
    assert len(outcome.err.splitlines()) == 1


def test_doctor_tells_versions_and_devices(run):
    facts = json.loads(run("doctor", "--json").out)
    assert facts["versions"]["keras"] == keras.version()
    assert facts["keras"]["backend"] == keras.backend.backend()
    assert any("cpu" in device for device in facts["keras"]["devices"])
    assert f"keras                     {keras.version()}" in run("doctor").out


@pytest.mark.parametrize("command", ["predict", "info", "convert", "evaluate", "export"])
def test_options_of_the_hub_reach_it(run, image, tmp_path, command):
    photo, target = image(tmp_path / "photo.png"), tmp_path / "out"
    arguments = {
        "predict": [photo, "-m", "owner/name", "-o", target],
        "info": ["owner/name"],
        "convert": ["owner/name", target],
        "evaluate": ["owner/name", tmp_path],
        "export": ["owner/name", target],
    }
    outcome = run(command, *arguments[command], "--local-files-only", "--cache-dir", tmp_path / "cache")
    assert outcome.code == 2
    assert "owner/name: " in outcome.err
    assert "is not in the local cache; drop local_files_only" in outcome.err
    assert not target.exists()
