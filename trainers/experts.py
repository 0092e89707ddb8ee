"""Samplers that a policy learns from: hand-written rules, other policies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hf_unmask.results.spec_text import policy_of, without_quotes
from hf_unmask.samplers.base import Sampler
from hf_unmask.samplers.specs import parse_samplers

_FULL = "full"


@dataclass(frozen=True)
class Expert:
    """A sampler and the block length it works with (None: full diffusion)."""

    sampler: Sampler
    block_length: int | None


def parse_experts(specs: Sequence[str], default: int | None) -> list[Expert]:
    """Experts of specs such as ``threshold:threshold=0.5..0.9/3@10`` (blocks of 10) or ``confidence:k=2@full``.

    Without ``@`` the block length is ``default``. A path that holds an ``@`` stands in quotes: ``learned:"a@b"@10``.
    """
    experts = []
    for spec in specs:
        end = without_quotes(spec).rfind("@")
        text, block = (spec, str(default or _FULL)) if end < 0 else (spec[:end], spec[end + 1 :])
        if block != _FULL and not (block.isdecimal() and int(block) > 0):
            hint = "; a path that holds an @ stands in quotes" if policy_of(text) else ""
            raise ValueError(f"expert {spec!r}: behind @ stands a block length or `full`, got {block!r}{hint}")
        length = None if block == _FULL else int(block)
        experts += [Expert(sampler, length) for sampler in parse_samplers([text])]
    return experts
