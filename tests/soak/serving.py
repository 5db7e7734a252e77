"""Loads the model server of the tests with requests of every kind: python -m tests.soak.serving [REQUESTS].

Sixteen clients send images of mixed sizes, over REST and gRPC, a tenth of the requests broken; one more client sends a
byte at a time, one drops its connection within each request. Every whole request must get its own answer, every
broken one its error, and the server's memory must not grow. Prints one line of JSON.
"""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from PIL import Image

from tf_segformer import (
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    export_saved_model,
)
from tf_segformer.deploy.tf_serving.client import Client, ServerError

CLIENTS = 16
BROKEN_SHARE = 0.1
SIZES = ((32, 48), (64, 64), (97, 65), (160, 120), (320, 240), (640, 480))
BROKEN = ("text", "empty", "cut", "signature", "model", "input")
ERRORS = {"signature": "INVALID_ARGUMENT", "model": "NOT_FOUND", "input": "INVALID_ARGUMENT"}
REPOSITORY = Path(__file__).parents[2]


def encoded_images() -> list[bytes]:
    """One image per size, JPEG and PNG by turns."""
    generator = np.random.default_rng(0)
    images = []
    for index, (width, height) in enumerate(SIZES):
        pixels = generator.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).resize((width, height)).save(stream, ("JPEG", "PNG")[index % 2])
        images.append(stream.getvalue())
    return images


def export(folder: Path) -> Path:
    """A tiny model, exported."""
    config = SegformerConfig(
        depths=(1, 1, 1, 1), hidden_sizes=(8, 16, 20, 32), decoder_hidden_size=16, num_labels=5, initializer_range=0.2
    )
    model = SegformerForSemanticSegmentation(config)
    return export_saved_model(model, folder, processor=SegformerImageProcessor(size=64))


def memory(process: int) -> float:
    """Resident memory of a process in MB."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


class Load:
    """What the clients share: the images, what each must become, and the record of what happened."""

    def __init__(self, urls: dict[str, str]) -> None:
        self.urls = urls
        self.images = encoded_images()
        self.wanted = [answer.class_map for answer in Client(urls["grpc"]).segment(self.images, strict=True)]
        self.seconds: dict[str, list[float]] = {"rest": [], "grpc": []}
        self.counts: Counter = Counter()
        self.stop = threading.Event()

    def run_client(self, seed: int, requests: int) -> None:
        """Sends whole and broken requests; any answer but the right one ends the soak."""
        generator = np.random.default_rng(seed)
        way = ("rest", "grpc")[seed % 2]
        client = Client(self.urls[way], timeout=120)
        stranger = Client(self.urls[way], "another-model", timeout=120)
        for _ in range(requests):
            if generator.random() < BROKEN_SHARE:
                self.send_broken(str(generator.choice(BROKEN)), client, stranger)
                continue
            chosen = generator.integers(len(self.images), size=generator.integers(1, 4))
            start = time.perf_counter()
            answers = client.segment([self.images[index] for index in chosen], strict=True)
            self.seconds[way].append(time.perf_counter() - start)
            for answer, index in zip(answers, chosen, strict=True):
                assert np.array_equal(answer.class_map, self.wanted[index]), "an answer belongs to another image"
            self.counts["whole"] += 1

    def send_broken(self, kind: str, client: Client, stranger: Client) -> None:
        """A request of which one part is not as it must be; its neighbors in a batch are."""
        self.counts[f"broken: {kind}"] += 1
        if kind in ERRORS:
            try:
                if kind == "model":
                    stranger.predict({"image_bytes": [self.images[0]]})
                else:
                    inputs = {"image_bytes" if kind == "signature" else "nonsense": [self.images[0]]}
                    client.predict(inputs, "nonsense" if kind == "signature" else "serving_default")
            except ServerError as error:
                assert error.code == ERRORS[kind], error
                return
            raise AssertionError(f"{kind}: no error")
        image = {"text": b"no image", "empty": b"", "cut": self.images[4][:300]}[kind]
        answers = client.segment([self.images[0], image, self.images[1]])
        assert [answer.status[:16] for answer in answers] == ["OK", "INVALID_ARGUMENT", "OK"]
        assert np.array_equal(answers[0].class_map, self.wanted[0])
        assert np.array_equal(answers[2].class_map, self.wanted[1])

    def run_odd_client(self, drops: bool) -> None:
        """Sends a request a byte at a time, or drops its connection within it, until the others are done."""
        host, port = self.urls["rest"].removeprefix("http://").split(":")
        body = b"x" * 50
        head = f"POST /v1/models/segformer:predict HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000\r\n\r\n".encode()
        while not self.stop.is_set():
            with socket.create_connection((host, int(port)), timeout=30) as connection:
                for byte in head + body:
                    connection.sendall(bytes([byte]))
                    if not drops and self.stop.wait(0.02):
                        break
            self.counts["dropped connections" if drops else "slow requests"] += 1
            self.stop.wait(0.05)


def main(requests: int) -> None:
    """Starts the server in a process of its own, runs the clients, prints latency and memory."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.deploy.model_server", str(export(Path(folder, "served"))), "segformer"]
        server = subprocess.Popen(
            command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert server.stdout is not None
        # what it says must be read: a full pipe would stop it, as a traceback for each dropped connection fills it
        threading.Thread(target=lambda: [None for _ in server.stderr or ()], daemon=True).start()
        grpc_port, rest_port = server.stdout.readline().split()
        load = Load({"rest": f"http://127.0.0.1:{rest_port}", "grpc": f"grpc://127.0.0.1:{grpc_port}"})
        odd = [threading.Thread(target=load.run_odd_client, args=(drops,), daemon=True) for drops in (False, True)]
        for thread in odd:
            thread.start()
        start, resident = time.perf_counter(), []
        with ThreadPoolExecutor(CLIENTS) as pool:
            for part in range(10):  # memory is compared between tenths; in the first one, everything is loaded
                share = requests // 10 // CLIENTS
                seeds = range(part * CLIENTS, (part + 1) * CLIENTS)
                list(pool.map(load.run_client, seeds, [share + 1] * CLIENTS))
                resident.append(round(memory(server.pid), 1))
        seconds = time.perf_counter() - start
        load.stop.set()
        for thread in odd:
            thread.join()
        assert server.poll() is None, "the server has ended"
        Client(load.urls["rest"]).segment(load.images, strict=True)
        server.terminate()
    assert resident[-1] < 1.1 * resident[1] + 50, f"the server's memory grows: {resident} MB"
    outcome = {
        "requests": sum(count for kind, count in load.counts.items() if kind.startswith(("whole", "broken"))),
        "requests_per_second": round(requests / seconds, 1),
        **{
            f"{way}_milliseconds": {f"p{q}": round(1000 * float(np.percentile(times, q)), 1) for q in (50, 99)}
            for way, times in load.seconds.items()
        },
        "server_megabytes": resident,
        "counts": dict(sorted(load.counts.items())),
    }
    print(json.dumps(outcome))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
