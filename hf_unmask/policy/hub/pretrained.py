"""Loading, saving and pushing, for samplers that hold a policy."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from huggingface_hub import CommitInfo

from hf_unmask.denoisers.adapter import Denoiser
from hf_unmask.policy.card.measured import read_measured
from hf_unmask.policy.card.metadata import retagged
from hf_unmask.policy.card.rendering import read_recipe, render_card
from hf_unmask.policy.card.seal import REPOSITORY
from hf_unmask.policy.compatibility import block_differences, model_differences, warn_of
from hf_unmask.policy.hub.download import commit_of
from hf_unmask.policy.hub.drop_in import DROP_IN_TAG, drop_in_tags
from hf_unmask.policy.hub.files import CARD, MAX_BYTES
from hf_unmask.policy.hub.folders import find_policy, load_policy, save_policy
from hf_unmask.policy.hub.upload import upload_policy
from hf_unmask.policy.model import UnmaskingPolicy, require_finite
from hf_unmask.results.spec_text import quoted

#: Options of the sampler that a spec may set, and their types.
DIALS: dict[str, Any] = {"policy_temperature": float, "beta": float, "speed": float, "greedy": bool}
# No token: specs are written into results.
_HUB_OPTIONS: dict[str, Any] = {"revision": str, "cache_dir": str, "local_files_only": bool, "max_bytes": int}
SPEC_OPTIONS = DIALS | _HUB_OPTIONS
#: The source of a policy that came from nowhere.
IN_MEMORY = "<in memory>"
_TRUTH = {"true": True, "false": False}


class PretrainedPolicyMixin:
    """``from_pretrained``, ``save_pretrained``, ``push_to_hub`` and ``check`` of a sampler built around ``policy``."""

    name: ClassVar[str]
    policy: UnmaskingPolicy
    source: str
    pinned: tuple[str, ...]

    @property
    def named(self) -> str:
        """The policy as specs name it, without dials: ``org/name;revision=COMMIT``."""
        return ";".join([self.source if self.source == IN_MEMORY else quoted(self.source), *self.pinned])

    @classmethod
    def from_pretrained(  # noqa: PLR0913  (the dials and the usual options of the Hub)
        cls,
        path_or_repo: str | Path,
        *,
        policy_temperature: float = 1.0,
        beta: float = 1.0,
        greedy: bool = False,
        speed: float | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        max_bytes: int = MAX_BYTES,
    ) -> Self:
        """Load a policy from a local folder, a packaged policy (``builtin:NAME``) or a Hub repository.

        Only config.json and model.safetensors are read; more than ``max_bytes`` are neither downloaded nor read. A bad
        policy is a ``PolicyLoadError``, errors of the Hub pass unchanged. ``revision`` is a branch, tag or commit; the
        spec of a policy from the Hub names the commit that was loaded.
        """
        hub = {"revision": revision, "token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
        folder = find_policy(path_or_repo, max_bytes=max_bytes, **hub)
        policy = load_policy(folder, max_bytes=max_bytes)
        commit = commit_of(folder) if folder != Path(path_or_repo).expanduser() else None
        at = commit or revision
        pinned = [f"revision={quoted(at)}"] if at else []
        pinned += [f"max_bytes={max_bytes}"] if max_bytes != MAX_BYTES else []
        make: Any = cls  # the sampler's own constructor
        options = {"source": str(path_or_repo), "pinned": tuple(pinned)}
        return make(policy, policy_temperature, beta, greedy, speed, **options)  # type: ignore[no-any-return]

    @classmethod
    def from_spec(cls, name: str, options: Mapping[str, str]) -> Self:
        """The sampler of ``learned:NAME;key=value``, with the options still text."""
        for key in options:
            if key not in SPEC_OPTIONS:
                allowed = ", ".join(sorted(SPEC_OPTIONS))
                raise ValueError(f"unknown parameter {key!r} of {cls.name}; allowed: {allowed}")
        return cls.from_pretrained(name, **{key: _typed(key, text, SPEC_OPTIONS[key]) for key, text in options.items()})

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the policy's config.json and model.safetensors. The dials are not saved: they are chosen at use."""
        save_policy(self.policy, folder)

    def push_to_hub(  # noqa: PLR0913  (the usual options of the Hub)
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        branch: str | None = None,
        create_pr: bool | None = None,
        commit_message: str = "Upload an unmasking policy",
        token: str | bool | None = None,
        results: str | Path | None = None,
        license: str | None = None,
        card: str | None = None,
        benchmark: str | None = None,
        with_custom_generate: bool = False,
    ) -> CommitInfo:
        """Push README.md, config.json and model.safetensors in one commit, and nothing else. The dials are not pushed.

        Further arguments, result and errors: `hf_unmask.policy.hub.upload.upload_policy`. A policy that could not
        be loaded again is a ``PolicyLoadError`` before anything is sent.

        Args:
            results: folder of an evaluation of this policy, for the card.
            license: identifier of the policy's licence for the card, e.g. "apache-2.0".
            card: text of README.md, used instead of a rendered one. A README.md that the repository has is replaced
                either way, as by other libraries; its history keeps it.
            benchmark: ``ORG/DATASET:TASK_ID``, only to put the accuracy in ``results`` on that leaderboard of the Hub.
            with_custom_generate: add the folder ``custom_generate/``, and the tag of that name to the card: whoever has
                this package installed then decodes with ``model.generate(input_ids=ids, custom_generate="org/name",
                trust_remote_code=True)``, without importing it. A later push without it removes both.
        """
        with tempfile.TemporaryDirectory() as work:
            folder = Path(work) / "policy"
            save_policy(self.policy, folder)
            origin = self.source
            if card is None:
                recipe, tags = read_recipe(origin), drop_in_tags(with_custom_generate)
                card = render_card(self.policy, results=results, recipe=recipe, license=license, name=origin, tags=tags)
            card = retagged(card, DROP_IN_TAG, wanted=with_custom_generate)
            (folder / CARD).write_text(card, encoding="utf-8")
            extra = [] if benchmark is None else [_write_benchmark(folder, benchmark, results, origin)]
            return upload_policy(
                folder,
                repo_id,
                private=private,
                branch=branch,
                create_pr=create_pr,
                commit_message=commit_message,
                token=token,
                extra=extra,
                with_custom_generate=with_custom_generate,
            )

    def check(self, denoiser: Denoiser, block_length: int | None, canvas: int) -> None:
        """Refuse weights that are not finite; warn, once per process, if the policy was trained for another model, mask
        token or block length."""
        require_finite(self.policy)
        config = self.policy.config
        found = model_differences(config, denoiser) + block_differences(config, block_length, canvas)
        warn_of(found, self.named)


def _write_benchmark(folder: Path, benchmark: str, results: str | Path | None, name: str) -> str:
    """Write the file and return its path in the folder."""
    if results is None:
        raise ValueError(f"`benchmark={benchmark!r}` needs `results`, the folder of the evaluation on it")
    path, text = read_measured(results, name, REPOSITORY).benchmark_file(benchmark)
    (folder / path).parent.mkdir()
    (folder / path).write_text(text, encoding="utf-8")
    return path


def _typed(key: str, text: str, kind: Any) -> Any:
    try:
        return _TRUTH[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        raise ValueError(f"`{key}` must be {kind.__name__}, got {text!r}") from None
