# ruff: noqa: E402 (what needs the extra is imported after the check for it)
"""A server that is broken or hostile costs its client an error, not its memory or its time."""

from __future__ import annotations

import gzip
import json
import threading
import time
from concurrent import futures
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

grpc = pytest.importorskip("grpc", reason='needs the extra "serving"')
pytest.importorskip("tensorflow_serving", reason='needs the extra "serving"')

from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from tf_segformer.deploy.tf_serving.client import Client, ServerError


@contextmanager
def rest_server(answer):
    """A server that answers every request as `answer(handler)` does."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            answer(self)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def send(handler, body: bytes, **headers: str) -> None:
    handler.send_response(200)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def test_an_answer_without_end_is_cut_off():
    sent = []

    def endless(handler):
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b" " * 2**16)
                sent.append(2**16)
        except OSError:
            sent.append("closed")

    with rest_server(endless) as url, pytest.raises(ServerError, match=r"RESOURCE_EXHAUSTED.*max_answer_bytes=1000000"):
        Client(url, max_answer_bytes=1_000_000).segment([b"x"])
    assert sum(each for each in sent if each != "closed") < 50_000_000  # what the socket's buffers took


def test_a_compressed_answer_counts_with_its_full_size():
    bomb = gzip.compress(b" " * 50_000_000)
    with (
        rest_server(lambda handler: send(handler, bomb, Content_Encoding="gzip")) as url,
        pytest.raises(ServerError, match="RESOURCE_EXHAUSTED"),
    ):
        Client(url, max_answer_bytes=1_000_000).segment([b"x"])


def test_an_answer_byte_by_byte_ends_at_the_deadline():
    def drip(handler):
        handler.send_response(200)
        handler.end_headers()
        for _ in range(100):
            try:
                handler.wfile.write(b" ")
                handler.wfile.flush()
            except OSError:
                return
            time.sleep(0.1)

    start = time.monotonic()
    with rest_server(drip) as url, pytest.raises(ServerError, match="DEADLINE_EXCEEDED"):
        Client(url, timeout=0.5).segment([b"x"])
    assert time.monotonic() - start < 3


@pytest.mark.parametrize(
    "answer",
    [
        [],
        {},
        {"outputs": 3},
        {"outputs": {"class_map_bytes": [{"b64": "AAAA"}]}},
        {"outputs": {"status": ["OK"], "class_map_bytes": [{"b64": "AAAA"}]}},
        {"outputs": {"status": ["OK"], "class_map_bytes": [{"b64": 3}]}},
        {"outputs": {"status": ["OK"], "class_map_bytes": 3, "labels": 3, "colors": 3, "class_fractions": 3}},
    ],
    ids=json.dumps,
)
def test_an_answer_of_another_form_is_a_server_error(answer):
    with rest_server(lambda handler: send(handler, json.dumps(answer).encode())) as url, pytest.raises(ServerError):
        Client(url).segment([b"x"])


def test_a_class_name_of_a_server_sends_nothing_to_the_terminal():
    outputs = {"status": ["OK"], "labels": [["road\x1b]0;title\x07"]], "probabilities": [[1.0]]}
    with rest_server(partial(send, body=json.dumps({"outputs": outputs}).encode())) as url:
        (answer,) = Client(url).classify([b"x"])
    assert all(name.isprintable() for name in answer.probabilities)


def test_nested_json_is_no_recursion_error():
    with (
        rest_server(lambda handler: send(handler, b"[" * 100_000)) as url,
        pytest.raises(ServerError, match="answered no JSON"),
    ):
        Client(url).segment([b"x"])


@pytest.fixture
def grpc_answer():
    """A gRPC server on this machine; set what it answers."""
    answers = []

    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):
            return answers[0]

    server = grpc.server(futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield answers, f"grpc://127.0.0.1:{port}"
    server.stop(None)


def test_one_number_that_claims_to_be_a_large_tensor_is_not_spread_out(grpc_answer):
    answers, url = grpc_answer
    response = predict_pb2.PredictResponse()
    tensor = response.outputs["class_map_bytes"]
    tensor.dtype = 1  # float32
    tensor.float_val.append(0.0)
    for _ in range(3):
        tensor.tensor_shape.dim.add(size=100_000)
    answers.append(response)
    with pytest.raises(ServerError, match="RESOURCE_EXHAUSTED"):
        Client(url).segment([b"x"])


def test_a_large_grpc_message_is_rejected(grpc_answer):
    answers, url = grpc_answer
    response = predict_pb2.PredictResponse()
    response.outputs["x"].dtype = 7
    response.outputs["x"].string_val.append(bytes(2_000_000))
    answers.append(response)
    with pytest.raises(ServerError, match="RESOURCE_EXHAUSTED"):
        Client(url, max_answer_bytes=1_000_000).segment([b"x"])
    assert list(Client(url).predict({"image_bytes": [b"x"]})) == ["x"]
