"""Finding the files of a model: folders, embedded models, and the Hub, spoken to over HTTP on this machine."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import socket
import sys
import threading
import time

import huggingface_hub.constants
import numpy as np
import pytest
from click.testing import CliRunner

from tests.checkpoints.hub_server import HubServer
from tf_segformer import (
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerModel,
    cli,
    hub,
)
from tf_segformer.errors import CheckpointError


@pytest.fixture
def server(monkeypatch):
    """An empty Hub on this machine, which huggingface_hub takes for the real one."""
    server = HubServer()
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.address)
    monkeypatch.setattr(
        huggingface_hub.constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        server.address + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_ETAG_TIMEOUT", 2)
    monkeypatch.setattr(hub, "_failures", {})
    yield server
    server.close()


@pytest.fixture
def published(server, tmp_path, small_config):
    """A model on that Hub."""
    model = SegformerForSemanticSegmentation(small_config)
    model.save_pretrained(tmp_path / "published")
    names = ("config.json", "model.safetensors")
    server.files["owner/name"] = {name: (tmp_path / "published" / name).read_bytes() for name in names}
    return model


def same_weights(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first.get_weights(), second.get_weights(), strict=True))


def test_a_model_is_loaded_from_the_hub_through_a_redirect(server, published, tmp_path):
    model = SegformerForSemanticSegmentation.from_pretrained("owner/name", cache_dir=tmp_path / "cache")
    assert same_weights(model, published)
    assert any(request.startswith("GET /storage/") for request in server.requests)


def test_only_the_files_that_are_needed_are_fetched(server, published, tmp_path):
    server.files["owner/name"] |= {"pytorch_model.bin": b"x" * 20_000, "tf_model.h5": b"x", "README.md": b"x"}
    SegformerForSemanticSegmentation.from_pretrained("owner/name", cache_dir=tmp_path / "cache")
    asked = {request.rpartition("/")[2] for request in server.requests if "/resolve/" in request}
    assert asked == {"config.json", "model.safetensors"}


def test_a_cached_file_is_asked_for_by_its_etag_and_not_fetched_again(server, published, tmp_path):
    for _ in range(2):
        server.requests.clear()
        SegformerForSemanticSegmentation.from_pretrained("owner/name", cache_dir=tmp_path / "cache")
    assert server.requests
    assert not [request for request in server.requests if request.startswith("GET")]
    server.files["owner/name"]["config.json"] += b" "
    server.requests.clear()
    SegformerForSemanticSegmentation.from_pretrained("owner/name", cache_dir=tmp_path / "cache")
    assert [request.rpartition("/")[2] for request in server.requests if request.startswith("GET")] == ["config.json"]


def test_a_download_that_broke_off_is_resumed(server, published, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # what its client keeps of a broken one
    server.cut_after = 12_345
    model = SegformerForSemanticSegmentation.from_pretrained("owner/name", cache_dir=tmp_path / "cache")
    assert same_weights(model, published)
    assert server.ranges == ["", "bytes=12000-"]


def test_a_cached_model_is_loaded_without_the_network(server, published, tmp_path):
    options = {"cache_dir": tmp_path / "cache"}
    SegformerForSemanticSegmentation.from_pretrained("owner/name", **options)
    server.requests.clear()
    model = SegformerForSemanticSegmentation.from_pretrained("owner/name", local_files_only=True, **options)
    assert same_weights(model, published)
    assert server.requests == []
    with pytest.raises(CheckpointError, match="not in the local cache"):
        SegformerConfig.from_pretrained("owner/other", local_files_only=True, **options)


def test_a_dead_hub_gives_what_the_cache_has_or_one_clear_error(server, published, tmp_path):
    options = {"cache_dir": tmp_path / "cache"}
    SegformerForSemanticSegmentation.from_pretrained("owner/name", **options)
    server.close()
    assert same_weights(SegformerForSemanticSegmentation.from_pretrained("owner/name", **options), published)
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=r"owner/other: the Hub is out of reach.*not in the local cache.*folder"):
        SegformerConfig.from_pretrained("owner/other", **options)
    assert time.monotonic() - start < 5


def without_answer(monkeypatch, port):
    """Makes a port of this machine the Hub."""
    address = f"http://127.0.0.1:{port}"
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems refuse what does not fit the queue")
def test_a_hub_that_takes_no_connection_is_given_up_in_time(server, tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, contextlib.ExitStack() as waiting:
        for _ in range(4):  # nobody accepts them; what comes later gets no answer at all, like behind a firewall
            each = waiting.enter_context(socket.socket())
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        without_answer(monkeypatch, full.getsockname()[1])
        assert hub._CONNECT_SECONDS < 5
        monkeypatch.setattr(hub, "_CONNECT_SECONDS", 1.5)  # a busy machine needs seconds for the rest
        start = time.monotonic()
        for _ in range(2):  # the second time from memory
            with pytest.raises(CheckpointError, match="out of reach"):
                SegformerConfig.from_pretrained("owner/name", cache_dir=tmp_path)
        assert time.monotonic() - start < 5


def test_a_name_that_is_looked_up_without_end_is_given_up_in_time(server, tmp_path, monkeypatch):
    released = threading.Event()

    def look_up(*_, **__):
        released.wait(30)
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(hub, "_CONNECT_SECONDS", 0.5)
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=r"out of reach .*does not answer"):
        SegformerConfig.from_pretrained("owner/name", cache_dir=tmp_path)
    assert time.monotonic() - start < 3
    released.set()  # the thread that asks ends with this test, not within another one


def test_a_slow_hub_is_waited_for(server, published, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "_CONNECT_SECONDS", 0.2)
    server.delay = 0.5
    assert SegformerConfig.from_pretrained("owner/name", cache_dir=tmp_path / "cache").num_labels == 5


def test_a_model_of_the_hub_knows_its_commit_and_passes_it_on(server, published, tmp_path):
    options = {"cache_dir": tmp_path / "cache"}
    commit = server.commit_of("owner/name")
    model = SegformerForSemanticSegmentation.from_pretrained("owner/name", **options)
    model.save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert (saved["_name_or_path"], saved["_commit_hash"]) == ("owner/name", commit)
    described = CliRunner().invoke(cli.cli, ["info", str(tmp_path / "saved")])
    assert "made from commit" in described.output
    assert commit in described.output


def test_a_commit_pins_the_model(server, published, tmp_path):
    options = {"cache_dir": tmp_path / "cache"}
    commit = server.commit_of("owner/name")
    first = SegformerConfig.from_pretrained("owner/name", revision=commit, **options)
    server.files["owner/name"]["config.json"] = server.files["owner/name"]["config.json"].replace(b"LABEL_4", b"four")
    assert server.commit_of("owner/name") != commit
    again = SegformerConfig.from_pretrained("owner/name", revision=commit, **options)
    newest = SegformerConfig.from_pretrained("owner/name", **options)
    assert again.id2label == first.id2label != newest.id2label
    assert (first.extra["_commit_hash"], newest.extra["_commit_hash"]) == (commit, server.commit_of("owner/name"))


def test_a_download_that_cannot_be_finished_is_one_clear_error(server, published, tmp_path, monkeypatch):
    from huggingface_hub.utils import _http

    monkeypatch.setattr(_http.time, "sleep", lambda _: None)
    server.servers[1].shutdown()
    server.servers[1].server_close()
    with pytest.raises(CheckpointError, match=r"owner/name: the Hub (did not give|is out of reach)"):
        SegformerForSemanticSegmentation.from_pretrained("owner/name", cache_dir=tmp_path / "cache")


def test_what_is_missing_on_the_hub_is_said(server, published, tmp_path):
    options = {"cache_dir": tmp_path / "cache"}
    with pytest.raises(CheckpointError, match=r"owner/none.*no such repository"):
        SegformerConfig.from_pretrained("owner/none", **options)
    with pytest.raises(CheckpointError, match="no revision 'v9'"):
        SegformerConfig.from_pretrained("owner/name", revision="v9", **options)
    server.files["owner/other"] = {"config.json": b"{}", "flax_model.msgpack": b"x"}
    with pytest.raises(
        CheckpointError, match=r"owner/other: no supported weight file.*model\.safetensors.*tf_model\.h5"
    ):
        SegformerForSemanticSegmentation.from_pretrained("owner/other", **options)
    with pytest.raises(CheckpointError, match=r"no preprocessor_config\.json"):
        hub.resolve_file("owner/name", "preprocessor_config.json", hub.HubOptions(**options))


def test_a_private_repository_needs_its_token(server, published, tmp_path):
    server.private.add("owner/name")
    options = {"cache_dir": tmp_path / "cache"}
    with pytest.raises(CheckpointError, match="token="):
        SegformerConfig.from_pretrained("owner/name", **options)
    assert SegformerConfig.from_pretrained("owner/name", token="secret", **options).num_labels == 5


def test_all_shards_are_fetched(server, published, tmp_path):
    from safetensors.numpy import load, save

    tensors = load(server.files["owner/name"].pop("model.safetensors"))
    shards = {f"model-{part}.safetensors": dict(list(tensors.items())[part::2]) for part in range(2)}
    weight_map = {name: shard for shard, content in shards.items() for name in content}
    server.files["owner/name"] |= {shard: save(content) for shard, content in shards.items()}
    server.files["owner/name"]["model.safetensors.index.json"] = json.dumps({"weight_map": weight_map}).encode()
    model = SegformerForSemanticSegmentation.from_pretrained("owner/name", cache_dir=tmp_path / "cache")
    assert same_weights(model, published)


def test_a_pushed_model_is_loaded_back(server, small_config, tmp_path):
    model = SegformerForSemanticSegmentation(small_config)
    url = model.push_to_hub(
        "me/tiny",
        token="secret",
        license="apache-2.0",
        dataset="CamVid",
        metrics={"mean_iou": 0.5},
        commit_message="First",
    )
    assert url.startswith(f"{server.address}/me/tiny/commit/")
    assert set(server.files["me/tiny"]) == {"config.json", "model.safetensors", "README.md"}
    assert [line["value"]["summary"] for line in server.commits[0] if line["key"] == "header"] == ["First"]
    card = server.files["me/tiny"]["README.md"].decode()
    for part in ("license: apache-2.0", "pipeline_tag: image-segmentation", "value: 0.5", 'from_pretrained("me/tiny")'):
        assert part in card
    loaded = SegformerForSemanticSegmentation.from_pretrained("me/tiny", cache_dir=tmp_path / "cache")
    assert same_weights(loaded, model)


@pytest.mark.parametrize(
    ("task", "tag"),
    [
        (SegformerForSemanticSegmentation, "image-segmentation"),
        (SegformerForImageClassification, "image-classification"),
        (SegformerModel, "image-feature-extraction"),
    ],
)
def test_the_card_names_the_task_as_the_hub_does(server, small_config, task, tag):
    task(small_config).push_to_hub("me/tiny", token="secret")
    assert f"\npipeline_tag: {tag}\n" in server.files["me/tiny"]["README.md"].decode()


def test_the_processor_is_pushed_beside_the_model(server, small_config):
    from tf_segformer import SegformerImageProcessor

    model = SegformerForSemanticSegmentation(small_config)
    model.push_to_hub("me/tiny", token="secret", processor=SegformerImageProcessor(size=64))
    assert "preprocessor_config.json" in server.files["me/tiny"]


def test_a_push_to_a_dead_hub_is_one_clear_error(server, small_config):
    server.close()
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=r"me/tiny: the Hub did not take the upload: .+"):
        SegformerForSemanticSegmentation(small_config).push_to_hub("me/tiny", token="secret")
    assert time.monotonic() - start < 5


def test_metrics_without_a_data_set_are_rejected(small_config):
    with pytest.raises(ValueError, match="need dataset="):
        SegformerForSemanticSegmentation(small_config).push_to_hub("me/tiny", metrics={"mean_iou": 0.5})


@pytest.mark.parametrize("name", ["none", "./none", "/none/at/all", "../x", "a/b/c", "a/..", "-a/b", ""])
def test_what_is_neither_a_folder_nor_a_hub_id_is_rejected_without_the_network(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", None)
    with pytest.raises(CheckpointError, match=r"no such file or folder|no config"):
        hub.resolve_file(name, "config.json")


def test_files_are_found_in_a_folder_in_the_order_of_preference(tmp_path):
    for name in ("pytorch_model.bin", "tf_model.h5"):
        (tmp_path / name).write_text("x")
    assert hub.resolve_weights(tmp_path).name == "tf_model.h5"
    assert hub.resolve_weights(tmp_path / "pytorch_model.bin").name == "pytorch_model.bin"
    (tmp_path / "model.safetensors").write_text("x")
    assert hub.resolve_weights(str(tmp_path)).name == "model.safetensors"
    assert hub.find_file(tmp_path / "tf_model.h5", ["config.json"]) is None


def write_checksums(folder):
    files = sorted(path for path in folder.glob("*/*") if path.is_file())
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}" for path in files
    ]
    (folder / "SHA256SUMS").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "preprocessor_config.json"])
def test_an_embedded_file_that_was_exchanged_is_rejected(tmp_path, monkeypatch, name):
    shutil.copytree(hub.EMBEDDED_FOLDER, tmp_path / "embedded")
    monkeypatch.setattr(hub, "EMBEDDED_FOLDER", tmp_path / "embedded")
    hub.resolve_file("camvid-b0", name)
    path = tmp_path / "embedded" / "camvid-b0" / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not the file that the package was released with"):
        hub.resolve_file("camvid-b0", name)


def test_the_checksums_list_every_embedded_file():
    listed = {line.split()[1] for line in (hub.EMBEDDED_FOLDER / "SHA256SUMS").read_text().splitlines()}
    files = {path.relative_to(hub.EMBEDDED_FOLDER).as_posix() for path in hub.EMBEDDED_FOLDER.glob("*/*")}
    assert listed == {name for name in files if not name.endswith("README.md")}


def test_an_embedded_model_is_found_by_its_name(tmp_path, monkeypatch, small_config):
    monkeypatch.setattr(hub, "EMBEDDED_FOLDER", tmp_path)
    model = SegformerForSemanticSegmentation(small_config)
    model.save_pretrained(tmp_path / "tiny-b0")
    write_checksums(tmp_path)
    assert hub.embedded_models() == ["tiny-b0"]
    assert same_weights(SegformerForSemanticSegmentation.from_pretrained("tiny-b0"), model)
    with pytest.raises(CheckpointError, match="tiny-b0"):
        SegformerForSemanticSegmentation.from_pretrained("tiny-b9")


def test_the_only_h5_file_of_a_folder_is_its_weights_and_several_are_named(tmp_path):
    for name in ("config.json", "save_weights.h5"):
        (tmp_path / name).write_bytes(b"{}")
    assert hub.resolve_weights(tmp_path) == tmp_path / "save_weights.h5"
    (tmp_path / "best.pth").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"pass the path of one of its files: best\.pth, save_weights\.h5"):
        hub.resolve_weights(tmp_path)
