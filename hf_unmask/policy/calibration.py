"""Finding the dial of a learned policy that spends a wanted number of forward passes.

Few users think in opening probabilities; many have a budget. The mean number of forward passes falls as ``speed`` or
``beta`` rises, so bisection finds the setting. Every try answers the same prompts with the same random numbers, so that
two tries differ by the dial alone.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NoReturn, Self

import torch
from torch import Tensor, nn

from hf_unmask.denoisers.adapter import Denoiser
from hf_unmask.generation.loop import generate
from hf_unmask.generation.output import UnmaskOutput
from hf_unmask.policy.model import UnmaskingPolicy

Dial = Literal["speed", "beta"]
_PROMISED = 0.1  # relative distance from the target that is not worth a warning
_STRIDE = 4.0  # factor between two values of beta while the target is not bracketed yet
_FLAT = 3  # so many strides without any effect are the end of the range


class CalibrationMixin:
    """``calibrate`` of a sampler built around ``policy``."""

    policy: UnmaskingPolicy
    beta: float

    def calibrate(
        self,
        model: nn.Module | Denoiser,
        prompts: Any,
        *,
        target_nfe: float,
        dial: Dial | None = None,
        tolerance: float = 0.03,
        max_tries: int = 16,
        batch_size: int = 64,
        seed: int = 0,
        tokenizer: Any = None,
        **options: Any,
    ) -> Self:
        """This sampler with its dial set so that it needs ``target_nfe`` forward passes in the mean.

        Args:
            model: the denoiser, as ``hf_unmask.generate`` takes it.
            prompts: prompts like those to come: ``{"input_ids": [B, P], "attention_mask": [B, P]}`` (what a tokenizer
                returns), ids alone, or a list of texts together with ``tokenizer``.
            target_nfe: mean number of forward passes of a row.
            dial: "speed" or "beta". None: speed if the policy is speed-conditioned, else beta.
            tolerance: relative distance from the target at which the search ends.
            max_tries: passes over the prompts at most, the ones that bracket the target included.
            batch_size: rows generated together.
            seed: of the random numbers, the same in every try.
            tokenizer: for prompts that are texts.
            **options: of ``generate``, as they will be used: ``max_new_tokens``, ``block_length`` and so on.

        Returns:
            A new sampler; the other dials stay as they are.

        Raises:
            ValueError: a target that the dial does not reach (the message says the range), or arguments that cannot be
                used.

        Warns:
            UserWarning: nothing within 10 % of the target was found: NFE is a whole number per row, so few prompts and
                short answers leave gaps. The nearest setting is returned.
        """
        if not 0 < target_nfe < math.inf or not 0 < tolerance < 1 or max_tries < 2:
            raise ValueError(
                f"`target_nfe` must be above 0, `tolerance` in (0, 1), `max_tries` at least 2, "
                f"got {target_nfe}, {tolerance}, {max_tries}"
            )
        chosen = self._dial(dial)
        batches = _batches(prompts, tokenizer, batch_size, options)
        fixed = {"seed": seed, "tokenizer": tokenizer, "return_dict_in_generate": True}

        def measure(value: float) -> float:
            sampler: Any = replace(self, **{chosen: value})  # type: ignore[type-var]  # a dataclass below
            counts = [_nfe(generate(model, **batch, sampler=sampler, **fixed)) for batch in batches]
            return float(torch.cat(counts).cpu().double().mean())

        search = _Search(measure, target_nfe, tolerance, max_tries)
        low, high = search.ends(0.0, 1.0) if chosen == "speed" else search.bracket(self.beta)
        value, found = search.bisect(low, high, geometric=chosen == "beta")
        if abs(found - target_nfe) > _PROMISED * target_nfe:
            warnings.warn(
                f"`{chosen}={value:g}` comes nearest to {target_nfe:g} forward passes, with {found:.2f}", stacklevel=2
            )
        return replace(self, **{chosen: value})  # type: ignore[type-var]

    def _dial(self, dial: Dial | None) -> Dial:
        conditioned = self.policy.config.speed_conditioned
        if dial not in (None, "speed", "beta"):
            raise ValueError(f"`dial` must be 'speed' or 'beta', got {dial!r}")
        if dial == "speed" and not conditioned:
            raise ValueError(f"`dial={dial!r}` needs a speed-conditioned policy, which this one is not")
        return dial or ("speed" if conditioned else "beta")


@dataclass
class _Search:
    """Looks for ``measure(x) = target`` of a falling function, with a limited number of tries."""

    measure: Callable[[float], float]
    target: float
    tolerance: float  # relative
    left: int
    tried: list[tuple[float, float]] = field(default_factory=list)  # x, measure(x)

    @property
    def best(self) -> tuple[float, float]:
        """The try nearest to the target."""
        return min(self.tried, key=lambda one: abs(one[1] - self.target))

    @property
    def near(self) -> bool:
        """Whether the best try will do."""
        return abs(self.best[1] - self.target) <= self.tolerance * self.target

    @property
    def done(self) -> bool:
        """Near enough, or no tries left."""
        return self.left <= 0 or self.near

    def at(self, x: float) -> float:
        """measure(x)."""
        self.left -= 1
        self.tried.append((x, self.measure(x)))
        return self.tried[-1][1]

    def ends(self, low: float, high: float) -> tuple[float, float]:
        """Brackets the target by the two ends of a dial."""
        slow, fast = self.at(low), self.at(high)
        if not (fast <= self.target <= slow or self.near):
            self._out_of_reach("speed")
        return low, high

    def bracket(self, start: float) -> tuple[float, float]:
        """Brackets the target on a dial without ends, in strides from where it is now."""
        found, here = self.at(start), start
        faster, unchanged = found > self.target, 0
        while not self.done and unchanged < _FLAT:
            there = here * _STRIDE if faster else here / _STRIDE
            before, found = found, self.at(there)
            if (found > self.target) != faster:
                return min(here, there), max(here, there)
            here, unchanged = there, unchanged + 1 if found == before else 0
        if not self.near:
            self._out_of_reach("beta")
        return here, here

    def bisect(self, low: float, high: float, *, geometric: bool) -> tuple[float, float]:
        """Halve [low, high] until done; the best try."""
        while not self.done:
            middle = math.sqrt(low * high) if geometric else (low + high) / 2
            if self.at(middle) > self.target:
                low = middle
            else:
                high = middle
        return self.best

    def _out_of_reach(self, dial: str) -> NoReturn:
        counts = [count for _, count in self.tried]
        raise ValueError(
            f"`target_nfe={self.target:g}` is out of reach: on these prompts `{dial}` gives {min(counts):.2f} to "
            f"{max(counts):.2f} forward passes"
        )


def _nfe(output: Any) -> Tensor:
    if not isinstance(output, UnmaskOutput):
        raise TypeError(f"generate returned {type(output).__name__}, not an UnmaskOutput")
    return output.nfe.cpu()


def _batches(prompts: Any, tokenizer: Any, size: int, options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Arguments of ``generate``, ``size`` rows each; an option with a value per row is divided like the prompts."""
    if size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {size}")
    reserved = {"sampler", "seed", "return_dict_in_generate"} & set(options)
    if reserved:
        raise ValueError(f"calibration sets {', '.join(sorted(reserved))} itself: drop them")
    rows = _tokenized(prompts, tokenizer)
    count = len(rows["input_ids"])
    if not count:
        raise ValueError(f"calibration needs prompts, got {count}")
    per_row = {name: v for name, v in options.items() if isinstance(v, Tensor) and v.shape[:1] == (count,)}
    shared = {name: v for name, v in options.items() if name not in per_row}
    split = rows | per_row
    return [
        {**{name: v[start : start + size] for name, v in split.items()}, **shared} for start in range(0, count, size)
    ]


def _tokenized(prompts: Any, tokenizer: Any) -> dict[str, Tensor]:
    if isinstance(prompts, Tensor):
        return {"input_ids": prompts}
    if isinstance(prompts, Mapping):
        wanted = ("input_ids", "attention_mask")
        return {name: prompts[name] for name in wanted if prompts.get(name) is not None}
    if isinstance(prompts, str) or not isinstance(prompts, Sequence):
        raise ValueError(f"`prompts` must be tokenized prompts or a list of texts, got {type(prompts).__name__}")
    if tokenizer is None:
        raise ValueError(f"`prompts` are {len(prompts)} texts: pass tokenizer=... as well")
    if not prompts:
        return {"input_ids": torch.empty(0, 0, dtype=torch.long)}  # which tokenizers do not take
    encoded = tokenizer(list(prompts), return_tensors="pt", padding=True, padding_side="left")
    return {name: encoded[name] for name in ("input_ids", "attention_mask")}
