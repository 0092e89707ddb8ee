"""Whether a model does what its adapter takes for granted, proved or disproved by its own weights.

A published checkpoint may differ from the row of its family: another mask id, code that ignores padding, a stop token
that is an ordinary word. Each proof is a few forward passes over one short text; what fails comes with the cure.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from hf_unmask.denoisers.adapter import Denoiser
from hf_unmask.denoisers.conventions import UnknownFamily, embeddings, home
from hf_unmask.denoisers.families import Attention
from hf_unmask.doors.check_proofs import MARGIN, PROOFS, Case, Finding, mask_candidates, padding, proved, shims

#: What is masked and predicted unless the user gives a text that the model could have written.
TEXT = (
    "The sun rises in the east and sets in the west. There are seven days in a week and twelve months in a year. "
    "Water freezes at zero degrees and boils at one hundred degrees."
)
_LONGEST = 48  # tokens of the text that are used
_PATTERNS = 4  # ways of masking it
_SHARE = 5  # one token of so many is masked


@dataclass(frozen=True)
class CheckReport:
    """What `check` found about a model."""

    model: str  # its class
    findings: tuple[Finding, ...]
    suggestion: str | None  # the call of `attach` for a model of no known family
    passes: int  # of the model
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return all(finding.verdict != "fail" for finding in self.findings)


@torch.no_grad()
def check(
    model: nn.Module | Denoiser, tokenizer: Any = None, *, text: str | None = None, prompt: str | None = None
) -> CheckReport:
    """Prove or disprove what is taken for granted about a model, from its weights.

    Some thirty forward passes over at most 48 tokens in four rows.

    Args:
        model: a denoiser, attached or not. One of no known family gets a suggestion of how to attach it.
        tokenizer: of the model. Without it only what needs no text is looked at.
        text: something the model could have written; None: three English sentences.
        prompt: what stands before it and is never masked, for models that only learned to answer.

    Returns:
        Findings in order, each with what was measured and, where it failed, the cure.

    Raises:
        ValueError: a text too short to mask, or a model that cannot be used at all.
    """
    inner = model.model if isinstance(model, Denoiser) else model
    began = time.perf_counter()
    with _counted(inner) as passes:
        tokens, hidden = _pattern(tokenizer, text, prompt, inner)
        found: list[Finding] = [shims(inner)]
        denoiser, suggestion, finding = _adapter(model, tokenizer, tokens, hidden)
        found += [finding] if finding else []
        if denoiser is not None:
            case = Case(denoiser, tokenizer, tokens, hidden)
            found += [proved(name, case) for name in PROOFS]
    seconds = time.perf_counter() - began
    return CheckReport(type(inner).__name__, tuple(found), suggestion, len(passes), seconds)


@contextmanager
def _counted(model: nn.Module) -> Iterator[list[None]]:
    passes: list[None] = []
    hook = model.register_forward_pre_hook(lambda *_: passes.append(None))
    try:
        yield passes
    finally:
        hook.remove()


def _pattern(tokenizer: Any, text: str | None, prompt: str | None, model: nn.Module) -> tuple[Tensor, Tensor]:
    """Tokens [S] long of prompt and text, and what is masked of the text, [N, S] bool."""
    device = home(embeddings(model) or model)
    start: list[int] = []
    if tokenizer is None:
        ids = list(range(3, 3 + _LONGEST // 2))
    else:
        start = [] if prompt is None else tokenizer(prompt, add_special_tokens=False)["input_ids"]
        ids = tokenizer(TEXT if text is None else text, add_special_tokens=False)["input_ids"][:_LONGEST]
    if len(ids) < 2 * _SHARE:
        raise ValueError(f"`text` has {len(ids)} tokens, at least {2 * _SHARE} are needed: give a longer one")
    generator = torch.Generator().manual_seed(0)
    order = torch.rand(_PATTERNS, len(ids) - 1, generator=generator).argsort(dim=1)[:, : len(ids) // _SHARE]
    hidden = torch.zeros(_PATTERNS, len(start) + len(ids), dtype=torch.bool)
    hidden = hidden.scatter(1, order + len(start) + 1, True)  # never the first token
    return torch.tensor(start + ids, device=device), hidden.to(device)


# What a model of no known family is


def _adapter(
    model: nn.Module | Denoiser, tokenizer: Any, tokens: Tensor, hidden: Tensor
) -> tuple[Denoiser | None, str | None, Finding | None]:
    try:
        return Denoiser.resolve(model, tokenizer=tokenizer), None, None
    except UnknownFamily as error:
        if isinstance(model, Denoiser) or tokenizer is None:
            raise
        problem = str(error).partition(":")[0]
    tried: list[tuple[float, Denoiser]] = []
    attentions: tuple[Attention, ...] = ("2d", "4d")
    for attention, shift, mask in product(attentions, (0, 1), mask_candidates(tokenizer, None)):
        try:
            one = Denoiser.from_model(model, tokenizer=tokenizer, mask_token_id=mask, shift=shift, attention=attention)  # type: ignore[arg-type]
            case = Case(one, tokenizer, tokens, hidden)
            tried += [(case.loss(one), one)] if padding(case).verdict != "fail" else []
        except Exception:  # noqa: BLE001, S112 - whatever a foreign forward raises at a mask that it does not take
            continue
    tried.sort(key=lambda pair: pair[0])
    best = tried[0][1] if tried else None
    worse = [loss for loss, one in tried if best and (one.shift, one.mask_token_id) != (best.shift, best.mask_token_id)]
    told = best is not None and tried[0][0] < math.log(best.vocab_size) / 2
    if best is None or not told or (worse and worse[0] - tried[0][0] < MARGIN):
        losses = ", ".join(f"{loss:.2f}" for loss, _ in tried[:3]) or "none that runs"
        cure = "give --text that it could have written, or its conventions: attach(model, shift=..., attention=...)"
        return None, None, Finding("family", "fail", f"{problem}; readings by nats per token: {losses}", cure)
    chosen = {"mask_token_id": best.mask_token_id, "shift": best.shift, "attention": best.attention}
    call = f"attach(model, tokenizer=tokenizer, {', '.join(f'{name}={value!r}' for name, value in chosen.items())})"
    value = (
        f"{problem}; the best reading costs {tried[0][0]:.2f} nats per token, the next {worse[0] if worse else 0:.2f}"
    )
    return best, call, Finding("family", "not supported", value, call)
