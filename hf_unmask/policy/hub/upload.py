"""A push: README.md, config.json and model.safetensors, read from a folder and sent as one commit.

What else a repository may hold is for others: ``custom_generate/`` for transformers, see ``drop_in``, and
``.eval_results/`` for the Hub.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi

from hf_unmask.policy.card.seal import REVISION, filled
from hf_unmask.policy.config import UnmaskingPolicyConfig
from hf_unmask.policy.hub.client import hub_api, paths_of, repository_files
from hf_unmask.policy.hub.drop_in import drop_in_deletions, drop_in_files
from hf_unmask.policy.hub.files import CARD, CONFIG, WEIGHTS
from hf_unmask.policy.hub.opening import read_inside


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
        ValueError: the repository is public although ``private`` is asked for, or holds a model that is no policy; a
            file is a link that leaves the folder, or no regular file.
        OSError, RuntimeError: the Hub client's own, unchanged.
    """
    contents = {name: _read(folder, name) for name in (CONFIG, WEIGHTS, *extra)}
    card = _read(folder, CARD).decode()
    api = hub_api(token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    present = _check_target(api, repo_id, private)
    if branch is not None:
        api.create_branch(repo_id, branch=branch, exist_ok=True)
        present = repository_files(repo_id, revision=branch, token=token)
    contents |= drop_in_files(repo_id) if with_custom_generate else {}
    digest = hashlib.sha256(b"".join(contents.values())).hexdigest()
    tag = None if create_pr or REVISION not in card else f"policy-{digest[:12]}"
    contents[CARD] = filled(card, repo_id, tag or branch or "main").encode()
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=one) for name, one in contents.items()
    ]
    operations += drop_in_deletions(kept=contents, present=present)
    # Not `upload_folder`: it may spread an upload over several commits.
    done = api.create_commit(repo_id, operations, commit_message=commit_message, revision=branch, create_pr=create_pr)
    if tag is not None:
        api.create_tag(repo_id, tag=tag, revision=done.oid, exist_ok=True)
    return done


def _read(folder: Path, name: str) -> bytes:
    """What is pushed lies in the folder: a link that leaves it would publish another file."""
    content = read_inside(folder, name)
    if content is None:
        raise FileNotFoundError(f"no {name} in {str(folder)!r}: nothing was pushed")
    return content


def _check_target(api: HfApi, repo_id: str, private: bool | None) -> list[str]:
    """The Hub ignores ``private`` for a repository that exists, and would let a mistyped name replace another model.

    Returns the files of the main branch.
    """
    found = api.model_info(repo_id, expand=["config", "private", "siblings"])
    if private and not found.private:
        raise ValueError(f"{repo_id!r} exists and is public: nothing was pushed. Make it private on the Hub first")
    kind = (found.config or {}).get("model_type", UnmaskingPolicyConfig.model_type)
    if kind != UnmaskingPolicyConfig.model_type:
        raise ValueError(f"{repo_id!r} holds a {kind!r} model, which a policy would replace: nothing was pushed")
    return paths_of(found)
