"""Finds the files of a pretrained model: in a folder, embedded in the package, or on the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import math
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tf_segformer.errors import CheckpointError, short_message
from tf_segformer.io import committed_file, is_plain_name, read_json, read_text

EMBEDDED_FOLDER = Path(__file__).parent / "embedded"

KERAS_ARCHIVE_NAME = "model.keras"
ADAPTER_NAME = "adapter_model.safetensors"  # of PEFT: what is added to the weights that its configuration names

# In the order of preference. Only the first that exists is fetched.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "tf_model.h5",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    KERAS_ARCHIVE_NAME,
    "model.weights.h5",  # of keras-hub's presets, which keep the classifier in the next one
    ADAPTER_NAME,
)

_WEIGHT_SUFFIXES = (".safetensors", ".h5", ".hdf5", ".keras", ".bin", ".pth", ".pt", ".ckpt")

# Who takes no connection for so long is out of reach; who takes one may be slow. huggingface_hub itself would try for
# 23 s and more.
_CONNECT_SECONDS = 4.5
_ANSWER_SECONDS = 60.0
_FAILURE_SECONDS = 10.0  # how long a Hub that was out of reach is not asked again, so that every file costs no wait

_KERAS_HUB_PRESET = re.compile(r"(?:.*/)?(?:segformer|mit)_(b[0-5])_(ade|cityscapes)(?:20k)?_(\d+)(?:/\d+)?")

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class HubOptions:
    """How files are fetched from the Hugging Face Hub; every `from_pretrained` takes these fields as keywords.

    Args:
        revision: Branch, tag or commit; None is the main branch.
        token: Access token; None and True take the stored one.
        cache_dir: Where downloads are kept; None is huggingface_hub's own cache.
        local_files_only: Take files from the cache only, never from the network.

    Example:
        >>> HubOptions(revision="v1.0", token="secret")
        HubOptions(revision='v1.0', cache_dir=None, local_files_only=False)
    """

    revision: str | None = None
    token: str | bool | None = field(default=None, repr=False)
    cache_dir: str | Path | None = None
    local_files_only: bool = False

    @classmethod
    def pop_from(cls, keywords: dict[str, Any]) -> HubOptions:
        """Takes the fields of this class out of the keywords of a `from_pretrained`.

        Args:
            keywords: Keywords by name; what is taken is removed from it.

        Returns:
            The options.

        Example:
            >>> keywords = {"num_labels": 3, "local_files_only": True}
            >>> HubOptions.pop_from(keywords).local_files_only, keywords
            (True, {'num_labels': 3})
        """
        names = {each.name for each in fields(cls)} & set(keywords)
        return cls(**{name: keywords.pop(name) for name in names})


DEFAULT_HUB = HubOptions()


def embedded_models() -> list[str]:
    """Names of the models that come with the package.

    Returns:
        Sorted names, each accepted by every `from_pretrained`.

    Example:
        >>> all(isinstance(name, str) for name in embedded_models())
        True
    """
    return sorted(path.parent.name for path in EMBEDDED_FOLDER.glob("*/config.json"))


def find_file(name_or_path: str | Path, file_names: Sequence[str], hub: HubOptions = DEFAULT_HUB) -> Path | None:
    """Finds the first of some files that a pretrained model has.

    Args:
        name_or_path: A folder, a file in it, the name of an embedded model, or a Hub id "owner/name".
        file_names: Names of the files, the preferred one first. Nothing else is downloaded.
        hub: How to reach the Hub, where the name is a Hub id.

    Returns:
        The path of the first file that exists, or None where the model has none of them.

    Raises:
        CheckpointError: Where there is no such folder, embedded model or repository, or the Hub is out of reach.

    Example:
        >>> find_file(EMBEDDED_FOLDER.parent, ["no_such_file.json"]) is None
        True
    """
    folder = _local_folder(name_or_path)
    if folder is not None:
        paths = [committed_file(folder / name) for name in file_names]
        found = next((path for path in paths if path.is_file()), None)
        if found is not None and folder.parent == EMBEDDED_FOLDER:
            _check_embedded(found)
        return found
    return _find_on_hub(str(name_or_path), file_names, hub)


def resolve_file(name_or_path: str | Path, file_name: str, hub: HubOptions = DEFAULT_HUB) -> Path:
    """Finds one file of a pretrained model, which must have it.

    Args:
        name_or_path: A folder, a file in it, the name of an embedded model, or a Hub id "owner/name".
        file_name: Name of the file, such as "config.json".
        hub: How to reach the Hub, where the name is a Hub id.

    Returns:
        The path of the file.

    Raises:
        CheckpointError: Where the model or the file is missing, or the Hub is out of reach.

    Example:
        >>> resolve_file(EMBEDDED_FOLDER.parent, "hub.py").name
        'hub.py'
    """
    path = find_file(name_or_path, [file_name], hub)
    if path is None:
        raise CheckpointError(f"{name_or_path}: there is no {file_name} in it")
    return path


def resolve_weights(name_or_path: str | Path, hub: HubOptions = DEFAULT_HUB) -> Path:
    """Finds the weights of a pretrained model: safetensors before h5 before bin before an archive of Keras.

    Args:
        name_or_path: A weight file, a folder, the name of an embedded model, or a Hub id "owner/name".
        hub: How to reach the Hub, where the name is a Hub id.

    Returns:
        The path of the weight file, or of the index of a sharded one, whose shards then lie next to it.

    Raises:
        CheckpointError: Where the model is missing, has no supported file, or the Hub is out of reach.

    Example:
        >>> resolve_weights(EMBEDDED_FOLDER.parent / "hub.py").name
        'hub.py'
    """
    if Path(name_or_path).is_file():
        return committed_file(name_or_path)
    path = find_file(name_or_path, WEIGHT_FILES, hub)
    if path is None:
        path = _weights_of_another_name(name_or_path)
    if path.name.endswith(".index.json") and _local_folder(name_or_path) is None:
        for shard in shard_names(path):
            resolve_file(name_or_path, shard, hub)
    return path


def _weights_of_another_name(name_or_path: str | Path) -> Path:
    """The h5 file of a folder that holds no other weights, such as Keras 2's `save_weights("x.h5")` left it.

    Raises:
        CheckpointError: For a folder with other files, which it names, or with none.
    """
    folder = _local_folder(name_or_path)
    others = [] if folder is None else sorted(each for each in folder.iterdir() if each.suffix in _WEIGHT_SUFFIXES)
    if len(others) == 1 and others[0].suffix in (".h5", ".hdf5"):
        return others[0]
    hint = f"; pass the path of one of its files: {', '.join(each.name for each in others[:8])}" if others else ""
    raise CheckpointError(f"{name_or_path}: no supported weight file in it, looked for {', '.join(WEIGHT_FILES)}{hint}")


def shard_names(index: Path) -> list[str]:
    """Names of the files that the index of a sharded checkpoint points to.

    Args:
        index: A "*.index.json" in the Hub's format.

    Returns:
        Sorted file names, each a plain name without a folder.

    Raises:
        CheckpointError: For an unreadable index, and for names that lead out of its folder.

    Example:
        >>> import json, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     index = Path(folder, "model.safetensors.index.json")
        ...     _ = index.write_text(json.dumps({"weight_map": {"classifier.bias": "a.safetensors"}}))
        ...     shard_names(index)
        ['a.safetensors']
    """
    try:
        names = set(read_json(index)["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: not the index of a sharded checkpoint: {error!r}") from error
    for name in names:
        if not is_plain_name(name):
            raise CheckpointError(f"{index}: a shard whose name is no plain file name: {str(name)[:100]!r}")
    return sorted(names)


def _local_folder(name_or_path: str | Path) -> Path | None:
    """The folder on this machine that a name stands for, if any; a file stands for its folder."""
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        return path.parent
    return EMBEDDED_FOLDER / str(name_or_path) if str(name_or_path) in embedded_models() else None


def _check_embedded(path: Path) -> None:
    """Rejects a file of an embedded model that is not the one the package was released with."""
    lines = read_text(EMBEDDED_FOLDER / "SHA256SUMS").splitlines()
    listed = {name: checksum for checksum, name in map(str.split, lines)}
    with path.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    if listed.get(path.relative_to(EMBEDDED_FOLDER).as_posix()) != checksum:
        raise CheckpointError(
            f"{path}: not the file that the package was released with, damaged or exchanged: "
            "pip install --force-reinstall tf_segformer"
        )


def _find_on_hub(hub_id: str, file_names: Sequence[str], hub: HubOptions) -> Path | None:
    """The first of some files that a Hub repository has, downloaded or from the cache."""
    hub_id = hub_id.removeprefix("hf://")  # as keras-hub writes it
    preset = _KERAS_HUB_PRESET.fullmatch(hub_id)
    if preset and ("/" not in hub_id or "://" in hub_id):
        same = f"nvidia/segformer-{preset[1]}-finetuned-{preset[2]}-{preset[3]}-{preset[3]}"
        raise CheckpointError(f"{hub_id!r}: a preset of keras-hub: its weights are {same!r} on the Hub, load that")
    if not _HUB_ID.fullmatch(hub_id) or ".." in hub_id:
        known = ", ".join(embedded_models()) or "none"
        raise CheckpointError(
            f"{hub_id!r}: no such file or folder, no embedded model (there are: {known}), no Hub id 'owner/name'"
        )
    from huggingface_hub import hf_hub_url, try_to_load_from_cache

    # Where the Hub is out of reach, all names are looked up in the cache, which asks the network for nothing.
    unreachable = (
        None if hub.local_files_only else hub_failure(hf_hub_url(hub_id, file_names[0], revision=hub.revision))
    )
    if unreachable is None and not hub.local_files_only:
        return _download(hub_id, file_names, hub)
    for name in file_names:
        path = try_to_load_from_cache(hub_id, name, cache_dir=hub.cache_dir, revision=hub.revision)
        if isinstance(path, str):
            return Path(path)
    wanted = " or ".join(file_names)
    if unreachable is None:
        raise CheckpointError(f"{hub_id}: {wanted} is not in the local cache; drop local_files_only to download it")
    raise CheckpointError(_out_of_reach(hub_id, wanted, unreachable)) from unreachable


def _out_of_reach(hub_id: str, wanted: str, reason: Exception) -> str:
    """Says that neither the Hub nor the cache has a file, and what can be done."""
    return (
        f"{hub_id}: the Hub is out of reach ({short_message(reason)}) and {wanted} is not in the local cache: "
        "check the connection, set HF_ENDPOINT to a mirror, or give a folder that holds the model's files"
    )


def _download(hub_id: str, file_names: Sequence[str], hub: HubOptions) -> Path | None:
    """The first of some files that a Hub repository has, fetched unless the cache has the newest version."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    for name in file_names:
        try:
            return Path(hf_hub_download(hub_id, name, **vars(hub)))
        except GatedRepoError as error:
            raise CheckpointError(
                f"{hub_id}: a gated repository: accept its terms on the Hub, then pass token="
            ) from error
        except RepositoryNotFoundError as error:
            raise CheckpointError(
                f"{hub_id}: no such folder here and no such repository on the Hub (a private one needs token=)"
            ) from error
        except RevisionNotFoundError as error:
            raise CheckpointError(f"{hub_id}: the repository has no revision {hub.revision!r}") from error
        except LocalEntryNotFoundError as error:  # the Hub went away after it had answered
            raise CheckpointError(_out_of_reach(hub_id, name, error)) from error
        except EntryNotFoundError:
            continue
        except hub_errors() as error:
            raise CheckpointError(f"{hub_id}: the Hub did not give {name}: {short_message(error)}") from error
    return None


_failures: dict[str, tuple[float, Exception]] = {}  # host -> when it was out of reach, and how


def hub_failure(url: str) -> Exception | None:
    """Asks the Hub for a file's properties once, to know within seconds whether it can be reached.

    The question goes through huggingface_hub's own session, so its proxies and certificates hold, without a token. It
    runs in a thread because looking up a host's name cannot be given a time limit.

    Args:
        url: Address of any file on the Hub, as huggingface_hub's `hf_hub_url` gives it.

    Returns:
        What failed; None where a server answered, whatever it answered.
    """
    from huggingface_hub import get_session

    host = urlsplit(url).netloc
    failed_at, failure = _failures.get(host, (-math.inf, None))
    if time.monotonic() - failed_at < _FAILURE_SECONDS:
        return failure
    connected, failures = threading.Event(), []

    def ask() -> None:
        limits = (_CONNECT_SECONDS, _ANSWER_SECONDS, _ANSWER_SECONDS, _CONNECT_SECONDS)
        try:
            get_session().head(url, timeout=limits, follow_redirects=False, extensions={"trace": note})
        except hub_errors() as error:
            failures.append(error)
        connected.set()

    def note(event: str, _details: Any) -> None:
        if event.endswith(".complete"):  # of a connection, or of a request over one that was open already
            connected.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    if connected.wait(_CONNECT_SECONDS):
        thread.join(_ANSWER_SECONDS)
    if thread.is_alive():
        failures.append(TimeoutError(f"{host} does not answer"))
    if failures:
        _failures[host] = (time.monotonic(), failures[0])
    return failures[0] if failures else None


def origin_of(path: str | Path) -> tuple[str, str] | None:
    """Where a file in huggingface_hub's cache comes from.

    Args:
        path: The path of a file, as `resolve_file` returns it.

    Returns:
        The Hub id and the commit, or None for a file that is not in such a cache.

    Example:
        >>> commit = "c" * 40
        >>> origin_of(f"hub/models--nvidia--mit-b0/snapshots/{commit}/config.json") == ("nvidia/mit-b0", commit)
        True
    """
    match = re.search(r"models--([^/]+)--([^/]+)/snapshots/([0-9a-f]{40})/[^/]+$", Path(path).as_posix())
    return (f"{match[1]}/{match[2]}", match[3]) if match else None


def hub_errors() -> tuple[type[Exception], ...]:
    """What huggingface_hub raises where the Hub rejects, breaks off or is out of reach.

    Returns:
        Classes for an `except` clause.

    Example:
        >>> issubclass(ConnectionError, hub_errors())
        True
    """
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # The second is the base of its HTTP library's errors, requests or httpx, of which not all are OSErrors.
    return HfHubHTTPError, HfHubHTTPError.__mro__[1], HFValidationError, OSError
