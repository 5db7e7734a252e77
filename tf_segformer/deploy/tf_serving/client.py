"""A client for TensorFlow Serving, over REST or gRPC: image files in, class maps out."""

from __future__ import annotations

import base64
import json
import math
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np

from tf_segformer.errors import SegformerError
from tf_segformer.imaging.files import MAX_FILE_BYTES, open_label_map
from tf_segformer.io import read_bytes

DEFAULT_MODEL_NAME = "segformer"
OK = "OK"
MAX_ANSWER_BYTES = 2**30
"""Largest answer that is read: the logits of a batch are large, class maps are not."""

_FIRST_PAUSE = 0.1  # seconds before the first retry, doubled with each one
_CODES_BY_HTTP_STATUS = {400: "INVALID_ARGUMENT", 404: "NOT_FOUND", 412: "FAILED_PRECONDITION", 503: "UNAVAILABLE"}
# With one output, TensorFlow Serving's REST answer leaves its name out.
_SINGLE_OUTPUTS = {"class_map": "class_map", "tensor": "logits"}

Inputs = Mapping[str, Any]
Outputs = dict[str, np.ndarray]
ImageFile = bytes | str | os.PathLike


class ServerError(SegformerError):
    """A server rejected a request, or did not answer.

    Attributes:
        code: gRPC's name of the reason, such as "INVALID_ARGUMENT", "NOT_FOUND", "UNAVAILABLE".
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


@dataclass(frozen=True)
class SegmentationResponse:
    """What a server answered for one image.

    Args:
        status: "OK", or "INVALID_ARGUMENT: " and why the image is invalid.
        class_map: (H, W) int32, or None where the image is invalid.
        class_fractions: How much of the image each class covers, (K,) float32.
        labels: Class names.
        colors: (K, 3) uint8.
    """

    status: str
    class_map: np.ndarray | None
    class_fractions: np.ndarray
    labels: list[str]
    colors: np.ndarray


@dataclass(frozen=True)
class ClassificationResponse:
    """What a server answered for one image.

    Args:
        status: "OK", or "INVALID_ARGUMENT: " and why the image is invalid.
        probabilities: Probability by class name, the largest first; empty where the image is invalid.
    """

    status: str
    probabilities: dict[str, float]


class Client:
    """Asks a TensorFlow Serving server that serves a model of `export_saved_model`.

    Needs the extra "serving".

    Args:
        url: "http://host:8501" (or https) for REST, "grpc://host:8500" (or grpcs) for gRPC.
        model: Name of the model on the server.
        timeout: Seconds that one attempt may take.
        retries: How often a request is sent again while the server is unavailable, with growing pauses.
        max_answer_bytes: Largest answer that is read, and largest array in it; more is an error.

    Raises:
        ValueError: An address of another form.
        ImportError: The packages of the extra are not installed.

    Example:
        >>> client = Client("http://localhost:8501")  # nothing is sent yet
        >>> client.model
        'segformer'
    """

    def __init__(
        self,
        url: str,
        model: str = DEFAULT_MODEL_NAME,
        *,
        timeout: float = 30.0,
        retries: int = 3,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        scheme, host = urlsplit(url).scheme, urlsplit(url).netloc
        if scheme not in _TRANSPORTS or not host:
            raise ValueError(f"url={url!r}: write http://HOST:8501 for REST or grpc://HOST:8500 for gRPC")
        if timeout <= 0 or retries < 0 or max_answer_bytes < 1:
            raise ValueError(
                f"timeout={timeout!r} must be above 0, retries={retries!r} at least 0 and "
                f"max_answer_bytes={max_answer_bytes!r} at least 1"
            )
        self.model = model
        self._retries = retries
        self._transport: _Transport = _TRANSPORTS[scheme](url, model, timeout, max_answer_bytes)

    def segment(self, images: Iterable[ImageFile], *, strict: bool = False) -> list[SegmentationResponse]:
        """Segments images, all in one request.

        Args:
            images: Bytes or paths of JPEG or PNG files, of any sizes.
            strict: Whether one invalid image is an error; otherwise its `status` says so.

        Returns:
            One answer per image, in order.

        Raises:
            ServerError: No answer, or with `strict` an invalid image.
        """
        outputs = self._ask(images, "class_map_bytes", strict)
        with _answers_understood():
            return [
                SegmentationResponse(
                    status=_text(outputs["status"][index]),
                    class_map=_read_png(outputs["class_map_bytes"][index]),
                    class_fractions=np.asarray(outputs["class_fractions"][index], np.float32),
                    labels=[_text(label) for label in outputs["labels"][index]],
                    colors=np.asarray(outputs["colors"][index], np.uint8),
                )
                for index in range(len(outputs["status"]))
            ]

    def classify(self, images: Iterable[ImageFile], *, strict: bool = False) -> list[ClassificationResponse]:
        """Classifies images, all in one request.

        Args:
            images: As in `segment`.
            strict: As in `segment`.

        Returns:
            One answer per image, in order.

        Raises:
            ServerError: No answer, or with `strict` an invalid image.
        """
        outputs = self._ask(images, "probabilities", strict)
        answers = []
        with _answers_understood():
            columns = (outputs[name] for name in ("status", "labels", "probabilities"))
            for status, labels, values in zip(*columns, strict=True):
                named = {_text(label): float(value) for label, value in zip(labels, values, strict=True)}
                answers.append(ClassificationResponse(_text(status), named if _text(status) == OK else {}))
        return answers

    def predict(self, inputs: Inputs, signature: str = "serving_default") -> Outputs:
        """Calls a signature with its own inputs.

        Args:
            inputs: Arrays by input name; strings of bytes as a list.
            signature: Name of the signature.

        Returns:
            Arrays by output name. Over REST, numbers are int64 or float64.

        Raises:
            ServerError: No answer, or an error instead of one.
        """
        for attempt in range(self._retries + 1):
            try:
                return self._transport.predict(inputs, signature)
            except ServerError as error:
                if error.code != "UNAVAILABLE" or attempt == self._retries:
                    raise
            time.sleep(_FIRST_PAUSE * 2**attempt)
        raise AssertionError("the loop returns or raises")

    def _ask(self, images: Iterable[ImageFile], wanted: str, strict: bool) -> Outputs:
        """Sends images to the default signature, which must have a certain output."""
        encoded = [image if isinstance(image, bytes) else read_bytes(image, MAX_FILE_BYTES) for image in images]
        outputs = self.predict({"image_bytes": encoded})
        if wanted not in outputs:
            found = ", ".join(sorted(outputs))
            raise ServerError("FAILED_PRECONDITION", f"the model {self.model} is for another task: it answers {found}")
        with _answers_understood():
            for index, status in enumerate(outputs["status"]):
                if strict and _text(status) != OK:
                    code, _, reason = _text(status).partition(": ")
                    raise ServerError(code, f"image {index}: {reason}")
        return outputs


class _Transport(Protocol):
    """One way to a server; errors are `ServerError`."""

    def predict(self, inputs: Inputs, signature: str) -> Outputs: ...


class _Rest:
    """TensorFlow Serving's REST interface, in its form by columns."""

    def __init__(self, url: str, model: str, timeout: float, max_answer_bytes: int) -> None:
        try:
            import requests
            from urllib3.exceptions import HTTPError
        except ImportError as error:
            raise ImportError("the REST client needs requests: pip install tf_segformer[serving]") from error
        self._requests, self._http_error = requests, HTTPError
        self._session = requests.Session()
        self._url = f"{url.rstrip('/')}/v1/models/{model}"
        self._timeout = timeout
        self._max_answer_bytes = max_answer_bytes

    def predict(self, inputs: Inputs, signature: str) -> Outputs:
        body = {
            "signature_name": signature,
            "inputs": {name: _to_json(value) for name, value in inputs.items()},
        }
        answer = self._send(f"{self._url}:predict", body)
        with _answers_understood():
            outputs = answer["outputs"]
            if not isinstance(outputs, dict):
                outputs = {_SINGLE_OUTPUTS.get(signature, "output"): outputs}
            return {name: _from_json(value) for name, value in outputs.items()}

    def _send(self, url: str, body: Any) -> dict[str, Any]:
        """One request; what the server says of an error is kept."""
        # timeout= is for each read from the socket: a server that sends a byte a second is held to the deadline
        deadline = time.monotonic() + self._timeout
        try:
            with self._session.post(url, json=body, timeout=self._timeout, stream=True) as response:
                answer = json.loads(self._read(response, deadline))
        except (self._requests.RequestException, self._http_error) as error:
            if isinstance(error, self._requests.Timeout) or time.monotonic() > deadline:
                raise ServerError("DEADLINE_EXCEEDED", f"{url} did not answer in {self._timeout:g} s") from error
            raise ServerError("UNAVAILABLE", f"{url} cannot be reached: {error}") from error
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            code = _CODES_BY_HTTP_STATUS.get(response.status_code, "UNKNOWN")
            raise ServerError(code, f"{url} answered no JSON: HTTP {response.status_code}") from error
        if response.status_code != 200:
            code = _CODES_BY_HTTP_STATUS.get(response.status_code, f"HTTP {response.status_code}")
            raise ServerError(code, str(answer.get("error", answer)) if isinstance(answer, dict) else str(answer))
        return answer

    def _read(self, response: Any, deadline: float) -> bytes:
        """The body of an answer, within its limits of size and time."""
        content = bytearray()
        while part := response.raw.read1(2**16, decode_content=True):  # what has come, without waiting for more
            content += part
            if len(content) > self._max_answer_bytes:
                raise _too_large(self._max_answer_bytes)
            if time.monotonic() > deadline:
                raise self._requests.Timeout
        return bytes(content)


class _Grpc:
    """TensorFlow Serving's gRPC interface."""

    def __init__(self, url: str, model: str, timeout: float, max_answer_bytes: int) -> None:
        try:
            import grpc
            from tensorflow_serving.apis import prediction_service_pb2_grpc
        except ImportError as error:
            raise ImportError(
                "the gRPC client needs tensorflow-serving-api: pip install tf_segformer[serving]"
            ) from error
        self._grpc = grpc
        host = urlsplit(url).netloc
        options = [("grpc.max_receive_message_length", max_answer_bytes), ("grpc.max_send_message_length", -1)]
        if urlsplit(url).scheme == "grpcs":
            self._channel = grpc.secure_channel(host, grpc.ssl_channel_credentials(), options)
        else:
            self._channel = grpc.insecure_channel(host, options)
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._model = model
        self._timeout = timeout
        self._max_answer_bytes = max_answer_bytes

    def predict(self, inputs: Inputs, signature: str) -> Outputs:
        import tensorflow as tf
        from tensorflow_serving.apis.predict_pb2 import PredictRequest

        request = PredictRequest()
        request.model_spec.name = self._model
        request.model_spec.signature_name = signature
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
        answer = self._call(self._prediction.Predict, request)
        with _answers_understood():
            for value in answer.outputs.values():
                # a tensor of any shape may be sent as the one number that it repeats
                count = math.prod(dimension.size for dimension in value.tensor_shape.dim)
                if count * max(tf.as_dtype(value.dtype).size or 8, 1) > self._max_answer_bytes:
                    raise _too_large(self._max_answer_bytes)
            return {name: tf.make_ndarray(value) for name, value in answer.outputs.items()}

    def _call(self, method: Any, request: Any) -> Any:
        """One request; gRPC's errors become ours."""
        try:
            return method(request, timeout=self._timeout)
        except self._grpc.RpcError as error:
            raise ServerError(error.code().name, error.details() or "no details") from error


_TRANSPORTS: dict[str, Any] = {"http": _Rest, "https": _Rest, "grpc": _Grpc, "grpcs": _Grpc}


def _to_json(value: Any) -> Any:
    """Arrays as nested lists, bytes as TensorFlow Serving wants them."""
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_to_json(each) for each in value]
    return np.asarray(value).tolist()


def _from_json(value: Any) -> np.ndarray:
    """The reverse: nested lists as an array, in which strings and bytes are objects."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return np.array([base64.b64decode(each["b64"]) for each in value], dtype=object)
    array = np.asarray(value)
    return array.astype(object) if array.dtype.kind == "U" else array


@contextmanager
def _answers_understood() -> Iterator[None]:
    """Turns what reading an answer of another form raises into a `ServerError`."""
    try:
        yield
    except ServerError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise ServerError("INTERNAL", f"the answer has another form than a SegFormer's: {error!r}") from error


def _too_large(limit: int) -> ServerError:
    return ServerError("RESOURCE_EXHAUSTED", f"the answer has more than max_answer_bytes={limit} bytes")


def _text(value: Any) -> str:
    """Text from a server, without what would reach a terminal as a command."""
    text = value.decode() if isinstance(value, bytes) else str(value)
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", "\ufffd", text)


def _read_png(encoded: bytes) -> np.ndarray | None:
    """Class map (H, W) int32 of a PNG; None of no bytes."""
    if not encoded:
        return None
    return open_label_map(encoded)
