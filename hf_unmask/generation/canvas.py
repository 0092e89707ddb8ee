"""From what the user passes to rows that the loop can advance, and back.

Inside, every row is left-padded whatever the user's padding side, and its positions to fill are one compact canvas
[L], whether they follow the prompt or lie scattered in it. So samplers never see prompts, padding or gaps.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from hf_unmask.denoisers.adapter import Denoiser
from hf_unmask.generation.configuration import UnmaskingGenerationConfig
from hf_unmask.generation.prompts import Prompts, extended, like, refuse_size, seeds
from hf_unmask.generation.randomness import row_keys
from hf_unmask.generation.step import State

#: Kinds of faults.
KINDS = 3
#: More than can be written.
NEVER = 1 << 40


@dataclass(frozen=True)
class Rows:
    """State of the rows that are still being filled; everything is indexed by row first."""

    number: Tensor  # [R] long, place in the batch
    key: Tensor  # [R] long, of the row's randomness
    tokens: Tensor  # [R, S] long, left-padded
    types: Tensor  # [R, S] long, segments of the tokens, for models that have such
    attended: Tensor  # [R, S] bool, not padding
    positions: Tensor  # [R, L] long, where each canvas position lies in the sequence
    valid: Tensor  # [R, L] bool, a position of this row's canvas
    length: Tensor  # [R] long, positions to fill
    masked: Tensor  # [R, L] bool, undecided
    step_map: Tensor  # [R, L] long, step at which a position opened, -1 before
    start: Tensor  # [R] long, first canvas position of the active block, below 0 if it begins in the prompt
    block_steps: Tensor  # [R] long, steps made in the active block
    stale: Tensor  # [R] long, with a cache, positions written since the row was computed as a whole; `NEVER` before
    steps: Tensor  # [R] long, steps made
    passes: Tensor  # [R] long, steps that ran on the row, those after its end included
    finished: Tensor  # [R] bool, nothing is left to do
    fault: Tensor  # [R, KINDS] bool, by kind: logits that are not finite, an ineligible opening, no opening
    sampler_state: State = None

    def take(self, index: Tensor) -> Rows:
        """The rows at ``index`` [R'] long."""
        kept = {f.name: getattr(self, f.name)[index] for f in fields(self) if f.name != "sampler_state"}
        return Rows(**kept, sampler_state=take_state(self.sampler_state, index))

    def and_rows(self, others: Rows) -> Rows:
        """These rows, then the others."""
        both = {f.name: (getattr(self, f.name), getattr(others, f.name)) for f in fields(self)}
        mine, theirs = both.pop("sampler_state")
        state = join_states(mine, theirs, len(self.number), len(others.number))
        return Rows(**{name: torch.cat(pair) for name, pair in both.items()}, sampler_state=state)

    def without(self, columns: int) -> Rows:
        """The same sequences with so many columns of padding dropped on the left, or added if negative."""
        if columns == 0:
            return self
        return replace(
            self,
            tokens=pad(self.tokens, (-columns, 0)),
            types=pad(self.types, (-columns, 0)),
            attended=pad(self.attended, (-columns, 0)),
            positions=(self.positions - columns).clamp(min=0),
        )

    def canvas(self) -> Tensor:
        """[R, L] long, the tokens at the canvas positions."""
        return self.tokens.gather(1, self.positions)


@dataclass(frozen=True)
class Layout:
    """How left-padded sequences map back to the user's layout."""

    source: Tensor  # [B, S] long, column of the user's layout that each left-padded column came from
    columns: int  # of the user's layout; what lies behind them was only filled because its block was
    canvas: int  # positions of the canvas, likewise

    def restore(self, values: Tensor) -> Tensor:
        """[B, S] left-padded -> [B, columns] in the user's layout."""
        return torch.empty_like(values).scatter(1, self.source, values)[:, : self.columns]

    def take(self, rows: Tensor) -> Layout:
        """That of the rows at ``rows`` [R] long."""
        return replace(self, source=self.source[rows])


def take_state(state: State, index: Tensor) -> State:
    """The rows at ``index`` of a sampler's memory."""
    if state is None:
        return None
    if isinstance(state, Tensor):
        return state[index]
    return type(state)(take_state(part, index) for part in state)


def join_states(first: State, second: State, rows: int, others: int) -> State:
    """Memories of ``rows`` rows and of ``others`` rows; memory that only one of them has yet is zero in the other."""
    if first is None and second is None:
        return None
    if isinstance(first, Tensor) or isinstance(second, Tensor):
        if first is None:
            first = second.new_zeros(rows, *second.shape[1:])
        if second is None:
            second = first.new_zeros(others, *first.shape[1:])
        return torch.cat([first, second])
    known = first if second is None else second
    pairs = zip(first or [None] * len(known), second or [None] * len(known), strict=True)
    return type(known)(join_states(a, b, rows, others) for a, b in pairs)


def lay_out(denoiser: Denoiser, prompts: Prompts, config: UnmaskingGenerationConfig) -> tuple[Rows, Layout]:
    """Check the inputs and build the rows: every position to fill holds the mask token."""
    input_ids, attended, types, seed, fill = _inputs(denoiser, prompts, config)
    new = config.max_new_tokens or 0
    key = row_keys(seed, input_ids + (types << 32), attended, fill)
    asked = fill.sum(-1) + new
    behind = _to_the_blocks_end(denoiser, config, attended.sum(-1) + new) * (asked > 0)
    behind = torch.arange(int(behind.max()), device=behind.device) < behind[:, None]
    rows, columns = input_ids.shape[0], input_ids.shape[1] + new
    total = columns + behind.shape[1]
    new_ones = attended.new_ones(rows, new)
    sequences = torch.cat(
        [input_ids, input_ids.new_full((rows, total - input_ids.shape[1]), denoiser.mask_token_id)], 1
    )
    types = extended(types, attended, total)
    attended = torch.cat([attended, new_ones, behind], dim=1)
    fill = torch.cat([fill, new_ones, behind], dim=1)
    source = attended.int().argsort(dim=1, stable=True)  # padding first: left-padded
    tokens = sequences.masked_fill(fill, denoiser.mask_token_id)
    left = {"tokens": tokens, "types": types, "attended": attended, "fill": fill}
    left = {name: values.gather(1, source) for name, values in left.items()}
    length = fill.sum(-1)
    width = int(length.max())
    positions = (~left["fill"]).int().argsort(dim=1, stable=True)[:, :width]
    valid = torch.arange(width, device=length.device) < length[:, None]
    zeros = torch.zeros_like(length)
    return (
        Rows(
            number=torch.arange(rows, device=length.device),
            key=key,
            tokens=left["tokens"],
            types=left["types"],
            attended=left["attended"],
            positions=positions.clamp(max=max(total - 1, 0)),
            valid=valid,
            length=length,
            masked=valid,
            step_map=torch.full_like(positions, -1),
            start=-_lead(denoiser, config, left["attended"], positions, valid, columns),
            block_steps=zeros,
            stale=zeros + NEVER,
            steps=zeros,
            passes=zeros,
            finished=length == 0,
            fault=zeros[:, None].expand(-1, KINDS) > 0,
        ),
        Layout(source, columns, int(asked.max())),
    )


def _to_the_blocks_end(denoiser: Denoiser, config: UnmaskingGenerationConfig, length: Tensor) -> Tensor:
    """[B] long, positions that lie behind sequences of ``length`` [B] in their last block and are decoded with it."""
    whole, block = config.whole_blocks, denoiser.block_length
    if whole and block is None:
        raise ValueError(f"`whole_blocks={whole}` is for models with blocks of their own, this one has none: drop it")
    if block is None or not (denoiser.whole_blocks if whole is None else whole):
        return torch.zeros_like(length)
    behind = -length % block
    return behind if denoiser.max_length is None else behind.minimum((denoiser.max_length - length).clamp(min=0))


def settle_blocks(denoiser: Denoiser, config: UnmaskingGenerationConfig) -> None:
    """Give a model that decodes block by block its own block length, or a part of it; others keep what they have."""
    if denoiser.block_length is None:
        return
    if config.block_length is None:
        config.block_length = denoiser.block_length
    if denoiser.block_length % config.block_length:
        raise ValueError(
            f"`block_length` {config.block_length} does not divide the model's block of {denoiser.block_length} tokens"
        )


def _lead(  # noqa: PLR0913
    denoiser: Denoiser,
    config: UnmaskingGenerationConfig,
    attended: Tensor,
    positions: Tensor,
    valid: Tensor,
    columns: int,
) -> Tensor:
    """[R] long, prompt positions between the beginning of each row's first block and its canvas."""
    length = valid.sum(-1)
    if denoiser.block_length is None or config.block_length is None:
        return torch.zeros_like(length)
    start = attended.shape[1] - length
    behind = positions == start[:, None] + torch.arange(positions.shape[1], device=positions.device)
    if bool((valid & ~behind).any()):
        raise ValueError(
            f"this model decodes blocks of {denoiser.block_length} tokens one after the other and cannot fill gaps in "
            f"a prompt of {columns} positions: the positions to fill must be the last ones"
        )
    return (attended.sum(-1) - length) % config.block_length


def _inputs(
    denoiser: Denoiser, prompts: Prompts, config: UnmaskingGenerationConfig
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Validated ids [B, P], attended [B, P], types [B, P], seed [B] and fill [B, P], repeated per returned sequence."""
    device = denoiser.device
    input_ids = prompts.checked_ids().to(device=device, dtype=torch.long)
    seed = seeds(config.seed, input_ids.shape[0], device)
    attention_mask = prompts.attention_mask
    if attention_mask is None:
        attention_mask = _infer_attention(input_ids, denoiser)
    attended = like("attention_mask", attention_mask, input_ids) != 0
    types = prompts.checked_types(denoiser, input_ids)
    refuse_size(denoiser, attended, config)
    together = len(input_ids) * config.num_return_sequences if config.slots is None else config.slots
    if not denoiser.paddable and together > 1 and not bool(attended.all()):
        raise ValueError(
            f"this model takes no padding mask, but row {int((~attended).any(-1).nonzero()[0])} is padded: pass rows "
            "of equal length, or slots=1 to fill one row at a time"
        )
    foreign = input_ids[(input_ids < 0) | (input_ids >= denoiser.vocab_size)]  # padding is embedded as well
    if len(foreign):
        raise ValueError(
            f"`input_ids` holds token {int(foreign[0])}, the model knows 0 to {denoiser.vocab_size - 1}: tokenizer "
            "and model do not belong together"
        )
    fill = _fill(denoiser, input_ids, attended, config)
    repeats = config.num_return_sequences
    ids, attended, types, seed, fill = (
        values.repeat_interleave(repeats, dim=0) for values in (input_ids, attended, types, seed, fill)
    )
    return ids, attended, types, seed, fill


def _fill(denoiser: Denoiser, input_ids: Tensor, attended: Tensor, config: UnmaskingGenerationConfig) -> Tensor:
    literal = (input_ids == denoiser.mask_token_id) & attended
    if config.fill_mask is not None:
        fill = like("fill_mask", config.fill_mask, input_ids) != 0
        wrong = (fill & ~attended).nonzero()
        if len(wrong):
            raise ValueError(
                f"`fill_mask` names padding (row, position {wrong[0].tolist()}): every position to fill needs "
                "attention_mask 1"
            )
        return fill
    if config.max_new_tokens is None:
        raise ValueError("pass `max_new_tokens` (0 fills the mask tokens of the prompt), got None")
    if config.max_new_tokens == 0:
        return literal
    if bool(literal.any()):
        warnings.warn(
            f"the prompt holds the mask token {denoiser.mask_token_id}; it is kept as text. To fill it, pass "
            "fill_mask=(input_ids == mask_token_id)",
            stacklevel=2,
        )
    return torch.zeros_like(literal)


def _infer_attention(input_ids: Tensor, denoiser: Denoiser) -> Tensor:
    """All ones, except padding where it can be told from text, by the rules of transformers' ``generate``: there is a
    padding token, and it ends no text (here: nor is it the mask token). A row alone has no padding to warn about."""
    pad, stops = denoiser.pad_token_id, denoiser.stop_token_ids
    same = [name for name, ids in (("stop", stops), ("mask", (denoiser.mask_token_id,))) if pad in ids]
    if pad is not None and not same:
        return (input_ids != pad).long()
    if len(input_ids) > 1 and (same or stops):
        why = f"the padding token {pad} is a {same[0]} token too" if same else "no padding token is known"
        warnings.warn(
            f"`attention_mask` was not passed with a batch of {len(input_ids)} prompts and cannot be inferred, because "
            f"{why}: every token counts as text. If prompts are padded, pass attention_mask=...",
            stacklevel=2,
        )
    return torch.ones_like(input_ids)


def begins_gap(rows: Rows) -> Tensor:
    """[R, L] bool, canvas positions with other text, or nothing, right before them."""
    return pad(rows.positions.diff(dim=1) != 1, (1, 0), value=True)


def close(rows: Rows, behind: Tensor, pad_token_id: int, block_length: int) -> Rows:
    """Write padding to the canvas positions ``behind`` [R, L] and count them as decided. Blocks in which nothing is
    left to decide are passed over; rows in which none is left have finished."""
    write = torch.where(behind, pad_token_id - rows.canvas(), 0)
    masked = rows.masked & ~behind
    left = masked & (torch.arange(masked.shape[1], device=masked.device) >= rows.start[:, None])
    ahead = (left.int().argmax(-1) - rows.start) // block_length * left.any(-1)  # blocks
    return replace(
        rows,
        tokens=rows.tokens.scatter_add(1, rows.positions, write),
        masked=masked,
        start=rows.start + ahead * block_length,
        block_steps=rows.block_steps.masked_fill(ahead > 0, 0),
        stale=rows.stale.masked_fill((write != 0).any(-1), NEVER),
        finished=rows.finished | ~left.any(-1),
    )
