"""Where a process finds the others, and what several processes cannot do is said at once."""

from __future__ import annotations

import json
import socket

import keras
import pytest

from tests.other_backends import output_on
from tf_segformer.errors import SegformerError
from tf_segformer.training import process_group
from tf_segformer.training.process_group import ProcessGroup, find_process_group, start_processes

JAX = {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "2"}
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[3-4]",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}


@pytest.mark.parametrize(
    ("arguments", "variables", "group"),
    [
        ((), {}, None),
        (("b:2", 2, 1), {}, ProcessGroup("b:2", 2, 1)),
        ((), JAX, ProcessGroup("a:1", 4, 2)),
        (("b:2", None, 0), JAX, ProcessGroup("b:2", 4, 0)),
        ((None, 1), JAX, None),
        ((), {"JOB_COMPLETION_INDEX": "3"}, None),  # an indexed job whose pods train something else each
        (("b:2", 8), {"JOB_COMPLETION_INDEX": "3"}, ProcessGroup("b:2", 8, 3)),
        (
            (None, 8),
            {"JOB_COMPLETION_INDEX": "3", "KUBERNETES_SERVICE_HOST": "10.0.0.1"},
            ProcessGroup(None, 8, 3, None),
        ),
        ((), SLURM, ProcessGroup(None, None, None, "slurm")),
        (("b:2",), SLURM, ProcessGroup("b:2", None, None, "slurm")),
        ((), {**SLURM, "SLURM_NTASKS": "1"}, None),
    ],
)
def test_arguments_come_before_variables_of_jax_kubernetes_and_slurm(arguments, variables, group):
    assert find_process_group(*arguments, environment=variables) == group


def test_a_missing_part_and_a_number_out_of_range_are_named():
    with pytest.raises(SegformerError, match=r"num_processes and process_id is missing: .*JAX_NUM_PROCESSES"):
        find_process_group("b:2", environment={})
    with pytest.raises(SegformerError, match="coordinator is missing"):
        find_process_group(environment={**JAX, "JAX_COORDINATOR_ADDRESS": ""})
    with pytest.raises(ValueError, match="process_id=4 must be at least 0 and below num_processes=4"):
        find_process_group(process_id=4, environment=JAX)
    with pytest.raises(ValueError, match="JAX_NUM_PROCESSES='four' is not a number"):
        find_process_group(environment={**JAX, "JAX_NUM_PROCESSES": "four"})


def test_workers_of_tensorflow_are_rejected_with_what_to_use_instead(monkeypatch):
    hosts = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(hosts))
    with pytest.raises(SegformerError, match=r"TF_CONFIG .* use --backend jax with --coordinator"):
        start_processes()
    hosts["cluster"]["worker"].pop()
    monkeypatch.setenv("TF_CONFIG", json.dumps(hosts))
    assert start_processes() == 1


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="about TensorFlow")
def test_several_processes_need_jax():
    with pytest.raises(SegformerError, match="backend JAX alone, this is tensorflow: --backend jax"):
        start_processes("127.0.0.1:1", 2, 0)


@pytest.mark.parametrize(("host", "warns"), [("10.0.0.9", True), ("127.0.0.1", False)])
def test_a_host_whose_name_others_cannot_reach_is_warned_of(monkeypatch, recwarn, host, warns):
    monkeypatch.setattr(socket, "gethostname", lambda: "node1")
    monkeypatch.setattr(socket, "gethostbyname", lambda name: {"node1": "127.0.1.1"}.get(name, name))
    process_group._warn_of_unreachable_name(f"{host}:8476")
    assert [str(each.message).partition(" here")[0] for each in recwarn] == (
        ["the name of this host, node1, is 127.0.1.1"] if warns else []
    )


TORCHRUN = """
import os
os.environ["WORLD_SIZE"] = "2"
from tf_segformer.training import process_group
from tf_segformer.training.process_group import start_processes
try:
    start_processes()
except Exception as error:
    print(error)
"""


@pytest.mark.slow
def test_torchrun_is_rejected_by_the_name_of_the_version_that_is_missing():
    assert "Keras 3.16" in output_on("torch", TORCHRUN)
