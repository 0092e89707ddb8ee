"""One unit of an evaluation: generate a batch, time it, score it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_unmask.denoisers.adapter import Denoiser
from hf_unmask.denoisers.texts import left_padded, text_length, texts_of
from hf_unmask.evaluation.planning import Unit, row_seed
from hf_unmask.evaluation.problems import Problem
from hf_unmask.evaluation.timing import Clock, TimedDenoiser, TimedSampler
from hf_unmask.generation.loop import generate
from hf_unmask.generation.output import UnmaskOutput
from hf_unmask.results.records import Sample, Timing
from hf_unmask.samplers.left_to_right import LeftToRightSampler

_DIGITS = 4  # of recorded confidences


@dataclass(frozen=True)
class Worker:
    """What generates: a model behind its adapter, and its tokenizer."""

    denoiser: Denoiser
    tokenizer: Any

    def warm_up(self, unit: Unit) -> None:
        """One forward pass of full size that nobody times: the first one of a process pays for set-up."""
        setting = unit.task.setting
        problems = [problem for problem in unit.problems for _ in range(unit.task.draws)]
        self._generate(self.denoiser, unit, LeftToRightSampler(k=setting.max_new_tokens), problems, None)

    def __call__(self, unit: Unit) -> tuple[list[Sample], Timing]:
        """Generate and score one batch."""
        clock = Clock(self.denoiser.device)
        setting, draws = unit.task.setting, unit.task.draws
        sampler = TimedSampler(unit.task.sampler, clock, len(unit.problems) * draws, setting.max_new_tokens)
        problems = [problem for problem in unit.problems for _ in range(draws)]
        start = clock.now()
        output = self._generate(TimedDenoiser.of(self.denoiser, clock), unit, sampler, problems, setting.block_length)
        seconds = clock.split(clock.since(start))
        tokens = output.sequences[:, -setting.max_new_tokens :]
        step_map = output.step_map[:, -setting.max_new_tokens :]
        texts = texts_of(self.tokenizer, tokens, self.denoiser.stop_token_ids)
        scores, answers = unit.task.metrics.first(texts, problems)
        further = unit.task.metrics.beside(texts, problems)
        confidences = _confidences(sampler.confidence, step_map)
        samples = [
            Sample(
                setting=setting,
                prompt_id=problem.prompt_id,
                seed=unit.seed,
                draw=row % draws,
                score=scores[row],
                nfe=int(output.nfe[row]),
                steps=int(output.steps[row]),
                answer_length=text_length(tokens[row].tolist(), self.denoiser.stop_token_ids),
                tokens=tokens[row].tolist(),
                step_map=step_map[row].tolist(),
                text=texts[row],
                confidence=confidences[row],
                answer=answers[row],
                further=further[row],
            )
            for row, problem in enumerate(problems)
        ]
        ids = [problem.prompt_id for problem in unit.problems]
        return samples, Timing(setting=setting, seed=unit.seed, prompt_ids=ids, **seconds)

    def _generate(
        self, denoiser: Denoiser, unit: Unit, sampler: Any, problems: Sequence[Problem], block_length: int | None
    ) -> UnmaskOutput:
        setting, draws = unit.task.setting, unit.task.draws
        rows = [unit.task.template.ids(self.tokenizer, problem.prompt, problem.turns) for problem in problems]
        seeds = [row_seed(unit.seed, problem.prompt_id, row % draws) for row, problem in enumerate(problems)]
        ids, mask = left_padded(rows, denoiser.filler_token_id)
        output = generate(
            denoiser,
            ids,
            attention_mask=mask,
            sampler=sampler,
            max_new_tokens=setting.max_new_tokens,
            block_length="full" if block_length is None else block_length,
            temperature=setting.temperature,
            stop_at_eos=setting.stop_at_eos,
            seed=torch.tensor(seeds),
            return_dict_in_generate=True,
        )
        if not isinstance(output, UnmaskOutput):
            raise TypeError(f"generate returned {type(output).__name__}, not an UnmaskOutput")
        return output


def _confidences(read: Tensor | None, step_map: Tensor) -> list[list[float | None] | None]:
    """Per row what was read at each position, None where it did not open or was no number; None: nothing was read."""
    if read is None:
        return [None] * len(step_map)
    shown = (step_map >= 0) & read.isfinite()
    rows = zip(read.tolist(), shown.tolist(), strict=True)
    return [[round(v, _DIGITS) if known else None for v, known in zip(*row, strict=True)] for row in rows]
