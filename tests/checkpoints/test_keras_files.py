"""Files of Keras that are written without Keras: the same as its own, and loaded by it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from tests.checkpoints.test_hdf5 import randomize
from tf_segformer import (
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerModel,
)
from tf_segformer.checkpoints.architecture import variable_shapes
from tf_segformer.checkpoints.formats.keras_writer import write_keras_archive, write_keras_weights
from tf_segformer.checkpoints.mapping import map_names
from tf_segformer.checkpoints.readers import read_checkpoint
from tf_segformer.checkpoints.saving import model_tensors
from tf_segformer.checkpoints.tensors import LazyTensor
from tf_segformer.errors import CheckpointError

MODELS = [
    (SegformerModel, "segformer"),
    (SegformerForImageClassification, "segformer"),
    (SegformerForSemanticSegmentation, "segformer"),
    (SegformerForSemanticSegmentation, "mmseg"),
]


@pytest.fixture(params=MODELS, ids=lambda each: f"{each[0].__name__}-{each[1]}")
def model(request, small_config):
    """A model of every class and head, with every kind of dropout, all its variables drawn."""
    model_class, head = request.param
    keras.backend.clear_session()  # names of models count from the first again
    config = small_config.replace(
        decode_head_type=head,
        block_norm_eps=1e-6,
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
        id2label=dict(enumerate(["Straße", "b", "c", "d", "e"])),
    )
    model = model_class(config)
    randomize(model)
    return model


def tree(path):
    """Everything in an h5 file: groups with their attributes, datasets with type, layout and values."""
    found = {}

    def visit(name, item):
        found[name] = dict(item.attrs)
        if isinstance(item, h5py.Dataset):
            found[name] |= {"dtype": item.dtype, "chunks": item.chunks, "values": item[()].tolist()}

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


def same_outputs(first, second):
    image = np.random.default_rng(0).standard_normal((1, 33, 65, 3)).astype("float32")
    return np.array_equal(first(image), second(image))


def test_bare_weights_are_those_that_keras_saves(model, tmp_path):
    write_keras_weights(tmp_path / "ours.weights.h5", model.config, model_tensors(model))
    model.save_weights(tmp_path / "theirs.weights.h5")
    assert tree(tmp_path / "ours.weights.h5") == tree(tmp_path / "theirs.weights.h5")


def test_an_archive_is_the_one_that_keras_saves(model, tmp_path):
    write_keras_archive(tmp_path / "ours.keras", model.config, model_tensors(model))
    model.save(tmp_path / "theirs.keras")
    described, trees = [], []
    for name in ("ours", "theirs"):
        with zipfile.ZipFile(tmp_path / f"{name}.keras") as archive:
            assert archive.namelist() == ["metadata.json", "config.json", "model.weights.h5"]
            assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
            assert json.loads(archive.read("metadata.json")).keys() == {"keras_version", "date_saved"}
            described.append(archive.read("config.json"))
            trees.append(tree(archive.extract("model.weights.h5", tmp_path / name)))
    assert described[0] == described[1]
    assert trees[0] == trees[1]


def test_keras_loads_both_files_to_equal_outputs(model, tmp_path):
    write_keras_archive(tmp_path / "model.keras", model.config, model_tensors(model))
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(model)
    assert loaded.config == model.config
    assert same_outputs(loaded, model)
    write_keras_weights(tmp_path / "model.weights.h5", model.config, model_tensors(model))
    other = type(model)(model.config)
    other.load_weights(tmp_path / "model.weights.h5")
    assert same_outputs(other, model)


@pytest.mark.parametrize(
    ("name", "write"), [("model.weights.h5", write_keras_weights), ("model.keras", write_keras_archive)]
)
def test_the_reader_gives_every_bit_back(model, tmp_path, name, write):
    write(tmp_path / name, model.config, model_tensors(model))
    read = map_names(read_checkpoint(tmp_path / name)).tensors
    expected = model_tensors(model)
    assert read.keys() == expected.keys()
    for variable, tensor in expected.items():
        np.testing.assert_array_equal(read[variable].read(), tensor.read())
    # of the folder, since the configuration lies in the archive or beside the weights
    loaded = type(model).from_pretrained(tmp_path if name == "model.keras" else tmp_path / name)
    assert loaded.config == model.config
    assert same_outputs(loaded, model)


def test_blocks_of_a_large_model_are_told_apart(small_config, tmp_path):
    config = small_config.replace(depths=(3, 6, 40, 3))  # B5: blocks 0, 10, 20, 30, 40 and 50 are each in some stage
    shapes = variable_shapes(config, "encoder")
    tensors = {
        name: LazyTensor.of(np.full(shape, number, np.float32)) for number, (name, shape) in enumerate(shapes.items())
    }
    write_keras_archive(tmp_path / "model.keras", config, tensors)
    read = map_names(read_checkpoint(tmp_path / "model.keras")).tensors
    assert {name: tensor.read().flat[0] for name, tensor in read.items()} == {
        name: number for number, name in enumerate(shapes)
    }


def test_other_types_of_numbers_are_written_as_float32(small_config, tmp_path):
    model = SegformerModel(small_config)
    half = {name: LazyTensor.of(np.asarray(tensor.read(), np.float16)) for name, tensor in model_tensors(model).items()}
    write_keras_archive(tmp_path / "model.keras", small_config, half)
    read = map_names(read_checkpoint(tmp_path / "model.keras")).tensors
    for name, tensor in half.items():
        assert read[name].dtype == np.float32
        np.testing.assert_array_equal(read[name].read(), tensor.read().astype(np.float32))


def test_one_tensor_at_a_time_is_in_memory(small_config, tmp_path):
    alive, most = 0, 0

    class Counted(np.ndarray):
        def __del__(self):
            nonlocal alive
            alive -= self.base is None

    def lazy(tensor):
        def read():
            nonlocal alive, most
            values = Counted(tensor.shape, np.float32)
            values[...] = 1
            alive += 1
            most = max(most, alive)
            return values

        return LazyTensor(tensor.shape, tensor.dtype, read)

    tensors = {name: lazy(tensor) for name, tensor in model_tensors(SegformerModel(small_config)).items()}
    write_keras_archive(tmp_path / "model.keras", small_config, tensors)
    assert most <= 2  # the last one lives until the next has been read


def test_neither_keras_nor_tensorflow_is_loaded(small_config, tmp_path):
    SegformerForSemanticSegmentation(small_config).save_pretrained(tmp_path / "source")
    code = (
        "import sys\n"
        "from tf_segformer.checkpoints.file_conversion import convert_checkpoint\n"
        "from tf_segformer.checkpoints.loading import open_checkpoint\n"
        "source = open_checkpoint(sys.argv[1])\n"
        "for name in ('/model.keras', '/new/model.weights.h5'):\n"
        "    convert_checkpoint(source, sys.argv[2] + name, to='keras')\n"
        "print(sorted({'keras', 'tensorflow', 'torch'} & set(sys.modules)))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "source"), str(tmp_path)]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "[]\n"), ended.stderr


def test_a_configuration_of_another_model_is_not_overwritten(small_config, tmp_path):
    tensors = model_tensors(SegformerModel(small_config))
    write_keras_weights(tmp_path / "one.weights.h5", small_config, tensors)
    write_keras_weights(tmp_path / "two.weights.h5", small_config, tensors)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(CheckpointError, match=r"config\.json.*another folder"):
        write_keras_weights(tmp_path / "three.weights.h5", small_config.replace(block_norm_eps=1e-6), tensors)
    assert (tmp_path / "config.json").read_bytes() == before
    (tmp_path / "config.json").write_text('{"of": "something else"}')
    with pytest.raises(CheckpointError, match=r"config\.json.*another folder"):
        write_keras_weights(tmp_path / "three.weights.h5", small_config, tensors)
    assert sorted(os.listdir(tmp_path)) == ["config.json", "one.weights.h5", "two.weights.h5"]


@pytest.mark.parametrize(
    ("name", "write"), [("model.weights.h5", write_keras_weights), ("model.keras", write_keras_archive)]
)
def test_a_run_that_is_cut_off_leaves_what_was_there(small_config, tmp_path, name, write):
    tensors = model_tensors(SegformerModel(small_config))
    write(tmp_path / name, small_config, tensors)
    before = (tmp_path / name).read_bytes()

    def stop():
        raise KeyboardInterrupt

    last = list(tensors)[-1]
    tensors[last] = LazyTensor(tensors[last].shape, tensors[last].dtype, stop)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / name, small_config, tensors)
    assert (tmp_path / name).read_bytes() == before


@pytest.mark.parametrize("write", [write_keras_weights, write_keras_archive])
def test_a_place_that_cannot_be_written_is_one_error(small_config, tmp_path, write):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"file.*cannot be written"):
        write(tmp_path / "file" / "model", small_config, model_tensors(SegformerModel(small_config)))
