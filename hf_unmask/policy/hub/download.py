"""Policies fetched from the Hub into its cache: config.json and model.safetensors of one commit, and cards."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import RemoteEntryNotFoundError
from huggingface_hub.file_download import DryRunFileInfo

from hf_unmask.policy.config import PolicyLoadError
from hf_unmask.policy.hub.client import hub_api
from hf_unmask.policy.hub.files import CARD, CONFIG, MAX_BYTES, WEIGHTS, check_max_bytes
from hf_unmask.policy.hub.opening import read_inside, remove_inside

_PUSHES = 3  # while a download runs, after which its result may be the last but one
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def download_policy(
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    max_bytes: int = MAX_BYTES,
) -> Path:
    """Fetch config.json and model.safetensors into the Hub's cache, as far as they are not there.

    Both come from one commit, whatever is pushed meanwhile. Their content is compared with the hash that names it in
    the cache, on every call: the client itself compares sizes only. What does not fit is fetched again, once.

    Args:
        repo_id: the repository, ``org/name``.
        revision: branch, tag or commit. None: the main branch.
        token: for private and gated repositories; see ``hub_api``.
        cache_dir: None: the Hub's own cache.
        local_files_only: make no request; the policy must be in the cache.
        max_bytes: size of both files together above which nothing is downloaded.

    Returns:
        The commit's folder in the cache. ``commit_of`` tells the commit.

    Raises:
        PolicyLoadError: too large, or damaged twice.
        OSError, ValueError: the Hub client's own, unchanged: RepositoryNotFoundError (also for private repositories),
            GatedRepoError, RevisionNotFoundError, RemoteEntryNotFoundError, LocalEntryNotFoundError (offline and not
            in the cache), HFValidationError.
    """
    check_max_bytes(max_bytes)
    api = hub_api(token)
    place: dict[str, Any] = {"repo_id": repo_id, "cache_dir": cache_dir, "local_files_only": local_files_only}
    for _ in range(_PUSHES):
        folder = _download_commit(api, revision, max_bytes, place)
        # Notes in the cache which commit the revision stands for. Only now: else an interrupted update would leave a
        # revision that cannot be loaded offline, although the older policy is still there.
        if Path(api.hf_hub_download(filename=CONFIG, revision=revision, **place)).parent == folder:
            break
    return folder


def download_card(repo_id: str, *, revision: str, max_bytes: int, token: str | bool | None = None) -> Path | None:
    """Fetch README.md into the Hub's cache, as far as it is not there.

    Args:
        repo_id: the repository, ``org/name``.
        revision: branch, tag or commit.
        max_bytes: size above which it is not downloaded.
        token: see ``hub_api``.

    Returns:
        Its path in the cache; None if there is none, or it is too large.

    Raises:
        OSError: the Hub client's own, unchanged.
    """
    place: dict[str, Any] = {"repo_id": repo_id, "filename": CARD, "revision": revision}
    try:
        size = hub_api(token).hf_hub_download(dry_run=True, **place).file_size
        return Path(hub_api(token).hf_hub_download(**place)) if size is not None and size <= max_bytes else None
    except RemoteEntryNotFoundError:
        return None


def _download_commit(api: HfApi, revision: str | None, max_bytes: int, place: dict[str, Any]) -> Path:
    """Fetch the files of the one commit that the revision stands for now."""
    config = api.hf_hub_download(filename=CONFIG, revision=revision, dry_run=True, **place)
    commit = config.commit_hash
    weights = api.hf_hub_download(filename=WEIGHTS, revision=commit, dry_run=True, **place)
    _check_size(place["repo_id"], [config, weights], max_bytes)
    _fetch(api, WEIGHTS, commit, place)
    return _fetch(api, CONFIG, commit, place).parent


def commit_of(folder: Path) -> str | None:
    """The commit whose files lie in ``folder``, None if that is no folder of the Hub's cache."""
    return folder.name if folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name) else None


def fetched_commit(policy: str, folder: Path) -> str | None:
    """The commit, if ``folder`` was fetched for the repository ``policy``; None where that names the folder itself."""
    return None if folder == Path(policy).expanduser() else commit_of(folder)


def _check_size(repo_id: str, files: list[DryRunFileInfo], max_bytes: int) -> None:
    for file in files:
        if file.file_size is None:
            raise PolicyLoadError(file.filename, f"a file of unknown size in {repo_id!r}", "a file of known size")
    total = sum(file.file_size or 0 for file in files)
    if total > max_bytes:
        largest = max(files, key=lambda file: file.file_size or 0)
        raise PolicyLoadError(
            largest.filename,
            f"{total:,} bytes to download from {repo_id!r}",
            f"at most {max_bytes:,}; allow more with max_bytes={total}",
        )


def _fetch(api: HfApi, name: str, revision: str | None, place: dict[str, Any]) -> Path:
    """A file's path in the cache, with the content that belongs there."""
    for _ in range(2):
        path = Path(api.hf_hub_download(filename=name, revision=revision, **place))
        if _intact(path, name):
            return path
        _discard(path, name)
    raise PolicyLoadError(name, f"content with another hash than its own in {place['repo_id']!r}", "intact content")


def _intact(path: Path, name: str) -> bool:
    """Whether the content has the hash after which the cache names it; true if it is named after none.

    The Hub names large files by their SHA-256, the others by git's hash; caches in front of it also by a plain SHA-1.
    Systems without symbolic links keep no names.
    """
    digest = Path(os.readlink(path)).name if path.is_symlink() else ""
    if not (_SHA256.fullmatch(digest) or _COMMIT.fullmatch(digest)):
        return True
    try:
        content = read_inside(path.parent, name)
    except PolicyLoadError:  # a link that leads out of the cache, or no file
        return False
    if content is None or len(digest) == 64:
        return content is not None and hashlib.sha256(content).hexdigest() == digest
    return digest in {hashlib.sha1(head + content).hexdigest() for head in (b"blob %d\0" % len(content), b"")}


def _discard(path: Path, name: str) -> None:
    """Remove a link from the cache, and what it names from the repository's blobs; what lies elsewhere is not ours."""
    repository = path.parents[2]
    try:
        target = Path(os.path.normpath(path.parent / os.readlink(path)))
        if target.parent == Path(os.path.normpath(repository / "blobs")):
            remove_inside(repository, Path("blobs", target.name))
        remove_inside(repository, path.relative_to(repository))
    except OSError as error:
        raise PolicyLoadError(name, f"damaged content that cannot be replaced ({error})", "intact content") from error
