"""Writes the inputs that fuzzing starts from, one small valid file a format: python -m tests.fuzz.make_seeds"""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from tests.checkpoints import fuzz
from tests.checkpoints.make_fixtures import FOLDER
from tests.fuzz.targets import CORPUS
from tf_segformer import SegformerConfig, SegformerImageProcessor
from tf_segformer.data.tfrecords import _as_png, _serialized


def images() -> dict[str, bytes]:
    """The formats that are read, with what their headers can hold."""
    picture = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    encoded = {}
    for kind, mode in (("JPEG", "RGB"), ("PNG", "P"), ("PNG", "LA"), ("GIF", "P"), ("BMP", "RGB"), ("TIFF", "RGB"),
                       ("WEBP", "RGB"), ("PPM", "L"), ("JPEG2000", "RGB")):  # fmt: skip
        stream = io.BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 6
        picture.convert(mode).save(stream, kind, **({"exif": exif} if kind in ("JPEG", "WEBP", "TIFF") else {}))
        encoded[f"{kind.lower()}-{mode.lower()}"] = stream.getvalue()
    return encoded


def seeds() -> dict[str, dict[str, bytes]]:
    """Inputs by target and name."""
    state = io.BytesIO()
    np.savez(state, weight=np.ones((2, 3), "float32"), step=np.array(3), __meta__=np.array(json.dumps({"step": 3})))
    labels = _as_png(np.zeros((8, 8)))
    config = SegformerConfig.from_variant("b0", num_labels=3).to_dict()
    with tempfile.TemporaryDirectory() as folder:
        processor = SegformerImageProcessor(size=64).save_pretrained(folder).read_bytes()
    return {
        "pickle": {"data.pkl": fuzz.TORCH_ENTRIES["torch_zip/data.pkl"]},
        "zip": {"model": (FOLDER / "torch_zip.pth").read_bytes()},
        "stream": {"model": (FOLDER / "torch_stream.pth").read_bytes()},
        "safetensors": {"model": fuzz.safetensors_file()},
        "hdf5": {"weights": fuzz.h5_file()},
        "keras": {"config": fuzz.KERAS_CONFIG},
        "image": images(),
        "configuration": {"config": json.dumps(config).encode(), "processor": processor},
        "lists": {
            "names": b"road\nsky\n",
            "id2label": b'{"0": "road", "1": "sky"}',
            "index": b'{"weight_map": {"a": "x.safetensors"}}',
            "shards": b'{"name": "x", "shards": ["a.tfrecord"], "size": 1, "class_names": ["road"]}',
        },
        "tfrecord": {kind: _serialized({"image": images()[kind], "labels": labels}) for kind in ("jpeg-rgb", "png-p")},
        "state": {"state": state.getvalue()},
    }


if __name__ == "__main__":
    for target, inputs in seeds().items():
        for name, data in inputs.items():
            path = Path(CORPUS, target, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
