"""A small server that speaks the Hub's protocol on this machine: what huggingface_hub asks for, nothing of ours."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class HubServer:
    """Repositories in memory, served on 127.0.0.1.

    Files with large content are answered by a redirect to another address, as the Hub does with its storage.

    Attributes:
        files: Repository -> file name -> content.
        requests: What was asked for, as "METHOD path", in order.
        delay: Seconds before every answer.
        cut_after: A download from the storage breaks off after so many bytes, once.
        commits: The uploaded commits: lists of the JSON lines that were sent.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.requests: list[str] = []
        self.ranges: list[str] = []
        self.commits: list[list[dict]] = []
        self.uploads: dict[str, bytes] = {}
        self.cut_after: int | None = None
        self.delay = 0.0
        handler = type("Handler", (_Handler,), {"hub": self})
        self.servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
        names = ("127.0.0.1", "localhost")  # the storage is another host: some clients follow redirects within a host
        self.address, self.storage = (
            f"http://{name}:{each.server_address[1]}" for name, each in zip(names, self.servers, strict=True)
        )
        for each in self.servers:
            threading.Thread(target=each.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stops answering."""
        for each in self.servers:
            each.shutdown()
            each.server_close()

    def commit_of(self, repository: str) -> str:
        """The checksum of all that a repository holds, in the place of git's."""
        everything = repr(sorted(self.files[repository].items())).encode()
        return hashlib.sha1(everything).hexdigest()

    def content(self, key: str) -> bytes | None:
        """The stored content with a checksum."""
        everything = [content for files in self.files.values() for content in files.values()]
        return next((content for content in everything if hashlib.sha256(content).hexdigest() == key), None)


class _Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    hub: HubServer
    protocol_version = "HTTP/1.0"  # one connection a request, so that a closed server is really gone

    def do_HEAD(self) -> None:
        self.answer_file()

    def do_GET(self) -> None:
        if self.path.startswith("/storage/"):
            self.answer_storage(self.path.removeprefix("/storage/"))
        elif self.path.startswith("/api/"):
            self.answer_json({})
        else:
            self.answer_file()

    def do_POST(self) -> None:
        self.note()
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
            self.hub.files.setdefault(name, {})
            self.answer_json({"url": f"{self.hub.address}/{name}"})
        elif "/preupload/" in self.path:
            files = [
                {"path": each["path"], "uploadMode": "lfs" if each["path"].endswith(".safetensors") else "regular"}
                for each in json.loads(body)["files"]
            ]
            self.answer_json({"files": [{**each, "shouldIgnore": False} for each in files]})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**each, "actions": {"upload": {"href": f"{self.hub.storage}/upload/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            self.answer_json({"transfer": "basic", "objects": objects})
        elif "/commit/" in self.path:
            self.commit([json.loads(line) for line in body.splitlines()])
        else:
            self.answer_json({}, 200)

    def do_PUT(self) -> None:
        self.note()
        self.hub.uploads[self.path.removeprefix("/upload/")] = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer_json({})

    def commit(self, lines: list[dict]) -> None:
        """Takes the files of a commit into the repository."""
        self.hub.commits.append(lines)
        repository = re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/.*", self.path)[1]
        for line in lines:
            if line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                self.hub.files[repository][line["value"]["path"]] = content
            elif line["key"] == "lfsFile":
                self.hub.files[repository][line["value"]["path"]] = self.hub.uploads[line["value"]["oid"]]
        commit = self.hub.commit_of(repository)
        url = f"{self.hub.address}/{repository}/commit/{commit}"
        self.answer_json({"commitUrl": url, "commitOid": commit, "success": True})

    def answer_file(self) -> None:
        """A file of a repository: its properties, and a redirect to the storage where it is large."""
        self.note()
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.*)", self.path)
        repository, revision, name = match.groups() if match else ("", "", "")
        hidden = repository in self.hub.private and self.headers.get("Authorization") != "Bearer secret"
        if repository not in self.hub.files or hidden:
            self.answer_error("RepoNotFound")
        elif revision not in ("main", self.hub.commit_of(repository)):
            self.answer_error("RevisionNotFound")
        elif name not in self.hub.files[repository]:
            self.answer_error("EntryNotFound")
        else:
            content = self.hub.files[repository][name]
            checksum = hashlib.sha256(content).hexdigest()
            headers = {
                "X-Repo-Commit": self.hub.commit_of(repository),
                "ETag": f'"{checksum}"',
                "Accept-Ranges": "bytes",
            }
            if len(content) < 10_000:
                self.answer(200, content, headers)
            else:
                headers |= {"X-Linked-Etag": f'"{checksum}"', "X-Linked-Size": str(len(content))}
                self.answer(302, b"", headers | {"Location": f"{self.hub.storage}/storage/{checksum}"})

    def answer_storage(self, checksum: str) -> None:
        """The bytes of a large file, from where the client asks, broken off where the test wants it."""
        self.note()
        content = self.hub.content(checksum) or b""
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(asked[1]) if asked else 0
        self.hub.ranges.append(self.headers.get("Range") or "")
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        cut, self.hub.cut_after = self.hub.cut_after, None
        self.wfile.write(content[start:] if cut is None else content[start : start + cut])

    def answer_error(self, code: str) -> None:
        self.answer(404, json.dumps({"error": code}).encode(), {"X-Error-Code": code, "X-Error-Message": code})

    def answer_json(self, value: object, status: int = 200) -> None:
        self.answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def note(self) -> None:
        time.sleep(self.hub.delay)
        self.hub.requests.append(f"{self.command} {self.path}")

    def log_message(self, *_: object) -> None:
        """Says nothing on stderr."""
