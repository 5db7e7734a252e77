"""The SavedModel in a process without Python: a C program linked with the libraries of the TensorFlow wheel."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from tests.deploy.conftest import signatures
from tests.deploy.images import BROKEN, JPEG, PNG, read_png

COMPILER = shutil.which("gcc") or shutil.which("cc")
WHEEL = Path(tf.sysconfig.get_lib())
LIBRARIES = ("libtensorflow_cc.so.2", "libtensorflow_framework.so.2")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(COMPILER is None, reason="needs a C compiler"),
    pytest.mark.skipif(
        not all((WHEEL / name).exists() for name in LIBRARIES), reason="this wheel has no C libraries for Linux"
    ),
]


@pytest.fixture(scope="module")
def serve_image(exported, tmp_path_factory):
    """Compiles the program; gives a function from an image file to the class map's bytes and the status."""
    folder = tmp_path_factory.mktemp("c")
    program, source = folder / "serve_image", Path(__file__).with_name("serve_image.c")
    libraries = [f"-L{WHEEL}", f"-Wl,-rpath,{WHEEL}", *(f"-l:{name}" for name in LIBRARIES)]
    subprocess.run(
        [
            COMPILER,
            "-std=c11",
            "-Wall",
            "-Wextra",
            f"-I{tf.sysconfig.get_include()}",
            source,
            "-o",
            program,
            *libraries,
        ],
        check=True,
    )
    linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    assert "libtensorflow_cc" in linked and "libpython" not in linked
    version = exported().version
    saved_model = SavedModel()
    saved_model.ParseFromString((version / "saved_model.pb").read_bytes())
    signature = saved_model.meta_graphs[0].signature_def["serving_default"]
    names = [
        signature.inputs["image_bytes"].name,
        signature.outputs["class_map_bytes"].name,
        signature.outputs["status"].name,
    ]

    def serve(encoded):
        (folder / "image").write_bytes(encoded)
        arguments = [program, version, *names, folder / "image", folder / "map.png"]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        done = subprocess.run(arguments, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return (folder / "map.png").read_bytes(), done.stdout.strip()

    return serve


def test_a_c_program_gives_the_png_of_python(serve_image, exported):
    for encoded in (JPEG, PNG):
        answer = signatures(exported().version)["serving_default"](image_bytes=tf.constant([encoded]))
        content, status = serve_image(encoded)
        assert (content, status) == (answer["class_map_bytes"].numpy()[0], "OK")
        np.testing.assert_array_equal(read_png(content), exported().class_map(encoded))


def test_a_c_program_is_told_what_is_wrong_with_an_image(serve_image):
    content, status = serve_image(BROKEN["animated GIF"][0])
    assert (content, status) == (b"", "INVALID_ARGUMENT: the bytes are neither a JPEG nor a PNG file")
