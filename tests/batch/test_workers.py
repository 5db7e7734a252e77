"""How many workers fit on the machines of a cluster, and what is said where none does."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

pytest.importorskip("pyarrow")

from tf_segformer.batch import ray_actors
from tf_segformer.batch.run import predict_dataset
from tf_segformer.errors import CheckpointError, DatasetError


def resources(*machines, **asked):
    nodes = [{"Alive": True, "Resources": {"CPU": cores, "GPU": count}} for cores, count in machines]
    nodes.append({"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}})
    asked = {"cpus": None, "gpus": None, **asked}
    return ray_actors._resources(SimpleNamespace(nodes=lambda: nodes), **asked)


@pytest.mark.parametrize(
    ("machines", "asked", "expected"),
    [
        ([(2.0, 0)], {}, (2, 0, 1)),
        ([(16.0, 0), (8.0, 0)], {}, (4, 0, 6)),
        ([(16.0, 4.0)], {}, (4, 1, 4)),
        ([(16.0, 4.0), (32.0, 0)], {}, (4, 1, 4)),
        ([(16.0, 4.0)], {"gpus": 0.25}, (1, 0.25, 16)),
        ([(16.0, 4.0)], {"gpus": 0}, (4, 0, 4)),
        ([(6.0, 8.0)], {}, (1, 1, 6)),
        ([(16.0, 0)], {"cpus": 1}, (1, 0, 16)),
        ([(0.0, 0), (8.0, 0)], {}, (4, 0, 2)),
        ([(2.0, 0)], {"workers": 2}, (1, 0, 2)),
        ([(16.0, 0)], {"workers": 2}, (4, 0, 4)),
    ],
)
def test_workers_fill_the_machines(machines, asked, expected):
    assert resources(*machines, **asked) == expected


def test_a_worker_that_fits_nowhere_is_an_error():
    with pytest.raises(DatasetError, match="a core and 1 GPUs: lower --gpus-per-worker"):
        resources((8.0, 0), gpus=1)


def test_errors_of_workers_are_those_of_this_process_or_name_the_remedy():
    job = SimpleNamespace(output="/out")
    theirs = Exception("trace of a worker")
    theirs.cause = CheckpointError("other weights")
    error = ray_actors._error_of_worker(job, theirs)
    assert (type(error), str(error)) == (CheckpointError, "other weights")
    killed = ray_actors._error_of_worker(job, RuntimeError("The actor died\nunexpectedly"))
    assert isinstance(killed, DatasetError)
    assert "The actor died unexpectedly" in str(killed) and "Finished shards stay in /out" in str(killed)


def test_without_ray_workers_are_an_error(checkpoint, write_images, tmp_path, monkeypatch):
    photos = write_images(tmp_path / "photos", 2)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"workers need Ray: pip install 'tf_segformer\[ray\]', or take workers=0"):
        predict_dataset(photos, tmp_path / "out", checkpoint(), workers=1)
