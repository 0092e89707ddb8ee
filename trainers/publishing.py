"""What leaves a training: the files of a checkpoint, and the repository that a finished policy is pushed to."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import CommitInfo

from hf_unmask.policy.card.rendering import SETTINGS, folder_card
from hf_unmask.policy.hub.drop_in import drop_in_tags
from hf_unmask.policy.hub.folders import save_policy, saving
from hf_unmask.policy.model import UnmaskingPolicy
from hf_unmask.samplers.learned import LearnedUnmaskingSampler

from .checkpoints import write_json
from .config import UnmaskingGRPOConfig


def save(policy: UnmaskingPolicy, args: UnmaskingGRPOConfig, folder: Path) -> None:
    """The policy's two files and the settings as text: no tokenizer, no pickle, no token."""
    settings = {name: value for name, value in args.to_dict().items() if not name.endswith("_token")}
    with saving(folder):
        save_policy(policy, folder)
        write_json(folder / SETTINGS, settings)


def push(  # noqa: PLR0913  (the usual options of the Hub)
    policy: UnmaskingPolicy,
    args: UnmaskingGRPOConfig,
    commit_message: str | None = None,
    *,
    repo_id: str | None = None,
    results: str | Path | None = None,
    license: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool | None = None,
    token: str | None = None,
    with_custom_generate: bool = False,
) -> CommitInfo:
    """Push a trained policy: README.md, config.json and model.safetensors, in one commit.

    Checkpoints, settings, optimizer, logs and tokens stay on this machine. The card is that of the output folder if it
    has a README.md, else rendered; see `hf_unmask.policy.card.rendering.folder_card`.

    Args:
        policy: what was trained, as saved in ``args.output_dir``.
        args: ``hub_model_id``, ``hub_private_repo``, ``hub_revision`` and ``hub_token`` stand for what is not given.
        commit_message: its first line names the commit.
        repo_id: ``org/name``, or ``name`` for one of the user's own. Without ``hub_model_id`` either, the name of the
            output folder.
        results: folder of an evaluation of this policy, for the card.
        license: identifier of the policy's licence for the card, e.g. "apache-2.0".
        private: whether a new repository is private.
        revision: branch to push to.
        create_pr: open a pull request instead of changing the branch.
        token: see `hf_unmask.policy.hub.client.hub_api`.
        with_custom_generate: also push code for transformers; see `LearnedUnmaskingSampler.push_to_hub`.

    Returns:
        The commit.

    Raises:
        ValueError, OSError: see `upload_policy` in `hf_unmask.policy.hub` and `render_card` in `hf_unmask.policy.card`.
    """
    folder = Path(args.output_dir)
    return LearnedUnmaskingSampler(policy, source=str(folder)).push_to_hub(
        repo_id or args.hub_model_id or folder.resolve().name,
        private=args.hub_private_repo if private is None else private,
        branch=revision or args.hub_revision,
        create_pr=create_pr,
        commit_message=commit_message or "Upload a trained unmasking policy",
        token=token or args.hub_token,
        card=folder_card(policy, folder, results=results, license=license, tags=drop_in_tags(with_custom_generate)),
        with_custom_generate=with_custom_generate,
    )
