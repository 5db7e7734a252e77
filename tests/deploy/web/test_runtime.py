"""The engine of the page comes from npm's registry or a local copy, once, and only as npm published it."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tf_segformer.deploy.web import runtime
from tf_segformer.errors import SegformerError

FILES = {"ort.wasm.bundle.min.mjs": b"export {};", "ort-wasm-simd-threaded.wasm": b"\0asm"}


def sha512(content: bytes) -> str:
    return base64.b64encode(hashlib.sha512(content).digest()).decode()


@pytest.fixture
def package(monkeypatch, tmp_path):
    """A small package as npm packs one, which is the pinned version here."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, data in {**FILES, "not-loaded.js": b"x"}.items():
            entry = tarfile.TarInfo(f"package/dist/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    monkeypatch.setattr(runtime, "PACKAGE_SHA512", sha512(content.getvalue()))
    monkeypatch.setattr(runtime, "FILES_SHA512", {name: sha512(data) for name, data in FILES.items()})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return content.getvalue()


@pytest.fixture
def npm_registry(monkeypatch, package):
    """A registry that has this package alone; gives the paths that it was asked for."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            found = self.path == "/npm/onnxruntime-web/-/onnxruntime-web-1.30.0.tgz"
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(package if found else b"")

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", f"http://127.0.0.1:{server.server_port}/npm")
    yield asked
    server.shutdown()
    server.server_close()


def test_the_engine_is_downloaded_once_and_again_where_the_copy_is_damaged(npm_registry, tmp_path):
    assert runtime.load_runtime() == FILES
    assert runtime.load_runtime() == FILES
    assert len(npm_registry) == 1
    (copy,) = (tmp_path / "cache").rglob("*.wasm")
    copy.write_bytes(b"damaged")
    assert runtime.load_runtime() == FILES
    assert len(npm_registry) == 2 and copy.read_bytes() == FILES[copy.name]


@pytest.mark.parametrize("form", ["package.tgz", "unpacked", "unpacked/dist"])
def test_a_local_copy_of_any_form_needs_no_network(package, monkeypatch, tmp_path, form):
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "http://127.0.0.1:9/")
    (tmp_path / "package.tgz").write_bytes(package)
    (tmp_path / "unpacked" / "dist").mkdir(parents=True)
    for name, data in FILES.items():
        (tmp_path / "unpacked" / "dist" / name).write_bytes(data)
    assert runtime.load_runtime(tmp_path / form) == FILES
    assert not (tmp_path / "cache").exists()


def test_other_bytes_than_those_published_are_rejected(package, npm_registry, monkeypatch, tmp_path):
    (tmp_path / "package.tgz").write_bytes(package[:-1] + b"x")
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data + b"x")
    for source in (tmp_path / "package.tgz", tmp_path):
        with pytest.raises(SegformerError, match=r"not the file of onnxruntime-web 1.30.0, its SHA-512 .*npm pack"):
            runtime.load_runtime(source)
    monkeypatch.setattr(runtime, "PACKAGE_SHA512", sha512(b"what npm published"))
    with pytest.raises(SegformerError, match="SHA-512 differs"):
        runtime.load_runtime()
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("address", "reason"),
    [("http://127.0.0.1:9", "Connection refused"), ("ftp://example.org", "must begin with https://"), ("", "404")],
)
def test_a_registry_that_cannot_be_reached_is_named_with_the_way_around(npm_registry, monkeypatch, address, reason):
    if address:
        monkeypatch.setenv("NPM_CONFIG_REGISTRY", address)
    else:  # a registry without this package
        monkeypatch.setenv("NPM_CONFIG_REGISTRY", runtime.registry() + "other")
    with pytest.raises(SegformerError, match=f"onnxruntime-web-1.30.0.tgz: cannot be downloaded .*{reason}") as caught:
        runtime.load_runtime()
    assert "`npm pack onnxruntime-web@1.30.0`" in str(caught.value) and "--runtime" in str(caught.value)


def test_the_registry_is_the_one_that_npm_is_configured_for(monkeypatch, tmp_path):
    for name in ("NPM_CONFIG_REGISTRY", "npm_config_registry"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert runtime.registry() == "https://registry.npmjs.org/"
    npm = tmp_path / "npm"
    npm.write_text('#!/bin/sh\n[ "$*" = "config get registry" ] && echo https://npm.example.org/mirror\n')
    npm.chmod(0o755)
    assert runtime.registry() == "https://npm.example.org/mirror/"
    monkeypatch.setenv("npm_config_registry", "https://other.example.org/")
    assert runtime.registry() == "https://other.example.org/"
