"""Processes that train one model together compute what one process computes, and one that dies ends the run."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from tests.training.processes import TIMEOUT, end, finish, start, state_of, text_of, wait_for
from tests.training.scenes import write_dataset
from tf_segformer.errors import SegformerError
from tf_segformer.training import distributed
from tf_segformer.training.distributed import broadcast, count_processes, gather, on_first_process, process_index

pytest.importorskip("jax")


def test_one_process_needs_no_others():
    values = np.array([2**40, -1])
    assert (count_processes(), process_index()) == (1, 0)
    np.testing.assert_array_equal(gather(values), values[None])
    np.testing.assert_array_equal(broadcast(values), values)
    with pytest.raises(KeyError):
        on_first_process(lambda: {}["missing"])


def test_a_batch_that_devices_do_not_share_evenly_is_named(monkeypatch):
    monkeypatch.setattr(distributed, "count_devices", lambda: 3)
    with pytest.raises(SegformerError, match="3 devices do not share a batch of 4 images evenly"):
        distributed.check_distribution(None, [6, 4])


def test_a_broken_connection_becomes_an_error_that_says_what_to_do(monkeypatch):
    monkeypatch.setattr(distributed, "count_processes", lambda: 2)
    message = r"another process of this run ended .* with --resume"
    with pytest.raises(SegformerError, match=message), distributed.lost_processes_named():
        raise ValueError("UNKNOWN: Gloo AllGather failed: Connection reset by peer")
    with pytest.raises(ValueError, match="something else"), distributed.lost_processes_named():
        raise ValueError("something else")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "scenes", train=7, val=4)


@pytest.fixture(scope="module")
def one(scenes):
    """The folder of the run of one process."""
    return finish(start(scenes, scenes.parent / "one", 1), scenes.parent / "one")


@pytest.fixture(scope="module")
def two(scenes):
    """The folder of a run of two processes that nobody interrupted."""
    return finish(start(scenes, scenes.parent / "two", 2), scenes.parent / "two")


def rows_of(folder):
    """The numbers of log.csv, without the speed."""
    with (folder / "log.csv").open() as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    return [{name: value for name, value in row.items() if name != "images_per_second"} for row in rows]


# A constant that is added before the batch norm changes nothing: the gradient of these biases (linear_c_0 to _3)
# is what rounding leaves, of which Adam makes steps of full size. The mean that the batch norm takes away follows them.
UNDECIDED = re.compile(r"model/01(16|18|20|22)/bias|.*linear_c_\d_bias_average|.*/moving_mean")


def assert_same_run(folder, reference):
    """Losses and every variable of model and optimizer, to 1e-5; metrics but for the class of a pixel or two."""
    for row, expected in zip(rows_of(folder), rows_of(reference), strict=True):
        for name, value in expected.items():
            atol = 1e-5 if "loss" in name or "rate" in name else 1e-3
            np.testing.assert_allclose(row[name], value, rtol=1e-5, atol=atol, err_msg=name)
    ours, others = state_of(folder), state_of(reference)
    assert sum(bool(UNDECIDED.fullmatch(name)) for name in others) == 9
    for name in set(others) - {"__meta__"}:
        atol = 2e-3 if UNDECIDED.fullmatch(name) else 1e-5
        np.testing.assert_allclose(ours[name], others[name], rtol=1e-5, atol=atol, err_msg=name)
    assert (folder / "best/model.safetensors").is_file()
    assert (folder / "curves.png").is_file()


@pytest.mark.slow
def test_two_processes_train_like_one(one, two):
    assert_same_run(two, one)
    assert "step 20" in text_of(two, 0)
    assert "step" not in text_of(two, 1)


@pytest.mark.slow
def test_three_processes_train_like_one(scenes, one):
    output = scenes.parent / "three"
    assert_same_run(finish(start(scenes, output, 3), output), one)


@pytest.mark.slow
def test_two_devices_of_one_process_train_like_one(scenes, one):
    output = scenes.parent / "devices"
    assert_same_run(finish(start(scenes, output, 1, devices=2), output), one)


@pytest.fixture
def namespaces():
    """Commands that run in network namespaces with an address each, with a bridge between; skipped without."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need ip and root")
    names, bridge = [f"segformer{index}" for index in range(2)], "segformer-br"

    def ip(*arguments):
        made = subprocess.run(["ip", *arguments], capture_output=True, text=True)
        if made.returncode and "delete" not in arguments:
            pytest.skip(f"network namespaces cannot be made here: {made.stderr}")

    try:
        ip("link", "add", bridge, "type", "bridge")
        ip("link", "set", bridge, "up")
        for index, name in enumerate(names):
            ip("netns", "add", name)
            ip("link", "add", f"veth-{name}", "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", f"veth-{name}", "master", bridge, "up")
            ip("-n", name, "address", "add", f"10.117.0.{index + 1}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", "eth0", "up")
            hosts = Path("/etc/netns", name, "hosts")  # what /etc/hosts is within the namespace
            hosts.parent.mkdir(parents=True, exist_ok=True)
            hosts.write_text(f"127.0.0.1 localhost\n10.117.0.{index + 1} {socket.gethostname()}\n")
        yield [["ip", "netns", "exec", name] for name in names]
    finally:
        for name in names:
            ip("netns", "delete", name)
            ip("link", "delete", f"veth-{name}")
            shutil.rmtree(Path("/etc/netns", name), ignore_errors=True)
        ip("link", "delete", bridge)


@pytest.mark.slow
def test_hosts_with_an_address_each_train_like_one(scenes, one, namespaces):
    output = scenes.parent / "hosts"
    assert_same_run(finish(start(scenes, output, 2, address="10.117.0.1", prefixes=namespaces), output), one)


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
def test_a_killed_process_ends_the_run_and_resumed_it_ends_with_the_same_weights(scenes, two, index):
    output = scenes.parent / f"killed-{index}"
    processes = start(scenes, output, 2)
    try:
        wait_for(output / "state.npz", processes, output)
        processes[index].kill()
        killed = time.monotonic()
        assert processes[1 - index].wait(timeout=TIMEOUT) != 0
        assert time.monotonic() - killed < 60
    finally:
        end(processes)
    text = text_of(output, 1 - index)
    assert "another process of this run ended" in text or "another task died" in text
    assert json.loads(str(state_of(output)["__meta__"]))["step"] < 20
    finish(start(scenes, output, 2, "--resume"), output)
    states = state_of(output), state_of(two)
    for name in set(states[1]) - {"__meta__"}:
        np.testing.assert_array_equal(states[0][name], states[1][name], err_msg=name)
    weights = [(folder / "last/model.safetensors").read_bytes() for folder in (output, two)]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_sigterm_to_one_process_stops_all_with_their_state_saved(scenes):
    output = scenes.parent / "stopped"
    processes = start(scenes, output, 2, "--steps", "2000")
    try:
        wait_for(output / "state.npz", processes, output)
        processes[1].send_signal(signal.SIGTERM)
        assert [process.wait(timeout=TIMEOUT) for process in processes] == [2, 2]
    finally:
        end(processes)
    assert "continue with --resume" in text_of(output, 0)
    step = json.loads(str(state_of(output)["__meta__"]))["step"]
    assert 2 <= step < 2000
    assert f"stopped after step {step}" in text_of(output, 1)
