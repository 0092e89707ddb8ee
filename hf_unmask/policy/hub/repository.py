"""Policies on the Hub: a repository holds README.md, config.json and model.safetensors; only the last two are read.

What else it may hold is for others: ``custom_generate/`` for transformers, see ``hf_unmask.policy.hub.drop_in``, and
``.eval_results/`` for the Hub.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, ModelInfo
from huggingface_hub.errors import RemoteEntryNotFoundError
from huggingface_hub.file_download import DryRunFileInfo

from hf_unmask import __version__
from hf_unmask.policy.config import PolicyLoadError, UnmaskingPolicyConfig
from hf_unmask.policy.hub.drop_in import drop_in_deletions, drop_in_files
from hf_unmask.policy.hub.files import CONFIG, MAX_BYTES, WEIGHTS, check_max_bytes

CARD = "README.md"
#: Every policy's card carries it; searching goes by it.
TAG = "hf-unmask"

#: What a rendered card says instead of the repository and the revision, until a push fills them in.
REPOSITORY, REVISION = "<org/name>", "<revision>"

_SEAL = re.compile(r"\n<!-- rendered by hf_unmask, [^\n]*-->\n\Z")
_PUSHES = 3  # while a download runs, after which its result may be the last but one
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def hub_api(token: str | bool | None = None) -> HfApi:
    """The Hub's client, introduced by the package's name. None: the token of the environment or of the log-in."""
    return HfApi(token=token, library_name=TAG, library_version=__version__)


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
        if _intact(path):
            return path
        _discard(path, name)
    raise PolicyLoadError(name, f"content with another hash than its own in {place['repo_id']!r}", "intact content")


def _intact(path: Path) -> bool:
    """Whether the content has the hash after which the cache names it; true if it is named after none.

    The Hub names large files by their SHA-256, the others by git's hash; caches in front of it also by a plain SHA-1.
    Systems without symbolic links keep no names.
    """
    name = Path(os.readlink(path)).name if path.is_symlink() else ""
    if not (_SHA256.fullmatch(name) or _COMMIT.fullmatch(name)):
        return True
    content = path.read_bytes()
    if len(name) == 64:
        return hashlib.sha256(content).hexdigest() == name
    return name in {hashlib.sha1(head + content).hexdigest() for head in (b"blob %d\0" % len(content), b"")}


def _discard(path: Path, name: str) -> None:
    try:
        (path.parent / os.readlink(path)).unlink(missing_ok=True)
        path.unlink(missing_ok=True)
    except OSError as error:
        raise PolicyLoadError(name, f"damaged content that cannot be replaced ({error})", "intact content") from error


def upload_policy(
    folder: Path,
    repo_id: str,
    *,
    private: bool | None = None,
    branch: str | None = None,
    create_pr: bool | None = None,
    commit_message: str,
    token: str | bool | None = None,
    extra: Sequence[str] = (),
    with_custom_generate: bool = False,
) -> CommitInfo:
    """Push the three files of ``folder``, and the ``extra`` ones, as one commit; other files of the repository stay.

    The repository and the branch are made if they do not exist. Whatever fails, the branch is at its old commit or at
    the new one, never between them. If the card has a placeholder for the revision, the commit is tagged with a name
    that is made of the content of the other files, and this is what the card says: a commit cannot hold its own id. A
    pull request is not tagged, its card names the branch. A push that fails at the tag has been committed; the same
    push again makes the tag.

    Args:
        folder: holds README.md, config.json and model.safetensors.
        repo_id: ``org/name``, or ``name`` for one of the user's own.
        private: whether a new repository is private. None: as the organisation sets it.
        branch: None: the main branch.
        create_pr: open a pull request instead of changing the branch.
        commit_message: its first line names the commit, and the pull request.
        token: see ``hub_api``.
        extra: paths of further files in ``folder``.
        with_custom_generate: also push the code that lets ``model.generate(input_ids=ids, custom_generate=repo_id,
            trust_remote_code=True)`` decode with the policy. False: remove it where an earlier push left it.

    Returns:
        The commit: a text, its URL, with ``oid`` and ``pr_url`` among its attributes.

    Raises:
        ValueError: the repository is public although ``private`` is asked for, or holds a model that is no policy.
        OSError, RuntimeError: the Hub client's own, unchanged.
    """
    api = hub_api(token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    present = _check_target(api, repo_id, private)
    if branch is not None:
        api.create_branch(repo_id, branch=branch, exist_ok=True)
        present = repository_files(repo_id, revision=branch, token=token)
    # Not `upload_folder`: it may spread an upload over several commits.
    contents = {name: (folder / name).read_bytes() for name in (CONFIG, WEIGHTS, *extra)}
    contents |= drop_in_files(repo_id) if with_custom_generate else {}
    card = (folder / CARD).read_text("utf-8")
    tag = None if create_pr or REVISION not in card else f"policy-{_digest(b''.join(contents.values()))}"
    contents[CARD] = _filled(card, repo_id, tag or branch or "main").encode()
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=one) for name, one in contents.items()
    ]
    operations += drop_in_deletions(kept=contents, present=present)
    done = api.create_commit(repo_id, operations, commit_message=commit_message, revision=branch, create_pr=create_pr)
    if tag is not None:
        api.create_tag(repo_id, tag=tag, revision=done.oid, exist_ok=True)
    return done


def repository_files(repo_id: str, *, revision: str | None = None, token: str | bool | None = None) -> list[str]:
    """Paths of the files that a repository holds.

    Args:
        repo_id: ``org/name``.
        revision: branch, tag or commit. None: the main branch.
        token: see ``hub_api``.

    Returns:
        Every path, as somebody chose it: it may hold any character.

    Raises:
        OSError: the Hub client's own, unchanged.
    """
    return _paths(hub_api(token).model_info(repo_id, revision=revision))


def _paths(found: ModelInfo) -> list[str]:
    return [file.rfilename for file in found.siblings or []]


def _check_target(api: HfApi, repo_id: str, private: bool | None) -> list[str]:
    """The Hub ignores ``private`` for a repository that exists, and would let a mistyped name replace another model.

    Returns the files of the main branch.
    """
    found = api.model_info(repo_id)
    if private and not found.private:
        raise ValueError(f"{repo_id!r} exists and is public: nothing was pushed. Make it private on the Hub first")
    kind = (found.config or {}).get("model_type", UnmaskingPolicyConfig.model_type)
    if kind != UnmaskingPolicyConfig.model_type:
        raise ValueError(f"{repo_id!r} holds a {kind!r} model, which a policy would replace: nothing was pushed")
    return _paths(found)


def seal(card: str) -> str:
    """The card with a last line by which `is_rendered` knows that nobody has edited it."""
    body = _SEAL.sub("", card).rstrip() + "\n"
    return f"{body}\n<!-- rendered by hf_unmask, unedited as long as this fits: {_digest(body.encode())} -->\n"


def is_rendered(card: str) -> bool:
    """Whether a card is as it was rendered."""
    return seal(card) == card


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _filled(card: str, repo_id: str, revision: str) -> str:
    """The card with its placeholders filled in."""
    filled = card.replace(REPOSITORY, repo_id).replace(REVISION, revision)
    return seal(filled) if is_rendered(card) else filled


def is_repository(name: str) -> bool:
    """Whether ``name`` has the form ``org/name``."""
    return _REPOSITORY.fullmatch(name) is not None
