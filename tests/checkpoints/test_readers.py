"""Readers: what honest files give, and how dishonest ones end."""

import json
import os
import pickle
import struct
import time
import tracemalloc
import zipfile

import h5py
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.checkpoints import hostile
from tests.checkpoints.make_fixtures import CLASSES, FOLDER, PALETTE
from tf_segformer.checkpoints.formats.pickle import MAX_OPCODES
from tf_segformer.checkpoints.readers import read_checkpoint
from tf_segformer.errors import CheckpointError


@pytest.mark.parametrize("name", ["torch_zip.pth", "torch_stream.pth"])
def test_torch_files_give_every_type_view_and_stride(name):
    checkpoint = read_checkpoint(FOLDER / name)
    expected = np.load(FOLDER / "torch_expected.npz")
    assert set(checkpoint.tensors) == set(expected.files)
    for key, tensor in checkpoint.tensors.items():
        values = tensor.read()
        assert (values.shape, values.dtype) == (tensor.shape, tensor.dtype)
        np.testing.assert_array_equal(values.astype(np.float32), expected[key])
    assert str(checkpoint.tensors["bfloat16"].dtype) == "bfloat16"


@pytest.mark.parametrize("name", ["torch_zip.pth", "torch_stream.pth"])
def test_class_names_and_palette_come_from_plain_meta_data(name):
    checkpoint = read_checkpoint(FOLDER / name)
    assert checkpoint.class_names == CLASSES
    assert checkpoint.palette == PALETTE


def test_meta_data_of_mmsegmentation_1_gives_class_names(tmp_path):
    dataset = hostile.mapping(classes=b"(" + hostile.text("sky") + hostile.text("road") + b"t")
    described = hostile.mapping(
        meta=hostile.mapping(dataset_meta=dataset), state_dict=hostile.mapping(a=hostile.tensor(hostile.storage()))
    )
    assert read_checkpoint(hostile.write_zip(tmp_path / "a.pth", described)).class_names == ("sky", "road")


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "ema", "model_state_dict"])
def test_weights_are_found_where_training_code_keeps_them(tmp_path, wrapper):
    described = hostile.mapping(epoch=b"K\x03", **{wrapper: hostile.mapping(a=hostile.tensor(hostile.storage()))})
    assert list(read_checkpoint(hostile.write_zip(tmp_path / "a.pth", described)).tensors) == ["a"]


def test_safetensors_are_read_with_bfloat16(tmp_path):
    import ml_dtypes

    values = np.arange(6).reshape(2, 3)
    save_file({"a": values.astype(ml_dtypes.bfloat16), "b": values.astype("float16")}, tmp_path / "x.safetensors")
    checkpoint = read_checkpoint(tmp_path / "x.safetensors")
    for tensor in checkpoint.tensors.values():
        np.testing.assert_array_equal(tensor.read().astype("float32"), values)


def test_shards_are_read_together(tmp_path):
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"a": np.zeros(2)}, tmp_path / "one.safetensors")
    with pytest.raises(CheckpointError, match=r"shard two\.safetensors is missing"):
        read_checkpoint(tmp_path / "model.safetensors.index.json")
    save_file({"b": np.ones(3)}, tmp_path / "two.safetensors")
    assert set(read_checkpoint(tmp_path / "model.safetensors.index.json").tensors) == {"a", "b"}


@pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", 7])
def test_an_index_cannot_lead_out_of_its_folder(tmp_path, shard):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(CheckpointError, match="no plain file name"):
        read_checkpoint(tmp_path / "model.safetensors.index.json")


HONEST = hostile.mapping(a=hostile.tensor(hostile.storage()))


@pytest.fixture(params=["zip", "stream"])
def write(request, tmp_path):
    """Writes opcodes into a file of either format."""
    writer = {"zip": hostile.write_zip, "stream": hostile.write_stream}[request.param]
    return lambda described, storages=None: writer(tmp_path / "file.pth", described, storages)


def test_the_honest_file_that_the_hostile_ones_vary_is_read(write):
    assert read_checkpoint(write(HONEST)).tensors["a"].read().shape == (2, 3)


EXECUTABLE = {
    "os.system": "cos\nsystem\n({touch}tR",
    "eval": "cbuiltins\neval\n({open}tR",
    "named on the stack": "{posix}{system}\x93({touch}tR",
    "object of a class": "csubprocess\nPopen\n({touch}t\x81",
    "instance": "({touch}ios\nsystem\n",
    "torch.load itself": "ctorch.serialization\nload\n({touch}tR",
    "name of a name": "ctorch._utils\n_import_dotted_name\n({touch}tR",
}


# What the checkpoints of training runs hold besides tensors, by the name under which a pickle calls it.
KEPT_BY_TRAINING = (
    "__builtin__ set", "_codecs encode", "argparse Namespace", "builtins complex", "builtins getattr",
    "collections defaultdict", "copy_reg _reconstructor", "datetime datetime",
    "lightning.fabric.utilities AttributeDict",
    "lightning_fabric.utilities.data AttributeDict",
    "mmcv.utils.config ConfigDict", "mmengine.config.config ConfigDict",
    "mmengine.logging.history_buffer HistoryBuffer", "mmengine.logging.message_hub MessageHub",
    "numpy dtype", "numpy ndarray", "numpy._core.multiarray scalar", "numpy.core.multiarray _reconstruct",
    "numpy.dtypes Float32DType", "nvidia_tao_core.config.segformer.default_config ExperimentConfig",
    "nvidia_tao_pytorch.config.segformer Config", "omegaconf.dictconfig DictConfig", "pathlib PosixPath",
    "pathlib WindowsPath", "pytorch_lightning.callbacks.model_checkpoint ModelCheckpoint",
    "segmentation_models_pytorch.losses DiceLoss", "torch bfloat16", "torch device",
    "torch.nn.modules.loss CrossEntropyLoss", "torchmetrics.metric Metric", "typing Any",
)  # fmt: skip


@pytest.mark.parametrize("name", KEPT_BY_TRAINING)
def test_what_training_keeps_with_the_weights_is_read_past(write, name):
    module, _, attribute = name.partition(" ")
    called = f"c{module}\n{attribute}\n".encode() + b"(" + hostile.text("x") + b"tR"
    found = read_checkpoint(write(hostile.mapping(state_dict=HONEST, meta=called)))
    assert found.tensors["a"].read().shape == (2, 3)


@pytest.mark.parametrize("name", EXECUTABLE)
def test_nothing_in_a_file_is_executed(write, tmp_path, name):
    mark = tmp_path / "executed"
    words = {"touch": f"touch {mark}", "open": f"open({str(mark)!r}, 'w')", "posix": "posix", "system": "system"}
    opcodes = {word: hostile.text(value).decode("latin-1") for word, value in words.items()}
    attack = EXECUTABLE[name].format(**opcodes).encode("latin-1")
    with pytest.raises(CheckpointError, match=r"file\.pth.*(rejected the name|the opcode INST)"):
        read_checkpoint(write(hostile.mapping(a=hostile.tensor(hostile.storage()), b=attack)))
    assert not mark.exists()


def test_python_itself_would_have_executed_such_a_file(tmp_path):
    """That the attack is one: the plain unpickler runs it."""
    mark = tmp_path / "executed"
    pickle.loads(hostile.PROTOCOL + b"cos\nsystem\n(" + hostile.text(f"touch {mark}") + b"tR.")
    assert mark.exists()


DISHONEST = {
    "reaches out of its storage": hostile.tensor(hostile.storage(), offset=1),
    "strides out of its storage": hostile.tensor(hostile.storage(), strides=(4, 1)),
    "absurd shape over one number": hostile.tensor(hostile.storage(), shape=(10**6, 10**6), strides=(0, 0)),
    "absurd shape": hostile.tensor(hostile.storage(), shape=(2**62, 2**62), strides=(1, 1)),
    "negative stride": hostile.tensor(hostile.storage(), strides=(-3, 1)),
    "negative offset": hostile.tensor(hostile.storage(), offset=-1),
    "shape that is no list": hostile.tensor(hostile.storage(), shape=3, strides=3),
    "true as a size": hostile.tensor(hostile.storage(), shape=(True, 3)),
    "nine dimensions": hostile.tensor(hostile.storage(), shape=(1,) * 9, strides=(1,) * 9),
    "storage that claims more": hostile.tensor(hostile.storage(length=10**9), shape=(10**9,), strides=(1,)),
    "storage of another place": hostile.tensor(hostile.storage(key="../../data.pkl")),
    "storage of no known type": hostile.tensor(hostile.storage(kind="torch ComplexDoubleStorage")),
    "no state dict": b"K\x01",
    "no tensor": b"}",
    "call of a dictionary": hostile.mapping(a=b"})R"),
    "unhashable key": b"}(]K\x01u",
    "colliding keys": b"}(" + b"".join(hostile.number(i * (2**61 - 1)) + b"N" for i in range(1, 40_000)) + b"u",
    "absurd memo": HONEST + b"r\xff\xff\xff\xff" + b"0N",
    "absurd text": b"X\xff\xff\xff\x7f" + b"a",
    "absurd bytes": b"\x8e" + struct.pack("<Q", 2**62),
    "absurd number": b"\x8b" + struct.pack("<i", 2**31 - 1),
    "too many opcodes": b"N0" * MAX_OPCODES + HONEST,
    "build of our own function": b"ctorch._utils\n_rebuild_tensor_v2\n}(" + hostile.text("x") + b"K\x01ub",
    "mark without an end": b"((((",
    "empty stack": b"R",
}


@pytest.mark.parametrize("name", DISHONEST)
def test_a_dishonest_file_ends_in_one_clear_error_at_once(write, name):
    described = DISHONEST[name] if DISHONEST[name].startswith((b"}", b"K")) else hostile.mapping(a=DISHONEST[name])
    path = write(described)
    tracemalloc.start()
    began = time.process_time()
    with pytest.raises(CheckpointError, match=r"file\.pth"):
        read_checkpoint(path)
    assert time.process_time() - began < 5
    assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    tracemalloc.stop()


def test_a_file_cannot_change_the_reader_for_the_next_one(write):
    """The state that BUILD brings is dropped; Python's unpickler would set it on the function."""
    state = b"}(" + hostile.text("__kwdefaults__") + b"Nub"
    read_checkpoint(
        write(hostile.mapping(a=hostile.tensor(hostile.storage()), b=b"ctorch._utils\n_rebuild_parameter\n" + state))
    )
    assert read_checkpoint(write(HONEST)).tensors["a"].read().shape == (2, 3)


def test_compressed_and_encrypted_archives_are_rejected(tmp_path):
    path = hostile.write_zip(tmp_path / "bomb.pth", HONEST, {"0": bytes(24), "1": bytes(10**7)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="compressed"):
        read_checkpoint(path)


def test_an_archive_with_two_descriptions_is_rejected(tmp_path):
    path = hostile.write_zip(tmp_path / "two.pth", HONEST)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other/data.pkl", b"N.")
    with pytest.raises(CheckpointError, match=r"data\.pkl"):
        read_checkpoint(path)


@pytest.mark.parametrize("name", ["torch_zip.pth", "torch_stream.pth", "tf/tf_model.h5"])
@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_a_truncated_file_is_rejected(tmp_path, name, part):
    data = (FOLDER / name).read_bytes()
    path = tmp_path / "short"
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(CheckpointError, match="short"):
        for tensor in read_checkpoint(path).tensors.values():
            tensor.read()


@pytest.mark.parametrize(
    "data",
    [b"GIF89a and more", bytes(64), b"{}", b"\x89HDF\r\n\x1a\n", b"PK\x03\x04", (2).to_bytes(8, "little") + b"{"],
)
def test_a_file_that_is_none_of_them_is_rejected(tmp_path, data):
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(CheckpointError, match="file"):
        read_checkpoint(tmp_path / "file")


def test_a_missing_file_and_a_folder_are_rejected(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(CheckpointError, match="cannot be opened"):
            read_checkpoint(path)


def test_an_h5_file_cannot_lead_to_other_files_nor_claim_absurd_sizes(tmp_path):
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["a"] = np.ones(3)
    cases = {
        "outside": lambda file: file.create_dataset("a", (3,), "f4", external=[(os.fspath(secret), 0, 12)]),
        "virtual": lambda file: file.create_virtual_dataset("a", _virtual(secret)),
        "unwritten": lambda file: file.create_dataset("a", (10**9,), "f4"),
        "unfilled": lambda file: file.create_dataset("a", (3,), "f4"),
        "compressed": lambda file: file.create_dataset("a", data=np.zeros(10**6), compression="gzip"),
        "text": lambda file: file.create_dataset("a", data="text"),
    }
    for name, make in cases.items():
        path = tmp_path / f"{name}.h5"
        with h5py.File(path, "w") as file:
            make(file)
        with pytest.raises(CheckpointError, match=name):
            read_checkpoint(path)
    with h5py.File(tmp_path / "links.h5", "w") as file:
        file["soft"] = h5py.SoftLink("/nowhere")
        file["hard"] = h5py.ExternalLink(os.fspath(secret), "/a")
    assert read_checkpoint(tmp_path / "links.h5").tensors == {}


def _virtual(path):
    layout = h5py.VirtualLayout((3,), "f8")
    layout[:] = h5py.VirtualSource(os.fspath(path), "a", (3,))
    return layout


def test_an_archive_of_keras_with_another_model_is_rejected(tmp_path):
    path = tmp_path / "other.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps({"class_name": "Lambda", "config": {}}))
        archive.writestr("model.weights.h5", b"")
    with pytest.raises(CheckpointError, match="Lambda"):
        read_checkpoint(path)
