"""Whatever cuts a writer off, what is on the disk is the old file or the new one."""

from __future__ import annotations

import os
import stat
import time
import zipfile
from contextlib import nullcontext

import pytest

from tf_segformer.io import atomic_update, atomic_write, committed_file, open_zip, read_json, write_json


def names(folder):
    return sorted(os.listdir(folder))


@pytest.mark.parametrize("fsync", [False, True])
def test_a_block_that_fails_leaves_the_old_file_and_no_scraps(tmp_path, fsync):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path, fsync=fsync) as partial:
        partial.write_bytes(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("fsync", [False, True])
def test_a_file_is_replaced_and_has_the_permissions_of_a_new_file(tmp_path, fsync):
    (tmp_path / "plain").write_text("")
    path = tmp_path / "new folder" / "file"
    for content in ("first", "second"):
        with atomic_write(path, fsync=fsync) as partial:
            partial.write_text(content)
        assert path.read_text() == content
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    assert names(path.parent) == ["file"]


def test_two_writers_of_one_path_do_not_mix(tmp_path):
    path = tmp_path / "file"
    with atomic_write(path) as first, atomic_write(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # its block ended last


def test_a_folder_takes_a_free_place_and_no_other(tmp_path):
    for content in ("first", "second"):
        with pytest.raises(OSError) if content == "second" else nullcontext(), atomic_write(tmp_path / "1") as partial:
            partial.mkdir()
            (partial / "file").write_text(content)
        assert (tmp_path / "1" / "file").read_text() == "first"
    assert names(tmp_path) == ["1"]


def test_scraps_of_a_killed_writer_are_removed_and_those_of_a_living_one_are_not(tmp_path):
    killed, living, other = (tmp_path / f".{name}.partial" for name in ("file.00000000", "file.11111111", "x.22222222"))
    for path in (killed, living, other):
        path.write_text("half")
    for path in (killed, other):
        os.utime(path, (0, time.time() - 7200))
    with atomic_write(tmp_path / "file", fsync=True) as partial:
        partial.write_text("whole")
    assert names(tmp_path) == [living.name, other.name, "file"]


def test_json_is_readable_and_ends_with_a_line(tmp_path):
    path = write_json(tmp_path / "x.json", {"b": "Straße", "a": [1]}, sort_keys=True)
    assert path.read_text(encoding="utf-8") == '{\n  "a": [\n    1\n  ],\n  "b": "Straße"\n}\n'


def read(folder):
    return [committed_file(folder / name).read_text() for name in ("config.json", "weights")]


@pytest.mark.parametrize("cut_before", range(5))
def test_an_update_of_two_files_is_seen_whole_or_not_at_all(tmp_path, monkeypatch, cut_before):
    """Cut before the commit (0), before each of the two moves (1, 2), or not at all."""
    folder = tmp_path / "model"
    for name in ("config.json", "weights", "kept"):
        write_json(folder / name, "old", indent=None)
    replace, calls = os.replace, []

    def interrupted(source, target):
        if len(calls) == cut_before:
            raise KeyboardInterrupt
        calls.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    try:
        with atomic_update(folder) as partial:
            (partial / "config.json").write_text("new")
            (partial / "weights").write_text("new")
    except KeyboardInterrupt:
        assert cut_before < 3
    monkeypatch.undo()
    assert read(folder) == (["new", "new"] if cut_before else ['"old"\n', '"old"\n'])
    with atomic_update(folder) as partial:  # the next one finishes what was cut off
        (partial / "weights").write_text("newer")
    assert read(folder) == ["new" if cut_before else '"old"\n', "newer"]
    assert names(folder) == ["config.json", "kept", "weights"]


def test_a_larger_file_is_rejected_before_it_is_read(tmp_path):
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(2**40)  # a terabyte of nothing, which takes no space on the disk
    with pytest.raises(ValueError, match="more than"):
        read_json(path)
    path.write_bytes(b"[1, 2]")
    assert read_json(path, max_bytes=6) == [1, 2]
    with pytest.raises(ValueError, match="more than 5 bytes"):
        read_json(path, max_bytes=5)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_rejected_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(ValueError, match="not a regular file"):
        read_json(tmp_path / "config.json")


@pytest.mark.parametrize("content", [b"[" * 100_000, b"{", b"\xff\xfe", b"9" * 10_000], ids=lambda each: repr(each[:5]))
def test_what_is_no_json_is_a_value_error(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError):
        read_json(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("field", "value"), [("header_offset", 2**63), ("flag_bits", 1), ("compress_type", 99), ("compress_type", 8)]
)
def test_whatever_is_damaged_in_a_zip_archive_ends_in_one_error(tmp_path, field, value):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("data.pkl", b"\xff" * 64)
        setattr(archive.filelist[0], field, value)  # in the directory, which is written last
    with pytest.raises(zipfile.BadZipFile), open_zip(tmp_path / "x.zip") as archive:
        archive.read("data.pkl")
