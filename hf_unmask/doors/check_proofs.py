"""The proofs of `check`: each a few forward passes over one text that is masked in several ways."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
import transformers
from torch import Tensor, nn

from hf_unmask.denoisers import compat
from hf_unmask.denoisers.adapter import Denoiser
from hf_unmask.denoisers.caching import RowCache
from hf_unmask.denoisers.texts import encode_prompts
from hf_unmask.denoisers.wrappers import unwrapped
from hf_unmask.generation.loop import generate
from hf_unmask.samplers.confidence import ConfidenceSampler

Verdict = Literal["pass", "fail", "not supported"]

MARGIN = 0.2  # nats per token by which one reading must be better than another
_OTHERS = 3  # other tokens that are tried as the mask token
_HALF = torch.finfo(torch.float16).max


@dataclass(frozen=True)
class Finding:
    """What one proof found."""

    name: str
    verdict: Verdict
    value: str  # what was measured
    cure: str = ""  # of what failed


@dataclass(frozen=True)
class Case:
    """A model, its adapter, and a text masked in several ways."""

    denoiser: Denoiser
    tokenizer: Any
    tokens: Tensor  # [S] long
    hidden: Tensor  # [N, S] bool, what is masked; as many in every row

    @property
    def places(self) -> Tensor:
        """[N, W] long, the masked positions."""
        return self.hidden.nonzero()[:, 1].reshape(len(self.hidden), -1)

    @property
    def guessing(self) -> float:
        """Nats per token of a uniform guess."""
        return math.log(self.denoiser.vocab_size)

    def masked(self, mask_token_id: int) -> Tensor:
        """[N, S] long."""
        return torch.where(self.hidden, mask_token_id, self.tokens)

    def loss(self, denoiser: Denoiser) -> float:
        """Nats per masked token, by the conventions of an adapter."""
        logits = denoiser(self.masked(denoiser.mask_token_id), None, self.places).logits().float()
        logits[..., denoiser.mask_token_id] = -torch.inf
        right = self.tokens.expand(self.hidden.shape).gather(1, self.places)
        return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), right.flatten()))


def mask_candidates(tokenizer: Any, named: int | None) -> list[int]:
    """Tokens that may stand for a mask, likely names first; without ``named``, the tokenizer's own before all."""
    special = {str(tokenizer.convert_ids_to_tokens(one)): int(one) for one in tokenizer.all_special_ids}
    special |= {str(name): int(one) for name, one in getattr(tokenizer, "added_tokens_encoder", {}).items()}
    ranked = sorted(special, key=lambda name: ("mask" not in name.lower(), name))
    own = [] if named is not None or tokenizer.mask_token_id is None else [int(tokenizer.mask_token_id)]
    others = [special[name] for name in ranked if special[name] not in (named, *own)]
    return [*own, *others[: _OTHERS - len(own)]]


def proved(name: str, case: Case) -> Finding:
    try:
        return PROOFS[name](case)
    except Exception as error:  # noqa: BLE001 - code of a checkpoint may raise anything, and the other proofs still count
        return Finding(name, "fail", f"{type(error).__name__}: {error}", "see the message")


def shims(model: nn.Module) -> Finding:
    version = f"transformers {transformers.__version__}"
    if type(unwrapped(model)).__module__.startswith("transformers."):
        return Finding("shims", "pass", f"none: a class of {version}")
    names = ", ".join(shim.name for shim in compat.needed()) or "none"
    return Finding("shims", "pass", f"for code of its own on {version}, where it needs them: {names}")


def _shift(case: Case) -> Finding:
    """The shift: the other one must predict worse."""
    denoiser = case.denoiser
    if case.tokenizer is None:
        return Finding("shift", "not supported", "needs a text: pass the tokenizer")
    ours, theirs = case.loss(denoiser), case.loss(replace(denoiser, shift=1 - denoiser.shift))
    value = f"{ours:.2f} nats per masked token with shift={denoiser.shift}, {theirs:.2f} with {1 - denoiser.shift}"
    return _compared(case, "shift", ours, theirs, value, f"attach(model, shift={1 - denoiser.shift})")


def _mask_token(case: Case) -> Finding:
    """The mask id: no other special token may predict better in its place."""
    denoiser, tokenizer = case.denoiser, case.tokenizer
    if tokenizer is None:
        return Finding("mask token", "not supported", "needs a text: pass the tokenizer")
    others = mask_candidates(tokenizer, denoiser.mask_token_id)
    if not others:
        return Finding("mask token", "not supported", "the tokenizer has no other special token to compare with")
    ours = case.loss(denoiser)
    loss, other = min((case.loss(replace(denoiser, mask_token_id=one)), one) for one in others)
    name = tokenizer.convert_ids_to_tokens(other)
    value = f"{ours:.2f} nats per masked token with {denoiser.mask_token_id}, {loss:.2f} with {other} ({name!r})"
    return _compared(case, "mask token", ours, loss, value, f"attach(model, mask_token_id={other})")


def _compared(case: Case, name: str, ours: float, theirs: float, value: str, cure: str) -> Finding:
    """Two readings by nats per token; neither counts if it is hardly better than guessing."""
    told = min(ours, theirs) < case.guessing / 2
    if told and theirs - ours >= MARGIN:
        return Finding(name, "pass", value)
    if told and ours - theirs >= MARGIN:
        return Finding(name, "fail", value, cure)
    return Finding(name, "not supported", f"{value}: the text does not tell; give --text that the model could write")


def _moved(name: str, one: Tensor, other: Tensor, cure: str) -> Finding:
    """Two answers that must agree up to rounding; logits [..., V] each."""
    distance, spread = float((one - other).abs().max()), float(one.float().std())
    bound = spread * max(1e-2, 32 * torch.finfo(one.dtype).eps)
    value = f"logits move by {distance:.2g}, they spread by {spread:.2g}"
    return Finding(name, "pass", value) if distance <= bound else Finding(name, "fail", value, cure)


def padding(case: Case) -> Finding:
    """A row in a left-padded batch against the same row alone; the tokens in the padding must not matter."""
    denoiser = case.denoiser
    if not denoiser.paddable:
        return Finding("padding", "not supported", "takes no padding mask: rows of equal length, or slots=1")
    whole = case.masked(denoiser.mask_token_id)[:2]
    cut = whole.shape[1] // 3
    short, places = whole[:1, cut:], (case.places[:1] - cut).clamp(min=0)
    alone = denoiser(short, None, places).logits()
    padded = torch.cat([whole[1:], torch.nn.functional.pad(short, (cut, 0), value=denoiser.filler_token_id)])
    attended = torch.ones_like(padded, dtype=torch.bool)
    attended[1, :cut] = False
    try:
        together = denoiser(padded, attended, (places + cut).expand(2, -1)).logits()[1:]
    except ValueError as error:
        return Finding("padding", "fail", str(error), "rows of equal length, slots=1, or newer code of the model")
    cure = "rows of equal length or slots=1; positions or padding reach the text (attention='4d', newer code)"
    return _moved("padding", alone, together, cure)


def _sides(case: Case) -> Finding:
    """Left- and right-padded prompts through the loop."""
    denoiser = case.denoiser
    if not denoiser.paddable:
        return Finding("padding sides", "not supported", "takes no padding mask")
    short = len(case.tokens) // 2
    left = torch.stack([case.tokens, torch.nn.functional.pad(case.tokens[:short], (len(case.tokens) - short, 0))])
    mask = torch.ones_like(left)
    mask[1, : len(case.tokens) - short] = 0
    right, right_mask = left.clone(), mask.flip(1)
    right[1] = left[1].roll(short)
    options: dict[str, Any] = {"sampler": ConfidenceSampler(k=4), "max_new_tokens": 4}
    answers = [
        cast(Tensor, generate(denoiser, ids, attention_mask=one, **options))[:, -4:]
        for ids, one in ((left, mask), (right, right_mask))
    ]
    same = bool(torch.equal(*answers))
    value = "the same tokens" if same else f"{answers[0].tolist()} left-padded, {answers[1].tolist()} right-padded"
    return Finding("padding sides", "pass" if same else "fail", value, "" if same else "pad on the left")


def _batch(case: Case) -> Finding:
    """A row among others against the row alone."""
    ids = case.masked(case.denoiser.mask_token_id)
    alone = case.denoiser(ids[:1], None, case.places[:1]).logits()
    together = case.denoiser(ids, None, case.places).logits()[:1]
    return _moved("batch", alone, together, "run rows one at a time: slots=1")


def _positions(case: Case) -> Finding:
    """Logits where they are read against the model's whole output."""
    ids, places = case.masked(case.denoiser.mask_token_id)[:1], case.places[:1]
    whole = replace(case.denoiser, output_layer=None)(ids, None, places).logits()
    cure = "report it: the output layer cannot be run on its own"
    return _moved("logits at positions", whole, case.denoiser(ids, None, places).logits(), cure)


def _cache(case: Case) -> Finding:
    """Keys and values that were just made change nothing."""
    denoiser = case.denoiser
    if denoiser.cache_refusal is not None:
        return Finding("cache", "not supported", denoiser.cache_refusal)
    ids, places = case.masked(denoiser.mask_token_id)[:1], case.places[:1]
    whole = denoiser(ids, None, places).logits()
    cache = RowCache()
    denoiser(ids, None, places, cache=cache.at(None, None))
    columns = torch.arange(ids.shape[1] // 2, ids.shape[1], device=ids.device)[None]
    inside = places[places >= columns[0, 0] + denoiser.shift][None]
    kept = denoiser(ids, None, inside, cache=cache.at(None, columns)).logits()
    expected = whole[(places >= columns[0, 0] + denoiser.shift)][None]
    return _moved("cache", expected, kept, "leave `cache` off")


def _hidden(case: Case) -> Finding:
    try:
        states = case.denoiser(case.tokens[None], None, case.places[:1, :1], hidden=True).hidden
    except (ValueError, TypeError) as error:
        return Finding("hidden states", "not supported", str(error).partition(":")[0])
    width = 0 if states is None else states.shape[-1]
    return Finding("hidden states", "pass", f"width {width}, for policies that read as many")


def _overflow(case: Case) -> Finding:
    """The largest activation, and whether all are finite in the model's dtype."""
    largest = [0.0]

    def look(_module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.is_floating_point() and output.numel():
            size = float(output.detach().abs().max())
            largest[0] = size if size != size else max(largest[0], size)

    hooks = [module.register_forward_hook(look) for module in case.denoiser.model.modules()]
    try:
        logits = case.denoiser(case.masked(case.denoiser.mask_token_id)[:1], None, case.places[:1]).logits()
    finally:
        for hook in hooks:
            hook.remove()
    value = f"{str(logits.dtype).removeprefix('torch.')}, largest activation {largest[0]:.3g}"
    if not bool(torch.isfinite(logits).all()):
        return Finding("overflow", "fail", f"{value}, logits that are not finite", "load it with dtype='bfloat16'")
    fits = "fits" if largest[0] < _HALF else "does not fit"
    return Finding("overflow", "pass", f"{value}: {fits} float16")


def _stops(case: Case) -> Finding:
    """Stop ids are special tokens, and the tokenizer's end of text is one of them."""
    tokenizer, stops = case.tokenizer, case.denoiser.stop_token_ids
    if tokenizer is None:
        return Finding("stop tokens", "not supported", "needs the tokenizer")
    special = {*tokenizer.all_special_ids, *getattr(tokenizer, "added_tokens_decoder", {})}
    names = {one: tokenizer.convert_ids_to_tokens(one) for one in stops}
    cure = f"attach(model, stop_token_ids=[{tokenizer.eos_token_id}])"
    if not stops:
        return Finding("stop tokens", "fail", "none are known", cure)
    for one, name in names.items():
        if one not in special:
            return Finding("stop tokens", "fail", f"{one} is the ordinary token {name!r}", cure)
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in stops:
        return Finding("stop tokens", "fail", f"{names}, without the tokenizer's {tokenizer.eos_token_id}", cure)
    return Finding("stop tokens", "pass", ", ".join(f"{one} {name!r}" for one, name in names.items()))


def _template(case: Case) -> Finding:
    """A chat is encoded, and the place where the answer begins is not behind an end."""
    if getattr(case.tokenizer, "chat_template", None) is None:
        return Finding("chat template", "not supported", "the tokenizer has none: prompts are taken as they are")
    try:
        ids = encode_prompts(case.tokenizer, ["Hello"])["input_ids"][0].tolist()
    except Exception as error:  # noqa: BLE001 - a template is a program of the checkpoint's
        return Finding("chat template", "fail", f"{type(error).__name__}: {error}", "encode_prompts(..., chat=False)")
    if ids[-1] in case.denoiser.stop_token_ids:
        return Finding("chat template", "fail", f"ends in the stop token {ids[-1]}", "encode_prompts(..., chat=False)")
    return Finding("chat template", "pass", f"{len(ids)} tokens for one turn")


PROOFS: dict[str, Callable[[Case], Finding]] = {
    "shift": _shift,
    "mask token": _mask_token,
    "padding": padding,
    "padding sides": _sides,
    "batch": _batch,
    "logits at positions": _positions,
    "cache": _cache,
    "hidden states": _hidden,
    "overflow": _overflow,
    "stop tokens": _stops,
    "chat template": _template,
}
