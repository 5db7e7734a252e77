# ruff: noqa: E402 (what needs the extra is imported after the check for it)
import base64
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow_serving", reason='needs the extra "serving"')
requests = pytest.importorskip("requests")

import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from tests.deploy import model_server
from tests.deploy.conftest import LABELS
from tests.deploy.images import BROKEN, JPEG, PNG, encoded_image, read_png
from tf_segformer.deploy.tf_serving.client import Client, ServerError
from tf_segformer.deploy.tf_serving.configuration import newest_version, write_serving_config, write_warmup_requests
from tf_segformer.errors import SegformerError


class Server:
    """A model server in this process, and clients for it."""

    def __init__(self, version: Path) -> None:
        self.model, self.grpc_port, self.rest_port = model_server.start(str(version), "segformer")

    def url(self, way: str) -> str:
        return f"http://127.0.0.1:{self.rest_port}" if way == "rest" else f"grpc://127.0.0.1:{self.grpc_port}"


@pytest.fixture(scope="module")
def server(exported):
    return Server(exported().version)


@pytest.mark.parametrize("way", ["rest", "grpc"])
def test_a_client_gets_class_maps_fractions_labels_and_colors(exported, server, way):
    answers = Client(server.url(way)).segment([JPEG, b"text", PNG])
    assert [answer.status[:16] for answer in answers] == ["OK", "INVALID_ARGUMENT", "OK"]
    for answer, encoded in ((answers[0], JPEG), (answers[2], PNG)):
        np.testing.assert_array_equal(answer.class_map, exported().class_map(encoded))
        assert answer.labels == list(LABELS.values()) and answer.colors.shape == (5, 3)
        assert answer.class_fractions.sum() == pytest.approx(1, abs=1e-5)
    assert answers[1].class_map is None


@pytest.mark.parametrize("way", ["rest", "grpc"])
def test_a_strict_client_raises_for_a_broken_image(server, way):
    with pytest.raises(ServerError, match="INVALID_ARGUMENT: image 1: the bytes are neither") as raised:
        Client(server.url(way)).segment([JPEG, b"text"], strict=True)
    assert raised.value.code == "INVALID_ARGUMENT"


@pytest.mark.parametrize("way", ["rest", "grpc"])
def test_a_client_classifies(exported, way, tmp_path):
    (tmp_path / "image.png").write_bytes(PNG)
    answers = Client(Server(exported("classification").version).url(way)).classify([tmp_path / "image.png", b""])
    logits = exported("classification").logits(PNG)
    assert next(iter(answers[0].probabilities)) == LABELS[int(logits.argmax())]
    assert sum(answers[0].probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert answers[1].probabilities == {} and "empty" in answers[1].status


@pytest.mark.parametrize("way", ["rest", "grpc"])
def test_any_signature_can_be_called(exported, server, way):
    pixel_values = np.random.default_rng(0).standard_normal((2, 32, 48, 3)).astype("float32")
    answer = Client(server.url(way)).predict({"pixel_values": pixel_values}, "tensor")
    np.testing.assert_allclose(answer["logits"], exported().model(pixel_values), rtol=0, atol=2e-5)
    images = np.zeros((1, 20, 30, 3), np.uint8)
    assert Client(server.url(way)).predict({"images": images}, "class_map")["class_map"].shape == (1, 20, 30)


def test_rest_by_rows_as_with_curl(exported, server):
    instances = [{"image_bytes": {"b64": base64.b64encode(encoded).decode()}} for encoded in (JPEG, PNG)]
    url = f"{server.url('rest')}/v1/models/segformer:predict"
    rows = requests.post(url, json={"instances": instances}, timeout=60).json()["predictions"]
    for row, encoded in zip(rows, (JPEG, PNG), strict=True):
        class_map = read_png(base64.b64decode(row["class_map_bytes"]["b64"]))
        np.testing.assert_array_equal(class_map, exported().class_map(encoded))
        assert row["status"] == "OK" and row["labels"] == list(LABELS.values())


@pytest.mark.parametrize("way", ["rest", "grpc"])
def test_errors_of_the_server_are_reported(server, way):
    with pytest.raises(ServerError, match=r"NOT_FOUND: .*nonsense"):
        Client(server.url(way), model="nonsense").segment([JPEG])
    with pytest.raises(ServerError, match=r"INVALID_ARGUMENT: .*signature"):
        Client(server.url(way)).predict({"image_bytes": [JPEG]}, "nonsense")
    with pytest.raises(ServerError, match=r"INVALID_ARGUMENT: .*neither a JPEG nor a PNG"):
        Client(server.url(way)).predict({"image_bytes": [b"text"]}, "serving_strict")


@pytest.mark.parametrize("way", ["rest", "grpc"])
def test_a_request_is_sent_again_while_the_server_is_unavailable(server, way):
    server.model.failures_to_come = 2
    assert Client(server.url(way), retries=2).segment([PNG])[0].status == "OK"
    server.model.failures_to_come = 2
    with pytest.raises(ServerError, match="UNAVAILABLE: no capacity left"):
        Client(server.url(way), retries=1).segment([PNG])
    assert server.model.failures_to_come == 0


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "grpc://127.0.0.1:9"])
def test_no_server_is_unavailable(url):
    with pytest.raises(ServerError, match="UNAVAILABLE"):
        Client(url, retries=0, timeout=2).segment([PNG])


@pytest.mark.parametrize("url", ["localhost:8501", "ftp://host:1", "http://"])
def test_an_address_of_another_form_is_rejected(url):
    with pytest.raises(ValueError, match="write http://HOST:8501"):
        Client(url)


def test_requests_of_unequal_sizes_are_merged_and_parted(exported, server):
    images = [encoded_image(seed, 20 + 7 * seed, 60 - 3 * seed) for seed in range(12)]
    answers = {}

    def ask(index):
        answers[index] = Client(server.url("grpc")).segment([images[index]])[0]

    batcher = server.model.batchers["serving_default"]
    batcher.largest = 0
    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert batcher.largest > 1
    for index, encoded in enumerate(images):
        np.testing.assert_array_equal(answers[index].class_map, exported().class_map(encoded))


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_warmup_requests_run_on_every_signature(exported, task, tmp_path):
    version = tmp_path / "1"
    version.symlink_to(exported(task).version)
    path = write_warmup_requests(version, "segformer")
    logs = [PredictionLog.FromString(each.numpy()) for each in tf.data.TFRecordDataset(str(path))]
    running = Server(version)
    assert {each.predict_log.request.model_spec.signature_name for each in logs} == set(running.model.batchers)
    assert str(path).endswith("1/assets.extra/tf_serving_warmup_requests")
    for log in logs:
        request = log.predict_log.request
        inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
        outputs = running.model.predict(request.model_spec.name, request.model_spec.signature_name, inputs)
        assert outputs.get("status", np.array([b"OK"])).tolist() == [b"OK"]
    assert path.stat().st_size < 100_000
    path.unlink()


def test_configuration_files_and_commands(exported, tmp_path):
    served = tmp_path / "a folder"
    (served / "3").mkdir(parents=True)
    for name in ("2", "10"):
        (served / name).symlink_to(exported().version)
    assert newest_version(served).name == "10"
    commands = write_serving_config(served, tmp_path / "config", name="streets", max_batch_size=5)
    config = text_format.Parse((tmp_path / "config" / "models.config").read_text(), ModelServerConfig())
    (entry,) = config.model_config_list.config
    assert (entry.name, entry.base_path) == ("streets", str(served))
    assert "max_batch_size { value: 5 }" in (tmp_path / "config" / "batching.config").read_text()
    assert "prometheus_config" in (tmp_path / "config" / "monitoring.config").read_text()
    for command in (commands.docker, commands.server):
        assert f"--model_config_file={tmp_path / 'config' / 'models.config'}" in command
    assert f"'{served}:{served}:ro'" in commands.docker
    assert commands.health.endswith("/v1/models/streets")
    (served / "10" / "assets.extra" / "tf_serving_warmup_requests").unlink()


def test_a_folder_without_a_model_is_rejected(tmp_path):
    with pytest.raises(SegformerError, match="no SavedModel in it"):
        newest_version(tmp_path)


def resident_megabytes(process_id):
    status = Path(f"/proc/{process_id}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory of a process as Linux reports it")
def test_two_thousand_requests_from_eight_clients_with_one_in_ten_broken(exported):
    version = exported().version
    command = [sys.executable, model_server.__file__, str(version), "segformer"]
    images = [encoded_image(seed, 30 + 9 * seed, 70 - 5 * seed, kind) for seed in range(5) for kind in ("JPEG", "PNG")]
    expected = [exported().class_map(one) for one in images]
    broken = list(BROKEN.values())
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            grpc_port, rest_port = process.stdout.readline().split()
            urls = [f"grpc://127.0.0.1:{grpc_port}", f"http://127.0.0.1:{rest_port}"]
            memory, wrong, answered = [], [], {"good": 0, "rejected": 0}

            def ask(client_index, count):
                client = Client(urls[client_index % 2], timeout=60)
                for index in range(client_index, count, 8):
                    try:
                        if index % 10 == 7:
                            file, reason = broken[index // 10 % len(broken)]
                            with pytest.raises(ServerError) as raised:
                                client.segment([file], strict=True)
                            assert raised.value.code == "INVALID_ARGUMENT" and reason in str(raised.value)
                            answered["rejected"] += 1
                        else:
                            which = index % len(images)
                            (answer,) = client.segment([images[which]], strict=True)
                            np.testing.assert_array_equal(answer.class_map, expected[which])
                            answered["good"] += 1
                    except BaseException as error:
                        wrong.append((index, error))

            for _ in range(4):  # rounds of 500
                threads = [threading.Thread(target=ask, args=(index, 500)) for index in range(8)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                time.sleep(0.5)
                memory.append(resident_megabytes(process.pid))
        finally:
            process.stdin.close()
            process.wait(30)
    print("MB after each 500 requests:", [round(each) for each in memory])
    assert not wrong, wrong[:3]
    assert answered == {"good": 1800, "rejected": 200}
    assert memory[3] - memory[1] < 20, memory  # MB over the last 1,000 requests; the first 1,000 fill caches
