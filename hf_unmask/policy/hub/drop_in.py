"""The folder ``custom_generate/`` of a policy's repository, which transformers' ``generate`` runs by the name of it.

transformers tells that code neither the repository nor a path, so the name is written into it when it is pushed. All
work is left to ``hf_unmask.hub_generate``: a repository keeps its code for years, the package is kept up to date.
"""

from __future__ import annotations

from collections.abc import Collection

from huggingface_hub import CommitOperationDelete

#: In the metadata of the card; the Hub lists repositories with such code by it.
DROP_IN_TAG = "custom_generate"
GENERATE, REQUIREMENTS = "custom_generate/generate.py", "custom_generate/requirements.txt"

# The release since which hf_unmask.hub_generate exists. Not the version that pushes: transformers reads digits and dots
# only, so it would refuse the very installation whose version ends in "rc1" or "dev0".
_REQUIRES = "hf_unmask>=0.1.0\n"

_SOURCE = '''\
"""Decodes with the unmasking policy of this repository. Written by hf_unmask when it pushed the policy.

model.generate(input_ids=ids, custom_generate=POLICY, trust_remote_code=True, max_new_tokens=64)

with the name below for POLICY. `revision=` chooses the policy of another branch, tag or commit. A copy of this
repository under another name still decodes with the policy of the name below: push the policy there instead.
"""

from hf_unmask.hub_generate import generate_with

POLICY = {repo!r}


def generate(model, **options):
    """Options: those of `hf_unmask.generate`, and of `hf_unmask.LearnedUnmaskingSampler.from_pretrained`."""
    return generate_with(POLICY, model, **options)
'''


def drop_in_tags(wanted: bool) -> list[str]:
    """Tags of a card whose repository is pushed with, or without, such code."""
    return [DROP_IN_TAG] if wanted else []


def drop_in_files(repo_id: str) -> dict[str, bytes]:
    """Content by path in the repository.

    Args:
        repo_id: ``org/name`` under which everybody will find the policy.

    Returns:
        generate.py and requirements.txt of ``custom_generate/``.
    """
    return {GENERATE: _SOURCE.format(repo=repo_id).encode(), REQUIREMENTS: _REQUIRES.encode()}


def drop_in_deletions(*, kept: Collection[str], present: Collection[str]) -> list[CommitOperationDelete]:
    """What a push removes: a repository runs code on other machines only as long as the last push asked for it.

    Args:
        kept: paths of the files that the push brings.
        present: paths of the files that the branch holds.

    Returns:
        Operations for the commit of the push. Other files in ``custom_generate/`` are left alone.
    """
    stale = [path for path in (GENERATE, REQUIREMENTS) if path in present and path not in kept]
    return [CommitOperationDelete(path_in_repo=path, is_folder=False) for path in stale]
