"""The HDF5 reader gives what h5py wrote, bit for bit, in every form that it says it reads, and names the others."""

from __future__ import annotations

import h5py
import ml_dtypes
import numpy as np
import pytest

from tf_segformer.checkpoints.formats.hdf5.reader import read_datasets
from tf_segformer.checkpoints.formats.hdf5.source import Source
from tf_segformer.errors import CheckpointError

TYPES = [
    f"{order}{kind}" for order in "<>" for kind in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
]
LAYOUTS = {
    "in one piece": {},
    "in chunks that do not divide it": {"chunks": (4, 3)},
    "in hundreds of chunks": {"chunks": (1, 1)},
    "gzip": {"chunks": (8, 8), "compression": "gzip"},
    "shuffle": {"chunks": (5, 7), "shuffle": True},
    "gzip and shuffle": {"chunks": (13, 21), "compression": "gzip", "shuffle": True},
    "shuffle and checksum": {"chunks": (6, 4), "shuffle": True, "fletcher32": True},
    "gzip, shuffle and checksum": {"chunks": (6, 5), "compression": "gzip", "shuffle": True, "fletcher32": True},
}


def values_of(dtype: str, shape: tuple[int, ...] = (13, 21)) -> np.ndarray:
    """Numbers whose every byte matters."""
    random = np.random.default_rng(0)
    if np.dtype(dtype).kind == "f":
        return random.standard_normal(shape).astype(dtype)
    return np.frombuffer(random.bytes(np.dtype(dtype).itemsize * int(np.prod(shape))), dtype).reshape(shape)


def read(path) -> dict[str, np.ndarray]:
    return {name: tensor.read() for name, tensor in read_datasets(Source(path)).items()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_numbers_of_every_type_are_read_bit_for_bit(layout, tmp_path):
    with h5py.File(tmp_path / "file.h5", "w") as file:
        for dtype in TYPES:
            file.create_dataset(
                dtype.replace("<", "little ").replace(">", "big "), data=values_of(dtype), **LAYOUTS[layout]
            )
    found = read(tmp_path / "file.h5")
    assert len(found) == len(TYPES)
    for dtype in TYPES:
        array = found[dtype.replace("<", "little ").replace(">", "big ")]
        assert array.dtype == np.dtype(dtype).newbyteorder("=")
        np.testing.assert_array_equal(array, values_of(dtype))


def test_the_two_opaque_bytes_of_keras_are_bfloat16(tmp_path):
    values = values_of("f4").astype(ml_dtypes.bfloat16)
    with h5py.File(tmp_path / "file.h5", "w") as file:
        file["weights"] = values.view("V2")
    (array,) = read(tmp_path / "file.h5").values()
    assert array.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(array.view("u2"), values.view("u2"))


@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 3, 4, 5), (1, 1, 1, 1, 1, 1, 1, 2)])
def test_any_shape_is_kept(shape, tmp_path):
    with h5py.File(tmp_path / "file.h5", "w") as file:
        file["weights"] = values_of("f4", shape)
    (array,) = read(tmp_path / "file.h5").values()
    assert array.shape == shape
    np.testing.assert_array_equal(array, values_of("f4", shape))


@pytest.mark.parametrize("libver", ["earliest", "v108", "v110", "latest"])
@pytest.mark.parametrize("names", [1, 9, 400])
def test_groups_of_every_style_give_all_their_names(libver, names, tmp_path):
    with h5py.File(tmp_path / "file.h5", "w", libver=libver) as file:
        for number in range(names):
            file[f"layers/layer_{number}/vars/0"] = np.full(3, number, "f4")
        file["again"] = file["layers/layer_0"]  # an object with two paths is there once
    found = read(tmp_path / "file.h5")
    assert len(found) == names
    assert sorted(int(array[0]) for array in found.values()) == list(range(names))
    assert all(f"layer_{int(array[0])}/" in path or path == "again/vars/0" for path, array in found.items())


def test_a_wanted_dataset_that_is_no_number_is_named_and_others_do_not_matter(tmp_path):
    with h5py.File(tmp_path / "file.h5", "w") as file:
        file["names"], file["weights"] = "text", np.ones(3)
    with pytest.raises(ValueError, match=r"names: no numbers, but HDF5's class \d"):
        read(tmp_path / "file.h5")
    assert list(read_datasets(Source(tmp_path / "file.h5"), lambda path: path == "weights")) == ["weights"]


def test_other_compression_is_named(tmp_path):
    with h5py.File(tmp_path / "file.h5", "w") as file:
        file.create_dataset("weights", data=np.ones((4, 4)), compression="lzf")
    with pytest.raises(ValueError, match="filter 32000 of HDF5, which is not read"):
        read(tmp_path / "file.h5")


def test_chunks_that_were_never_written_are_missed(tmp_path):
    with h5py.File(tmp_path / "file.h5", "w") as file:
        file.create_dataset("weights", (4, 4), "f4", chunks=(2, 2))[:2, :2] = 1
    with pytest.raises(CheckpointError, match="3 of its chunks are missing"):
        read(tmp_path / "file.h5")


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_a_changed_byte_under_a_checksum_is_noticed(compression, tmp_path):
    path = tmp_path / "file.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("weights", data=values_of("f4"), chunks=(13, 21), fletcher32=True, compression=compression)
        place = file["weights"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[place + 100] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"checksum is wrong|cannot be read"):
        read(path)


def test_numbers_within_the_header_of_their_dataset_are_read(tmp_path):
    values = values_of("f4", (3, 5))
    compact = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    compact.set_layout(h5py.h5d.COMPACT)
    with h5py.File(tmp_path / "file.h5", "w") as file:
        space = h5py.h5s.create_simple(values.shape)
        h5py.h5d.create(file.id, b"weights", h5py.h5t.IEEE_F32LE, space, compact).write(
            h5py.h5s.ALL, h5py.h5s.ALL, values
        )
    np.testing.assert_array_equal(read(tmp_path / "file.h5")["weights"], values)


def test_links_with_a_position_and_a_name_beyond_ascii_are_found(tmp_path):
    with h5py.File(tmp_path / "file.h5", "w", libver="latest", track_order=True) as file:
        for name in ("plain", "größe", "重み"):
            file[name] = np.full(2, len(name), "f4")
    found = read(tmp_path / "file.h5")
    assert {name: array.tolist() for name, array in found.items()} == {
        "plain": [5, 5], "größe": [5, 5], "重み": [2, 2],
    }  # fmt: skip


def test_a_dataset_without_a_shape_is_rejected(tmp_path):
    with h5py.File(tmp_path / "file.h5", "w") as file:
        file["weights"] = h5py.Empty("f4")
    with pytest.raises(ValueError, match="a shape of 0 dimensions, or none"):
        read(tmp_path / "file.h5")
