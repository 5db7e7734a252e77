"""For each published hole of loading models and images in SECURITY.md: a file that uses it, and what it meets here.

The files would run code that leaves a trace, read a secret or fill the memory, in a loader that has the hole.
"""

from __future__ import annotations

import base64
import io
import json
import marshal
import os
import pickle
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.checkpoints import hostile
from tf_segformer.checkpoints.readers import read_checkpoint
from tf_segformer.configuration import SegformerConfig
from tf_segformer.errors import CheckpointError, ImageError
from tf_segformer.hub import shard_names
from tf_segformer.imaging.files import open_image
from tf_segformer.imaging.processor import SegformerImageProcessor

SECRET = b"the content of another file of this machine......"


def lambda_layer(trace: Path) -> dict:
    """A layer whose code runs when Keras builds it."""
    code = compile(f"lambda x: open({str(trace)!r}, 'w').write('x')", "x", "eval").co_consts[0]
    encoded = base64.b64encode(marshal.dumps(code)).decode()
    function = {"class_name": "__lambda__", "config": {"code": encoded, "defaults": None, "closure": None}}
    return {"class_name": "Lambda", "config": {"name": "x", "function": function, "output_shape": None}}


def layer(module: str, name: str, /, **config: object) -> dict:
    return {"module": module, "class_name": name, "config": config, "registered_name": name}


KERAS_CONFIGS = {
    "CVE-2024-3660, CVE-2025-9905: Lambda": lambda_layer,
    "CVE-2025-1550: any function of any module": lambda trace: layer("os", "system", command=f"touch {trace}"),
    "CVE-2025-8747: get_file": lambda trace: layer(
        "keras.utils", "get_file", fname=str(trace), origin="file:///etc/passwd"
    ),
    "CVE-2025-9906: enable_unsafe_deserialization": lambda trace: layer(
        "keras.config", "enable_unsafe_deserialization"
    ),
    "CVE-2025-12058: StringLookup": lambda _: layer("keras.layers", "StringLookup", vocabulary="/etc/passwd"),
    "CVE-2025-49655: TorchModuleWrapper": lambda trace: layer(
        "keras.layers", "TorchModuleWrapper", module=base64.b64encode(pickle.dumps(Touch(trace))).decode()
    ),
    "CVE-2026-1462: TFSMLayer": lambda _: layer("keras.layers", "TFSMLayer", filepath="/etc", call_endpoint="serve"),
    "CVE-2026-12479: parent folders in layer names": lambda _: layer("keras.layers", "Dense", name="..", units=3),
    "CVE-2026-12481: Lambda without safe mode": lambda_layer,
}


class Touch:
    """Leaves a trace when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mknod, (self.path,)


def test_the_hostile_pickle_of_these_tests_runs_in_a_loader_that_has_the_hole(tmp_path):
    pickle.loads(pickle.dumps(Touch(tmp_path / "trace")))
    assert (tmp_path / "trace").exists()


def h5_bytes(fill) -> bytes:
    """An HDF5 file that a function has filled."""
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        fill(file)
    return stream.getvalue()


def write_archive(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("hole", KERAS_CONFIGS)
@pytest.mark.parametrize("depth", ["the model itself", "a layer of a model"])
def test_nothing_that_a_keras_archive_describes_is_built(trace, hole, depth):
    config = KERAS_CONFIGS[hole](trace)
    if depth == "a layer of a model":
        config = layer("keras", "Functional", layers=[config])
    weights = h5_bytes(lambda file: file.create_group("layers"))
    path = write_archive(
        Path("model.keras"),
        {"config.json": json.dumps(config).encode(), "metadata.json": b"{}", "model.weights.h5": weights},
    )
    with pytest.raises(CheckpointError):
        read_checkpoint(path)


@pytest.mark.parametrize("hole", KERAS_CONFIGS)
def test_nothing_that_an_h5_file_describes_is_built(trace, hole):
    config = json.dumps(layer("keras", "Functional", layers=[KERAS_CONFIGS[hole](trace)]))

    def fill(file):
        file.attrs["model_config"] = config
        file.create_dataset("classifier/classifier/bias:0", data=np.zeros(3, "float32"))

    Path("tf_model.h5").write_bytes(h5_bytes(fill))
    for tensor in read_checkpoint("tf_model.h5").tensors.values():
        tensor.read()


@pytest.mark.parametrize("name", ["../trace", "/tmp/../trace", "assets/../../trace", "layers/../../../trace"])
def test_nothing_is_extracted_from_an_archive(trace, name):
    """CVE-2025-12060, GHSA-hqp4-2352-xf5r: archives whose entries lead out of the folder they are extracted to."""
    entries = {"config.json": b"{}", "model.weights.h5": h5_bytes(lambda file: None), name: b"x"}
    with pytest.raises(CheckpointError):
        read_checkpoint(write_archive(Path("model.keras"), entries))


def external(file, secret):
    file.create_dataset("vars/0", (len(SECRET),), "uint8", external=[(str(secret), 0, len(SECRET))])


def linked(file, secret):
    file["vars/0"] = h5py.ExternalLink(str(secret), "/data")


def virtual(file, secret):
    layout = h5py.VirtualLayout((len(SECRET),), "uint8")
    layout[:] = h5py.VirtualSource(str(secret), "data", (len(SECRET),))
    file.create_virtual_dataset("vars/0", layout)


@pytest.mark.parametrize("refer", [external, linked, virtual])
@pytest.mark.parametrize("kind", ["model.h5", "model.weights.h5"])
def test_no_other_file_is_read_through_hdf5(trace, refer, kind):
    """CVE-2026-1669, CVE-2026-12480: external and virtual datasets, which HDF5 reads from other files."""
    secret = trace.with_name("secret")
    if refer is external:
        secret.write_bytes(SECRET)
    else:
        with h5py.File(secret, "w") as file:
            file["data"] = np.frombuffer(SECRET, "uint8")
    Path(kind).write_bytes(h5_bytes(lambda file: refer(file, secret)))
    try:
        values = [tensor.read() for tensor in read_checkpoint(kind).tensors.values()]
    except CheckpointError:
        return
    assert not any(SECRET[:8] in np.asarray(value).tobytes() for value in values)


def test_a_shape_in_hdf5_costs_no_memory(trace):
    """CVE-2026-0897: a dataset that claims a shape of petabytes and holds nothing."""
    Path("model.h5").write_bytes(
        h5_bytes(lambda file: file.create_dataset("vars/0", (50_000_000, 50_000_000), "float32", chunks=(1024, 1024)))
    )
    with pytest.raises(CheckpointError):
        for tensor in read_checkpoint("model.h5").tensors.values():
            tensor.read()


def test_pickles_call_nothing(trace):
    """Every torch.load before weights_only, and what of CVE-2025-32434 works by calling: the zip and the stream."""
    command = hostile.text(str(trace))
    for called in (b"cos\nmknod\n(" + command + b"tR", b"cbuiltins\nopen\n(" + command + hostile.text("w") + b"tR"):
        for write in (hostile.write_zip, hostile.write_stream):
            with pytest.raises(CheckpointError):
                read_checkpoint(write(Path("model.pth"), hostile.mapping(a=called)))
    Path("model.pth").write_bytes(pickle.dumps(Touch(trace)))
    with pytest.raises(CheckpointError):
        read_checkpoint("model.pth")


def test_the_tar_format_of_torch_is_not_read(trace):
    """CVE-2025-32434: torch.load fell back to its oldest format, a tar archive, whose loader has no weights_only."""
    with tarfile.open("model.pth", "w") as archive:
        for name in ("pickle", "storages", "tensors"):
            data = pickle.dumps(Touch(trace))
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    with pytest.raises(CheckpointError, match="neither safetensors, nor PyTorch"):
        read_checkpoint("model.pth")


@pytest.mark.parametrize("target", [b")", b"K\x03", hostile.storage(), hostile.tensor(hostile.storage())])
def test_pickles_set_items_of_dictionaries_only(trace, target):
    """CVE-2026-24747: SETITEM(S) upon what is no dictionary, and storages that claim more than they hold."""
    for opcodes in (b"K\x00K\x01s", b"(K\x00K\x01u"):
        with pytest.raises(CheckpointError):
            read_checkpoint(hostile.write_zip(Path("model.pth"), hostile.mapping(a=target + opcodes)))
    with pytest.raises(CheckpointError):
        read_checkpoint(
            hostile.write_zip(Path("model.pth"), hostile.mapping(a=hostile.tensor(hostile.storage(length=2**40))))
        )


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b.safetensors", "..", ".hidden", 3, None])
def test_an_index_names_files_of_its_folder_only(trace, name):
    """CVE-2026-69112: paths in the weight_map of a sharded checkpoint."""
    Path("model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError):
        shard_names(Path("model.safetensors.index.json"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_shard_that_is_a_pipe_is_not_waited_for(trace):
    """CVE-2026-69112, its second half."""
    Path("model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "a.safetensors"}}))
    os.mkfifo("a.safetensors")
    with pytest.raises(CheckpointError):
        read_checkpoint("model.safetensors.index.json")


def test_a_configuration_is_no_program(trace):
    """CVE-2024-11392, CVE-2025-14926 and remote code: what a config.json names is neither imported nor evaluated."""
    code = f"open({str(trace)!r}, 'w').write('x')"
    Path("modeling_x.py").write_text(code)
    fields = {
        "auto_map": {"AutoConfig": "modeling_x.Config", "AutoModel": "modeling_x.Model"},
        "custom_pipelines": {"x": {"impl": "modeling_x.Pipeline"}},
        "conv_layers": f"__import__('os').system('touch {trace}')",
        "hidden_act": "gelu",
    }
    Path("config.json").write_text(json.dumps(fields))
    assert SegformerConfig.from_pretrained(".").extra["conv_layers"] == fields["conv_layers"]
    Path("preprocessor_config.json").write_text(json.dumps(fields))
    SegformerImageProcessor.from_pretrained(".")


def test_saving_writes_no_file_that_a_configuration_names(trace):
    """CVE-2026-9856: keys of a processor's configuration that become names of files."""
    Path("preprocessor_config.json").write_text(json.dumps({"chat_template": {"../../trace": "x"}, "../trace": "x"}))
    Path("config.json").write_text(json.dumps({"../trace": "x", "_name_or_path": "../../trace"}))
    SegformerImageProcessor.from_pretrained(".").save_pretrained("saved")
    SegformerConfig.from_pretrained(".").save_pretrained("saved")
    assert sorted(os.listdir("saved")) == ["config.json", "preprocessor_config.json"]


def fits() -> bytes:
    """A header of FITS with gzip data."""
    cards = [
        "SIMPLE  =                    T",
        "BITPIX  =                    8",
        "NAXIS   =                    0",
        "END",
    ]
    return "".join(card.ljust(80) for card in cards).encode().ljust(2880)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(fits(), id="CVE-2026-40192: FITS"),
        pytest.param(struct.pack(">2I", 0, 4) + bytes(248), id="CVE-2026-54058: McIdas AREA"),
        pytest.param(b"\xd7\xcd\xc6\x9a\0\0" + bytes(40), id="CVE-2026-96644: WMF"),
        pytest.param(struct.pack(">27f", *([1.0] * 27)) + bytes(1000), id="CVE-2026-96637: SPIDER"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", id="EPS, which starts Ghostscript"),
        pytest.param(b"8BPS\0\1" + bytes(40), id="PSD"),
        pytest.param(b"%PDF-1.7\n", id="PDF"),
    ],
)
def test_images_of_other_formats_reach_no_decoder(trace, content):
    with pytest.raises(ImageError, match="not an image in one of the formats"):
        open_image(content)


@pytest.mark.parametrize("name", ["model.pth", "model.keras"])
def test_the_directory_of_an_archive_is_bounded(trace, name):
    """Millions of empty entries: a directory of some bytes each becomes an object each."""
    directory = (b"PK\x01\x02" + bytes(42)) * 1_000_000
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, len(directory), 4, 0)
    Path(name).write_bytes(b"PK\x03\x04" + directory + end)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError):
            read_checkpoint(name)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_a_safetensors_header_is_checked(trace):
    """Shapes whose product overflows, offsets out of the file, a header that claims terabytes."""
    headers = [
        {"a": {"dtype": "F32", "shape": [2**32, 2**32], "data_offsets": [0, 0]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 2**40]}},
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
    ]
    files = [struct.pack("<Q", len(text)) + text + bytes(8) for text in (json.dumps(each).encode() for each in headers)]
    for content in [*files, struct.pack("<Q", 2**44) + b"{}"]:
        Path("model.safetensors").write_bytes(content)
        with pytest.raises(CheckpointError):
            read_checkpoint("model.safetensors")


def test_an_image_that_unpacks_to_gigabytes_is_rejected_by_its_header(trace):
    """Decompression bombs: 400 million pixels in a file of a few bytes."""
    size = struct.pack(">2I5B", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", size), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    )
    with pytest.raises(ImageError, match="before decoding"):
        open_image(b"\x89PNG\r\n\x1a\n" + chunks)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_labels", 10**12),
        ("decoder_hidden_size", 10**12),
        ("decoder_hidden_size", 2**16),
        ("num_channels", 10**12),
        ("num_encoder_blocks", 10**12),
        ("depths", [2, 2, 10_000, 2]),
        ("hidden_sizes", [32, 64, 160, 2**16]),
        ("hidden_sizes", [32, 64, 160, 10**12]),
    ],
)
def test_a_number_of_a_configuration_costs_no_memory(trace, name, value):
    Path("config.json").write_text(json.dumps({name: value}))
    with pytest.raises(CheckpointError, match=name):
        SegformerConfig.from_pretrained(".")


def test_a_class_name_sends_nothing_to_the_terminal(trace):
    Path("config.json").write_text(json.dumps({"id2label": {"0": "road\x1b]0;title\x07"}}))
    with pytest.raises(CheckpointError, match="control characters"):
        SegformerConfig.from_pretrained(".")
