"""Stands in for tensorflow_model_server: its gRPC and REST interfaces over a SavedModel, requests merged into batches.

Run as a program, it prints the two ports and serves until its standard input closes. The protos are TensorFlow
Serving's own; merging and splitting follow its BatchingSession: outputs are split along their first axis.
"""

from __future__ import annotations

import base64
import json
import queue
import sys
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

MAX_BATCH = 8
HTTP_STATUS = {"INVALID_ARGUMENT": 400, "NOT_FOUND": 404, "UNAVAILABLE": 503}


class Rejected(Exception):
    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class Batcher:
    """Runs one signature; calls that wait at the same time go through it together."""

    def __init__(self, function):
        self.function = function
        (self.input_name,) = function.structured_input_signature[1]
        self.dtype = function.structured_input_signature[1][self.input_name].dtype
        self.waiting = queue.Queue()
        self.largest = 0
        threading.Thread(target=self._work, daemon=True).start()

    def run(self, inputs):
        if set(inputs) != {self.input_name}:
            raise Rejected("INVALID_ARGUMENT", f"inputs must be {self.input_name}, but are {', '.join(inputs)}")
        answer = futures.Future()
        self.waiting.put((inputs[self.input_name], answer))
        return answer.result()

    def _work(self):
        while True:
            tasks = [self.waiting.get()]
            while len(tasks) < MAX_BATCH and not self.waiting.empty():
                tasks.append(self.waiting.get())
            self.largest = max(self.largest, len(tasks))
            try:
                merged = tf.concat([tf.cast(value, self.dtype) for value, _ in tasks], axis=0)
                outputs = self.function(**{self.input_name: merged})
                sizes = [len(value) for value, _ in tasks]
                for name, output in outputs.items():
                    assert output.shape[0] == sum(sizes), f"{name} cannot be split: {output.shape} for {sum(sizes)}"
                split = {name: tf.split(output, sizes, axis=0) for name, output in outputs.items()}
                for index, (_, answer) in enumerate(tasks):
                    answer.set_result({name: parts[index].numpy() for name, parts in split.items()})
            except Exception as error:
                for _, answer in tasks:
                    answer.set_exception(error)


class Model:
    def __init__(self, folder, name):
        self.name = name
        self.loaded = tf.saved_model.load(folder)
        self.batchers = {key: Batcher(function) for key, function in self.loaded.signatures.items()}
        self.failures_to_come = 0  # how many calls are answered with UNAVAILABLE, for tests of retries

    def check_name(self, name):
        if name != self.name:
            raise Rejected("NOT_FOUND", f"Servable not found for request: Latest({name})")

    def predict(self, name, signature, inputs):
        self.check_name(name)
        if self.failures_to_come:
            self.failures_to_come -= 1
            raise Rejected("UNAVAILABLE", "no capacity left, try again")
        if signature not in self.batchers:
            raise Rejected("INVALID_ARGUMENT", f'Serving signature name: "{signature}" not found in signature def')
        try:
            return self.batchers[signature].run(inputs)
        except tf.errors.InvalidArgumentError as error:
            raise Rejected("INVALID_ARGUMENT", error.message) from error


class GrpcService(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, model):
        self.model = model

    def Predict(self, request, context):
        spec = request.model_spec
        inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
        try:
            outputs = self.model.predict(spec.name, spec.signature_name or "serving_default", inputs)
        except Rejected as error:
            context.abort(grpc.StatusCode[error.code], str(error))
        response = predict_pb2.PredictResponse()
        response.model_spec.CopyFrom(spec)
        for name in request.output_filter or outputs:
            response.outputs[name].CopyFrom(tf.make_tensor_proto(outputs[name]))
        return response


def make_rest_handler(model):
    class RestHandler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def answer(self, status, content):
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def reject(self, error):
            self.answer(HTTP_STATUS[error.code], {"error": str(error)})

        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name = self.path.rpartition("/")[2].removesuffix(":predict")
            by_rows = "instances" in request
            try:
                columns = columns_of(request["instances"]) if by_rows else request["inputs"]
                inputs = {key: from_json(value) for key, value in columns.items()}
                outputs = model.predict(name, request.get("signature_name", "serving_default"), inputs)
            except Rejected as error:
                self.reject(error)
                return
            shown = {key: to_json(key, value) for key, value in outputs.items()}
            if by_rows:
                self.answer(200, {"predictions": rows_of(shown)})
            else:
                self.answer(200, {"outputs": next(iter(shown.values())) if len(shown) == 1 else shown})

    return RestHandler


def columns_of(instances):
    return {key: [each[key] for each in instances] for key in instances[0]}


def rows_of(outputs):
    rows = [dict(zip(outputs, values, strict=True)) for values in zip(*outputs.values(), strict=True)]
    return [next(iter(row.values())) for row in rows] if len(outputs) == 1 else rows


def from_json(value):
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return np.array([base64.b64decode(each["b64"]) for each in value], dtype=object)
    return np.array(value)


def to_json(name, value):
    """As TensorFlow Serving does: strings are base64 where the name ends in _bytes, text elsewhere."""
    if value.dtype != object:
        return value.tolist()
    if value.ndim > 1:
        return [to_json(name, each) for each in value]
    if name.endswith("_bytes"):
        return [{"b64": base64.b64encode(each).decode()} for each in value]
    return [each.decode() for each in value]


def start(folder, name):
    """Starts both servers; returns the model and the ports of gRPC and REST."""
    model = Model(folder, name)
    limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(futures.ThreadPoolExecutor(16), options=limits)
    service = GrpcService(model)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(service, server)
    grpc_port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    rest = ThreadingHTTPServer(("127.0.0.1", 0), make_rest_handler(model))
    threading.Thread(target=rest.serve_forever, daemon=True).start()
    model.servers = (server, rest)
    return model, grpc_port, rest.server_address[1]


if __name__ == "__main__":
    _, *ports = start(sys.argv[1], sys.argv[2])
    print(*ports, flush=True)
    sys.stdin.read()
