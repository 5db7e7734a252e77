"""Writes the inputs that fuzzing starts from, one small valid file a format: python -m tests.fuzz.make_seeds"""

from __future__ import annotations

import base64
import io
import json
import tempfile
import zipfile
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


def far_entry() -> bytes:
    """An archive of PyTorch with an entry at a position that no file has."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in fuzz.TORCH_ENTRIES.items():
            archive.writestr(name, data)
        archive.getinfo("torch_zip/byteorder").header_offset = 2**63
    return stream.getvalue()


def tensorflow_checkpoint() -> bytes:
    """What TensorFlow writes for two variables, as one input."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        variables = {"kernel": tf.Variable(tf.ones((2, 3)), name="layer/kernel"), "step": tf.Variable(3)}
        path = tf.train.Checkpoint(**variables).write(f"{folder}/x")
        index, data = (Path(f"{path}.{end}").read_bytes() for end in ("index", "data-00000-of-00001"))
    return len(data).to_bytes(2, "big") + data + index


def annotations() -> dict[str, bytes]:
    """Objects in an image of 8 x 6 pixels, in every form that the tools write."""
    box = [[1, 1], [5, 1], [5, 4], [1, 4]]
    segmentations = {
        "polygon": [[float(number) for point in box for number in point]],
        "runs": {"size": [6, 8], "counts": [7, 4, 2, 4, 31]},
        "text": {"size": [6, 8], "counts": "742O0"},
    }
    coco = {
        f"coco-{kind}": {
            "images": [{"id": 1, "file_name": "a.png", "height": 6, "width": 8}],
            "annotations": [{"image_id": 1, "category_id": 2, "area": 9.5, "segmentation": segmentation}],
            "categories": [{"id": 2, "name": "ant", "supercategory": "animal"}],
        }
        for kind, segmentation in segmentations.items()
    }
    mask = base64.b64encode(_as_png(np.ones((3, 4)))).decode()
    shapes = [
        {"label": "ant", "points": box, "shape_type": "polygon"},
        {"label": "bee", "points": [[1, 1], [3, 3]], "shape_type": "rectangle"},
        {"label": "bee", "points": [[4, 4], [5, 4]], "shape_type": "circle"},
        {"label": "__ignore__", "points": [[1, 1], [4, 3]], "shape_type": "mask", "mask": mask},
    ]
    labelme = {
        f"labelme-{shape['shape_type']}": {"imagePath": "a.png", "imageWidth": 8, "imageHeight": 6, "shapes": [shape]}
        for shape in shapes
    }
    size = {"original_width": 8, "original_height": 6}
    runs = [0, 0, 0, 192, 56, 191, 255, 0]  # the size, and the beginning of a run
    results = {
        "polygon": {"type": "polygonlabels", "value": {"points": [[9, 9], [90, 9], [9, 90]], "polygonlabels": ["ant"]}},
        "brush": {"type": "brushlabels", "value": {"format": "rle", "rle": runs, "brushlabels": ["ant"]}},
    }
    label_studio = {
        f"label-studio-{kind}": [{"data": {"image": "/x/a.png"}, "annotations": [{"result": [{**size, **result}]}]}]
        for kind, result in results.items()
    }
    return {name: json.dumps(value).encode() for name, value in (coco | labelme | label_studio).items()}


def configurations() -> dict[str, bytes]:
    """What this project, keras-hub, segmentation_models_pytorch and PEFT write."""
    with tempfile.TemporaryDirectory() as folder:
        processor = SegformerImageProcessor(size=64).save_pretrained(folder).read_bytes()
    encoder = {"layerwise_depths": [2, 2, 2, 2], "layerwise_num_heads": [1, 2, 5, 8], "layerwise_strides": [4, 2, 2, 2]}
    values = {
        "config": SegformerConfig.from_variant("b0", num_labels=3).to_dict(),
        "keras-hub": {"class_name": "SegFormerBackbone", "config": {"config": encoder}},
        "smp": {"encoder_name": "mit_b0", "classes": 3},
        "adapter": {
            "peft_type": "LORA",
            "base_model_name_or_path": "a/b",
            "r": 4,
            "lora_alpha": 8,
            "alpha_pattern": {},
        },
    }
    return {"processor": processor} | {name: json.dumps(value).encode() for name, value in values.items()}


def seeds() -> dict[str, dict[str, bytes]]:
    """Inputs by target and name."""
    state = io.BytesIO()
    np.savez(state, weight=np.ones((2, 3), "float32"), step=np.array(3), __meta__=np.array(json.dumps({"step": 3})))
    labels = _as_png(np.zeros((8, 8)))
    return {
        "pickle": {"data.pkl": fuzz.TORCH_ENTRIES["torch_zip/data.pkl"]},
        "zip": {"model": (FOLDER / "torch_zip.pth").read_bytes(), "far-entry": far_entry()},
        "stream": {"model": (FOLDER / "torch_stream.pth").read_bytes()},
        "safetensors": {"model": fuzz.safetensors_file()},
        "hdf5": {"weights": fuzz.h5_file()},
        "keras": {"config": fuzz.KERAS_CONFIG},
        "tensorflow": {"checkpoint": tensorflow_checkpoint()},
        "image": images(),
        "configuration": configurations(),
        "lists": {
            "names": b"road\nsky\n",
            "id2label": b'{"0": "road", "1": "sky"}',
            "index": b'{"weight_map": {"a": "x.safetensors"}}',
            "map": b'{"flat": ["road", 2], "sky": "sky"}',
            "labelmap": b"# label:color_rgb:parts:actions\nroad:0,0,0::\nsky:1,1,1::\n",
            "classes": b"Pixel Value, Class\n0, background\n1, ant\n",
        },
        "annotations": annotations(),
        "yolo": {"polygon": b"names:\n  0: ant\n  1: bee\n\xff1 0.1 0.1 0.9 0.1 0.9 0.9\n"},
        "tfrecord": {kind: _serialized({"image": images()[kind], "labels": labels}) for kind in ("jpeg-rgb", "png-p")}
        | {"shards": b'{"name": "x", "shards": ["a.tfrecord"], "size": 1, "class_names": ["road"]}'},
        "state": {"state": state.getvalue()},
    }


if __name__ == "__main__":
    for target, inputs in seeds().items():
        for name, data in inputs.items():
            path = Path(CORPUS, target, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
