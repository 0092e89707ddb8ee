"""Loading and saving, for samplers that hold a policy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from hf_unmask.policy.loading import find_policy, load_policy, save_policy
from hf_unmask.policy.model import UnmaskingPolicy

#: Options of the sampler that a spec may set, and their types.
DIALS: dict[str, Any] = {"policy_temperature": float, "beta": float, "speed": float, "greedy": bool}
# No token: specs are written into results.
_HUB_OPTIONS: dict[str, Any] = {"revision": str, "cache_dir": str, "local_files_only": bool}
_TRUTH = {"true": True, "false": False}


class PretrainedPolicyMixin:
    """``from_pretrained``, ``from_spec`` and ``save_pretrained`` of a sampler built around ``policy``."""

    name: ClassVar[str]
    policy: UnmaskingPolicy

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
    ) -> Self:
        """Load a policy from a local folder, a packaged policy (``builtin:NAME``) or a Hub repository.

        Only config.json and model.safetensors are read; a bad policy is a ``PolicyLoadError``, errors of the Hub pass
        unchanged. ``revision`` (a branch, tag or commit) is kept in the spec.
        """
        hub = {"revision": revision, "token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
        policy = load_policy(find_policy(path_or_repo, **hub))
        source = f"{path_or_repo};revision={revision}" if revision else str(path_or_repo)
        make: Any = cls  # the sampler's own constructor
        return make(policy, policy_temperature, beta, greedy, speed, source=source)  # type: ignore[no-any-return]

    @classmethod
    def from_spec(cls, name: str, options: Mapping[str, str]) -> Self:
        """The sampler of ``learned:NAME;key=value``, with the options still text."""
        known = DIALS | _HUB_OPTIONS
        for key in options:
            if key not in known:
                raise ValueError(f"unknown parameter {key!r} of {cls.name}; allowed: {', '.join(sorted(known))}")
        return cls.from_pretrained(name, **{key: _typed(key, text, known[key]) for key, text in options.items()})

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the policy's config.json and model.safetensors. The dials are not saved: they are chosen at use."""
        save_policy(self.policy, folder)


def _typed(key: str, text: str, kind: Any) -> Any:
    try:
        return _TRUTH[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        raise ValueError(f"`{key}` must be {kind.__name__}, got {text!r}") from None
