"""The recipes for Spark and Apache Beam give what the exported model gives, and say of a broken image why."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Five images of two sizes and a broken one, in a folder."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("images")
    for number in range(5):
        colors = np.random.default_rng(number).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(colors).resize((40 + number % 2, 30), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG")
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory, images):
    """A small exported model, and (status, class fractions) of each image as it answers in this process."""
    import tensorflow as tf

    from tf_segformer import (
        SegformerConfig,
        SegformerForSemanticSegmentation,
        SegformerImageProcessor,
        export_saved_model,
    )

    config = SegformerConfig(
        depths=(1, 1, 1, 1), hidden_sizes=(4, 8, 20, 32), decoder_hidden_size=8,
        id2label={0: "meadow", 1: "sky", 2: "house"}, initializer_range=0.3,
    )  # fmt: skip
    model = SegformerForSemanticSegmentation(config)
    folder = export_saved_model(model, tmp_path_factory.mktemp("exported"), SegformerImageProcessor(size=64))
    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    expected = {}
    for path in images.iterdir():
        answer = serve(image_bytes=tf.constant([path.read_bytes()]))
        expected[path.name] = answer["status"].numpy()[0].decode(), answer["class_fractions"].numpy()[0]
    return Path(folder), expected


def run(program, *arguments, **environment):
    command = [program, *map(str, arguments)]
    finished = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    assert finished.returncode == 0, finished.stderr[-3000:]


def check(found, expected):
    assert set(found) == set(expected) and len(expected) == 6
    for name, (status, fractions) in expected.items():
        assert found[name][0] == status
        np.testing.assert_allclose(found[name][1], fractions, atol=1e-3)
    assert found["broken.png"][0] != found["0.png"][0]


def test_spark(exported, images, tmp_path):
    pytest.importorskip("pyspark")
    parquet = pytest.importorskip("pyarrow.parquet")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java")
    folder, expected = exported
    options = {"PYSPARK_SUBMIT_ARGS": "--master local[2] pyspark-shell", "PYSPARK_PYTHON": sys.executable}
    options |= {"SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_DRIVER_PYTHON": sys.executable}
    run(sys.executable, EXAMPLES / "spark_segment.py", folder, images, tmp_path / "out", **options)
    rows = parquet.read_table(tmp_path / "out").to_pylist()
    assert len(rows) == 6
    check({Path(row["path"]).name: (row["status"], row["class_fractions"]) for row in rows}, expected)


def test_beam(exported, images, tmp_path):
    """Beam has an environment of its own, because it needs an older Pillow than this package: see `.ci/run`."""
    program = os.environ.get("BEAM_PYTHON") or (sys.executable if importlib.util.find_spec("apache_beam") else None)
    if program is None:
        pytest.skip("BEAM_PYTHON names no Python with apache-beam and tensorflow")
    folder, expected = exported
    run(program, EXAMPLES / "beam_segment.py", folder, f"{images}/*", tmp_path / "out", PYTHONPATH="")
    lines = [json.loads(line) for path in tmp_path.glob("out*") for line in path.read_text().splitlines()]
    assert len(lines) == 6
    check({Path(line["id"]).name: (line["status"], list(line["class_fractions"].values())) for line in lines}, expected)
