"""The Hub's client, the names of repositories and the files that they hold."""

from __future__ import annotations

import re

from huggingface_hub import HfApi, ModelInfo

from hf_unmask import __version__

#: Every policy's card carries it; searching goes by it.
TAG = "hf-unmask"

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def hub_api(token: str | bool | None = None) -> HfApi:
    """The Hub's client, introduced by the package's name. None: the token of the environment or of the log-in."""
    return HfApi(token=token, library_name=TAG, library_version=__version__)


def is_repository(name: str) -> bool:
    """Whether ``name`` has the form ``org/name``."""
    return _REPOSITORY.fullmatch(name) is not None


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
    # not what its card says: a stranger's metadata can break the client that parses them
    return paths_of(hub_api(token).model_info(repo_id, revision=revision, expand=["siblings"]))


def paths_of(found: ModelInfo) -> list[str]:
    """Paths of its files, as somebody chose them."""
    return [file.rfilename for file in found.siblings or []]
