"""TensorFlow checkpoints, and what tf-keras and keras-hub leave: found by every name that users have for them."""

from __future__ import annotations

import shutil

import h5py
import numpy as np
import pytest

from tests.checkpoints.layout_packing import HEADS
from tests.checkpoints.test_layouts import unpack
from tf_segformer.checkpoints.formats.tensorflow import _read_places
from tf_segformer.checkpoints.formats.tensorflow_table import TABLE_MAGIC, read_table
from tf_segformer.checkpoints.loading import open_checkpoint
from tf_segformer.checkpoints.readers import read_checkpoint
from tf_segformer.errors import CheckpointError
from tf_segformer.hub import find_file


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder with epoch_7.index, its data and the file `checkpoint`."""
    folder = tmp_path_factory.mktemp("checkpoint")
    unpack("tf_checkpoint_with_slots", folder)
    return folder / "files"


NAMES = ["", "epoch_7", "epoch_7.index", "epoch_7.data-00000-of-00001"]


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_is_found_by_its_folder_its_prefix_and_its_files(checkpoint, name):
    opened = open_checkpoint(checkpoint / name, num_attention_heads=HEADS)
    assert opened.path == checkpoint / "epoch_7.index"
    assert len(opened.mapped.tensors) == 145
    assert not opened.mapped.unknown


def test_the_newest_checkpoint_of_a_folder_that_was_moved_is_read(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    for file in checkpoint.glob("epoch_7.*"):
        shutil.copy(file, tmp_path / file.name.replace("epoch_7", "epoch_9"))
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/home/someone/runs/epoch_9"\n')
    assert open_checkpoint(tmp_path, num_attention_heads=HEADS).path.name == "epoch_9.index"
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "../../somewhere/else"\n')
    with pytest.raises(CheckpointError, match=r"several TensorFlow checkpoints.*epoch_7, epoch_9"):
        open_checkpoint(tmp_path, num_attention_heads=HEADS)


def test_a_checkpoint_without_its_object_graph_has_the_names_of_its_keys(tmp_path):
    import tensorflow as tf

    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "old"),
        tensor_names=[
            "segformer/encoder/layer_norm.0/gamma",
            "x/.OPTIMIZER_SLOT/optimizer/m/.ATTRIBUTES/VARIABLE_VALUE",
        ],
        shape_and_slices=["", ""],
        tensors=[tf.range(3.0), tf.zeros(3)],
    )
    tensors = read_checkpoint(tmp_path / "old.index").tensors
    assert list(tensors) == ["segformer.encoder.layer_norm.0.gamma"]
    np.testing.assert_array_equal(tensors["segformer.encoder.layer_norm.0.gamma"].read(), [0, 1, 2])


def test_text_in_a_checkpoint_is_rejected(tmp_path):
    import tensorflow as tf

    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "text"), tensor_names=["name"], shape_and_slices=[""], tensors=[tf.constant("text")]
    )
    with pytest.raises(CheckpointError, match="name holds string, not numbers"):
        read_checkpoint(tmp_path / "text.index")


def test_a_damaged_checkpoint_is_rejected(checkpoint, tmp_path):
    """Every byte of the index that is changed ends in our error; what the data lacks is found when it is read."""
    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    index, data = tmp_path / "epoch_7.index", tmp_path / "epoch_7.data-00000-of-00001"
    whole = index.read_bytes()
    for position in range(0, len(whole) - 8, len(whole) // 40):
        index.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            for tensor in read_checkpoint(index).tensors.values():
                tensor.read()
        except CheckpointError:
            continue
    index.write_bytes(whole)
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"epoch_7\.index"):
        read_checkpoint(index)
    data.unlink()
    with pytest.raises(CheckpointError, match=r"epoch_7\.data-00000-of-00001 is missing"):
        read_checkpoint(index)


def test_a_partitioned_variable_is_rejected(tmp_path):
    import tensorflow as tf

    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "huge"),
        tensor_names=["classifier/kernel"],
        shape_and_slices=["1048576 1048576 0,1:0,1"],  # one element of a terabyte
        tensors=[tf.zeros((1, 1))],
    )
    with pytest.raises(CheckpointError, match="classifier/kernel: a tensor in parts"):
        read_checkpoint(tmp_path / "huge.index")


def test_an_absurd_length_of_text_costs_neither_memory_nor_the_process(checkpoint, tmp_path):
    """TensorFlow's own reader takes the length of the object graph at its word and ends the process."""
    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    graph = _read_places(tmp_path / "epoch_7.index")["_CHECKPOINTABLE_OBJECT_GRAPH"]
    content = bytearray(graph.file.read_bytes())
    content[graph.position : graph.position + 8] = b"\xff" * 7 + b"\x01"
    graph.file.write_bytes(content)
    with pytest.raises(CheckpointError, match="a damaged graph of objects"):
        read_checkpoint(tmp_path / "epoch_7.index")


def table(*entries: tuple[int, int, int, bytes]) -> bytes:
    """A table of one block, of entries with the lengths that they claim; the index of blocks comes behind it."""
    block = b"".join(bytes(lengths) + content for *lengths, content in entries) + bytes(4)
    handle = bytes([0, len(block)])
    index = bytes([0, 1, len(handle)]) + b"a" + handle + bytes(4)
    footer = bytes([0, 0, len(block) + 5, len(index)]).ljust(40, b"\0") + TABLE_MAGIC
    return block + bytes(5) + index + bytes(5) + footer


def test_a_table_is_read_within_its_bounds():
    assert read_table(table((0, 2, 1, b"ab1"), (1, 1, 1, b"c2"))) == {b"ab": b"1", b"ac": b"2"}
    for lengths in ((1, 2, 1), (0, 99, 1), (0, 2, 99)):
        with pytest.raises(ValueError, match="reaches out of its block"):
            read_table(table((*lengths, b"ab1")))
    whole = table((0, 2, 1, b"ab1"))
    for damaged in (whole[:-1], whole[-30:], b"", TABLE_MAGIC):
        with pytest.raises(ValueError, match="no table"):
            read_table(damaged)


def test_files_of_tf_keras_without_blocks_are_rejected_with_those_that_would_do(tmp_path):
    with h5py.File(tmp_path / "model.weights.h5", "w") as file:
        group = "segformer/encoder/embeddings/tf_segformer_overlap_patch_embeddings/proj/vars"
        file[f"{group}/0"] = np.zeros((7, 7, 3, 4), "float32")
    (tmp_path / "best.h5").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"blocks are missing.*tf_model\.h5.*Next to it: best\.h5$"):
        open_checkpoint(tmp_path / "model.weights.h5")
    import zipfile

    with zipfile.ZipFile(tmp_path / "whole.keras", "w") as archive:
        archive.writestr("config.json", '{"class_name": "TFSegformerForSemanticSegmentation"}')
        archive.write(tmp_path / "model.weights.h5", "model.weights.h5")
    with pytest.raises(CheckpointError, match=r"blocks are missing.*SavedModel.*best\.h5$"):
        open_checkpoint(tmp_path / "whole.keras")


def test_widths_of_no_variant_ask_for_attention_heads(checkpoint):
    with pytest.raises(CheckpointError, match=r"\(4, 8, 12, 16\).*num_attention_heads=.*config="):
        open_checkpoint(checkpoint)


def test_both_files_of_a_preset_are_read_by_either_name(tmp_path):
    unpack("keras_hub_preset", tmp_path)
    for name in ("", "model.weights.h5", "task.weights.h5"):
        opened = open_checkpoint(tmp_path / "files" / name)
        assert (opened.task, opened.config.num_attention_heads) == ("segmentation", HEADS)
        opened.check_complete()
    (tmp_path / "files" / "task.weights.h5").unlink()  # the backbone has the head without its classifier
    assert open_checkpoint(tmp_path / "files").mapped.shapes.keys() & {"decode_head/classifier/kernel"} == set()


@pytest.mark.parametrize(
    "name",
    ["segformer_b0_ade20k_512", "mit_b0_ade20k_512", "kaggle://keras/segformer/keras/segformer_b0_ade20k_512/3"],
)
def test_names_of_presets_are_answered_by_the_same_weights_on_the_hub(name):
    with pytest.raises(CheckpointError, match="nvidia/segformer-b0-finetuned-ade-512-512"):
        find_file(name, ["config.json"])
