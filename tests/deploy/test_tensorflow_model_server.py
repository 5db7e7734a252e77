"""Runs where `tensorflow_model_server` is installed: the command that serving-config prints, asked by the client."""

import shlex
import shutil
import socket
import subprocess
import time

import numpy as np
import pytest

from tests.deploy.images import BROKEN, JPEG, PNG
from tf_segformer.deploy.tf_serving.client import Client, ServerError
from tf_segformer.deploy.tf_serving.configuration import write_serving_config

pytestmark = pytest.mark.skipif(
    shutil.which("tensorflow_model_server") is None, reason="tensorflow_model_server is not on PATH"
)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_ready(url):
    try:
        return Client(url, retries=0).segment([PNG])[0].status == "OK"
    except ServerError:
        return False


@pytest.fixture(scope="module")
def urls(exported, tmp_path_factory):
    pytest.importorskip("tensorflow_serving", reason='needs the extra "serving"')
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(exported().version, folder / "1")
    grpc_port, rest_port = free_port(), free_port()
    command = write_serving_config(folder, folder / "config").server
    command = command.replace("--port=8500", f"--port={grpc_port}").replace("=8501", f"={rest_port}")
    with subprocess.Popen(shlex.split(command)) as process:
        deadline = time.monotonic() + 120
        while not is_ready(f"http://127.0.0.1:{rest_port}"):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.5)
        yield [f"http://127.0.0.1:{rest_port}", f"grpc://127.0.0.1:{grpc_port}"]
        process.terminate()


def test_the_real_server_answers_as_python_does(urls, exported):
    for url in urls:
        broken = [file for file, _ in BROKEN.values()]
        answers = Client(url).segment([JPEG, *broken, PNG])
        for answer, encoded in ((answers[0], JPEG), (answers[-1], PNG)):
            np.testing.assert_array_equal(answer.class_map, exported().class_map(encoded))
        for answer, (_, reason) in zip(answers[1:-1], BROKEN.values(), strict=True):
            assert answer.status.startswith("INVALID_ARGUMENT") and reason in answer.status
