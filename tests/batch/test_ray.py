"""On Ray a worker that is killed loses and repeats nothing, and the results are those of one process."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import pytest

parquet = pytest.importorskip("pyarrow.parquet")
ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")

from tf_segformer.batch.run import predict_dataset  # noqa: E402

IMAGES, IMAGES_PER_SHARD = 500, 25
BROKEN = set(range(7, IMAGES, 20))  # 5 %
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # Ray's sockets and pipes
]


@pytest.fixture
def two_cores(monkeypatch):
    """Ray on this machine alone, whose processes end with the test."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    with tempfile.TemporaryDirectory(
        prefix="ray", dir="/tmp", ignore_cleanup_errors=True
    ) as folder:  # sockets need short paths
        ray.init(
            num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False, object_store_memory=80 << 20,
            _temp_dir=folder,
        )  # fmt: skip
        yield
        ray.shutdown()
    assert not actors()


def actors() -> list[int]:
    """The processes of Ray's actors that descend from this one."""
    parents, names = {}, {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(path.name)] = (path / "cmdline").read_text()
        except OSError:
            continue  # it ended meanwhile

    def descends(process: int) -> bool:
        return process == os.getpid() or (process in parents and descends(parents[process]))

    return [process for process, name in names.items() if "ray::" in name and "_Actor" in name and descends(process)]


def rows(folder) -> list[dict]:
    return [row for path in sorted(folder.glob("*.parquet")) for row in parquet.read_table(path).to_pylist()]


def written(folder) -> dict[str, tuple[int, int]]:
    """What changes when a file is written again."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("*.parquet")}


def test_a_killed_worker_loses_and_repeats_nothing(two_cores, checkpoint, write_images, tmp_path):
    photos, model = write_images(tmp_path / "photos", IMAGES, BROKEN), checkpoint()
    options = {"masks": True, "images_per_shard": IMAGES_PER_SHARD}
    killed: list[int] = []
    states = []

    def kill_one(state):
        states.append(state)
        if state.shards >= 2 and not killed:
            killed.append(actors()[0])
            os.kill(killed[0], signal.SIGKILL)

    out = tmp_path / "out"
    done = predict_dataset(photos, out, model, workers=2, cpus_per_worker=1, progress=kill_one, **options)
    assert killed and states[0].shards == 0 and len(states) == 1 + IMAGES // IMAGES_PER_SHARD
    assert (done.images, done.failed, done.shards) == (IMAGES, len(BROKEN), IMAGES // IMAGES_PER_SHARD)
    predict_dataset(photos, tmp_path / "alone", model, workers=0, **options)
    found = rows(out)
    assert [row["id"] for row in found] == [f"{number:04d}.png" for number in range(IMAGES)]
    assert found == rows(tmp_path / "alone")
    failed = {number: row for number, row in enumerate(found) if row["status"] != "ok"}
    assert set(failed) == BROKEN
    assert all(row["status"] == "broken" and "truncated or damaged" in row["error"] for row in failed.values())

    before = written(out)
    (out / "part-000003.parquet").unlink()
    again = predict_dataset(photos, out, model, workers=0, **options)
    assert (again.images, again.earlier_shards) == (IMAGES, done.shards - 1)
    assert {name for name, state in written(out).items() if state != before[name]} == {"part-000003.parquet"}
    assert rows(out) == found
