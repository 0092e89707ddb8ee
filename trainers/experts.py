"""Hand-written rules that a policy learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hf_unmask.samplers.base import Sampler
from hf_unmask.samplers.specs import parse_samplers


@dataclass(frozen=True)
class Expert:
    """A hand-written rule and the block length it works with (None: full diffusion)."""

    sampler: Sampler
    block_length: int | None


def parse_experts(specs: Sequence[str], default: int | None) -> list[Expert]:
    """Experts of specs such as ``threshold:threshold=0.5..0.9/3@10`` (blocks of 10) or ``confidence:k=2@full``.

    Without ``@`` the block length is ``default``.
    """
    experts = []
    for spec in specs:
        text, at, block = spec.rpartition("@")
        if at and block != "full" and not (block.isdecimal() and int(block) > 0):
            raise ValueError(f"expert {spec!r}: behind @ stands a block length or `full`, got {block!r}")
        length = default if not at else None if block == "full" else int(block)
        experts += [Expert(sampler, length) for sampler in parse_samplers([text if at else spec])]
    return experts
