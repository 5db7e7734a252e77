"""Feeds damaged files to the readers in a process of its own: python -m tests.checkpoints.fuzz KIND COUNT.

KIND "cve" reads the HDF Group's files behind published holes of libhdf5 instead. The process forbids itself to execute
anything, to open other files and to grow; a file that takes too long ends it.
"""

from __future__ import annotations

import encodings.cp437
import encodings.utf_16_be
import encodings.utf_16_le
import encodings.utf_32_be
import encodings.utf_32_le  # noqa: F401
import io
import json
import random
import signal
import sys
import tarfile
import tempfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
from safetensors.numpy import save

from tests.checkpoints.make_fixtures import FOLDER
from tf_segformer.checkpoints.readers import read_checkpoint
from tf_segformer.errors import CheckpointError

SECONDS_PER_FILE = 2
ALLOWANCE = 2**20  # what Python itself needs beside four times the file
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess", "socket", "ctypes", "exec", "compile")
EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**62, 2**63, 2**64 - 1)


def safetensors_file() -> bytes:
    """Two tensors."""
    return save({"a.weight": np.ones((3, 4), "float32"), "b.bias": np.ones(5, "float16")}, {"format": "pt"})


def h5_file() -> bytes:
    """Groups, attributes and datasets as Keras writes them."""
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        for name in ("layers/dense", "layers/dense_1/attention/key"):
            variables = file.create_group(f"{name}/vars")
            variables.attrs["name"] = "patch_embedding_0"
            variables["0"] = np.ones((3, 4), "float32")
            variables["1"] = np.ones(4, "float32")
    return stream.getvalue()


def zipped(entries: dict[str, bytes]) -> bytes:
    """An archive whose checksums are right, so that what is in it is looked at."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return stream.getvalue()


def entries_of(path: Path) -> dict[str, bytes]:
    """What an archive holds."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


TORCH_ENTRIES = entries_of(FOLDER / "torch_zip.pth")
KERAS_CONFIG = json.dumps({"class_name": "SegformerModel", "config": {"config": {"depths": [1, 1, 1, 1]}}}).encode()

# What is damaged, and the file that is made of it.
KINDS: dict[str, tuple[bytes, str, Callable[[bytes], bytes]]] = {
    "safetensors": (safetensors_file(), "model.safetensors", bytes),
    "index": (b'{"weight_map": {"a": "x.safetensors"}}', "model.safetensors.index.json", bytes),
    "torch zip": ((FOLDER / "torch_zip.pth").read_bytes(), "model.pth", bytes),
    "torch pickle": (
        TORCH_ENTRIES["torch_zip/data.pkl"],
        "model.pth",
        lambda data: zipped(TORCH_ENTRIES | {"torch_zip/data.pkl": data}),
    ),
    "torch stream": ((FOLDER / "torch_stream.pth").read_bytes(), "model.pth", bytes),
    "h5": (h5_file(), "model.h5", bytes),
    "keras config": (
        KERAS_CONFIG,
        "model.keras",
        lambda data: zipped({"config.json": data, "model.weights.h5": h5_file()}),
    ),
    "keras weights": (
        h5_file(),
        "model.keras",
        lambda data: zipped({"config.json": KERAS_CONFIG, "model.weights.h5": data}),
    ),
}


def damaged(data: bytes, generator: random.Random) -> bytes:
    """A few random changes: bits, bytes, edge values of integers, pieces cut out, doubled or moved."""
    result = bytearray(data)
    for _ in range(generator.choice((1, 1, 1, 2, 3, 8))):
        position, length = generator.randrange(len(result)), generator.choice((1, 2, 4, 8, 16, 64))
        change = generator.randrange(7)
        if change == 0:
            result[position] ^= 1 << generator.randrange(8)
        elif change == 1:
            result[position] = generator.randrange(256)
        elif change == 2:
            value = generator.choice(EDGES).to_bytes(8, generator.choice(("little", "big")))
            result[position : position + 8] = value[: generator.choice((1, 2, 4, 8))]
        elif change == 3:
            del result[position : position + length]
        elif change == 4:
            result[position:position] = result[position : position + length]
        elif change == 5:
            origin = generator.randrange(len(result))
            result[position : position + length] = result[origin : origin + length]
        else:
            del result[position:]
        result = result or bytearray(b"\0")
    return bytes(result)


def mutations(kind: str, count: int) -> Iterator[tuple[str, bytes]]:
    """So many damaged files of one kind."""
    data, _, build = KINDS[kind]
    for number in range(count):
        yield f"{kind} {number}", build(damaged(data, random.Random(number)))


def published(count: int) -> list[tuple[str, bytes]]:
    """The first files of https://github.com/HDFGroup/cve_hdf5, each behind a published hole of libhdf5."""
    with tarfile.open(FOLDER / "cve_hdf5.tar.xz") as archive:
        files = {member.name: archive.extractfile(member).read() for member in archive if "COPYING" not in member.name}
    return list(files.items())[:count]


def run(kind: str, count: int) -> dict[str, float]:
    """Reads damaged files of one kind and counts how they end; anything but arrays or CheckpointError escapes."""
    data, file_name, build = KINDS["h5" if kind == "cve" else kind]
    files = published(count) if kind == "cve" else mutations(kind, count)
    outcome = {"read": 0, "rejected": 0, "slowest": 0.0, "most": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / file_name
        path.write_bytes(build(data))
        if kind != "index":
            read_all(path)  # the honest file, and every late import
        forbid(folder)
        tracemalloc.start()
        for name, content in files:
            path.write_bytes(content)
            tracemalloc.reset_peak()
            before, began = tracemalloc.get_traced_memory()[0], time.perf_counter()
            signal.alarm(SECONDS_PER_FILE + 1)
            try:
                read_all(path)
                outcome["read"] += 1
            except CheckpointError as error:
                assert str(path) in str(error), f"{name}: the error does not name the file: {error}"
                assert len(str(error)) > len(str(path)) + 5, f"{name}: the error gives no reason"
                outcome["rejected"] += 1
            except BaseException as error:
                sys.exit(f"{name}: {error!r}")
            signal.alarm(0)
            grown = tracemalloc.get_traced_memory()[1] - before
            if grown > 4 * len(content) + ALLOWANCE:
                sys.exit(f"{name}: {grown} bytes of memory for a file of {len(content)}")
            outcome["slowest"] = max(outcome["slowest"], time.perf_counter() - began)
            outcome["most"] = max(outcome["most"], grown)
    return outcome


def read_all(path: Path) -> None:
    """Reads a checkpoint with every tensor in it."""
    for tensor in read_checkpoint(path).tensors.values():
        values = tensor.read()
        assert (values.shape, values.dtype) == (tensor.shape, tensor.dtype)


def forbid(folder: str) -> None:
    """Ends the process when it executes something, opens a file outside a folder to write, or doubles its memory."""
    import resource

    def watch(event: str, arguments: tuple) -> None:
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if event.startswith(FORBIDDEN) or (writes and not str(arguments[0]).startswith(folder)):
            sys.stderr.write(f"forbidden: {event} {arguments}\n")
            sys.stderr.flush()
            signal.raise_signal(signal.SIGKILL)

    sys.addaudithook(watch)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 256 * 2**20, resource.RLIM_INFINITY))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(sys.argv[1], int(sys.argv[2]))))
