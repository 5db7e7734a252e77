"""Builds files that a stranger might send: what PyTorch's own pickles are made of, and what they must not hold."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

PROTOCOL = b"\x80\x02"
STREAM_START = b"".join(pickle.dumps(each, 2) for each in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))


def text(value: str) -> bytes:
    """The opcodes of a string."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    """The opcodes of a whole number of any size."""
    return pickle.dumps(value, 2)[2:-1]


def storage(key: str = "0", length: int = 6, kind: str = "torch FloatStorage") -> bytes:
    """The opcodes of a storage."""
    module, name = kind.split(" ")
    return b"(" + text("storage") + f"c{module}\n{name}\n".encode() + text(key) + text("cpu") + number(length) + b"tQ"


def tensor(source: bytes, offset: int = 0, shape: Any = (2, 3), strides: Any = (3, 1)) -> bytes:
    """The opcodes of a tensor."""
    sizes = pickle.dumps(shape, 2)[2:-1] + pickle.dumps(strides, 2)[2:-1]
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + source
        + number(offset)
        + sizes
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )


def mapping(**values: bytes) -> bytes:
    """The opcodes of a dictionary."""
    return b"}(" + b"".join(text(name) + value for name, value in values.items()) + b"u"


def write_zip(path: Path, described: bytes, storages: dict[str, bytes] | None = None, compression: int = 0) -> Path:
    """An archive as `torch.save` writes it."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", PROTOCOL + described + b".")
        for key, data in (storages or {"0": bytes(24)}).items():
            archive.writestr(f"archive/data/{key}", data)
    return path


def write_stream(path: Path, described: bytes, storages: dict[str, bytes] | None = None) -> Path:
    """A file as `torch.save` wrote it before version 1.6."""
    storages = storages or {"0": bytes(24)}
    stream = io.BytesIO()
    stream.write(STREAM_START + PROTOCOL + described + b"." + pickle.dumps(list(storages), 2))
    for data in storages.values():
        stream.write(struct.pack("<q", len(data) // 4) + data)
    path.write_bytes(stream.getvalue())
    return path
