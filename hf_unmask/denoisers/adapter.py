"""Adapters: everything that a family of denoisers does differently ends here.

A ``Denoiser`` is asked for logits *at given positions* of left-padded sequences, and computes them nowhere else where
the model allows it: its output layer is a module of its own, and what it returns is what the model returns. That is
checked in every pass, and a model that goes on computing with its logits is run whole. What is settled when it is made
are its `Conventions`; what is below runs in every pass.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hf_unmask.denoisers import head
from hf_unmask.denoisers.caching import RowCache
from hf_unmask.denoisers.conventions import Conventions, embeddings, family_of, home, settle, vocab_size_of
from hf_unmask.denoisers.families import Attention
from hf_unmask.denoisers.head import Prediction, held_back
from hf_unmask.denoisers.inputs import forward_inputs
from hf_unmask.denoisers.wrappers import accepted, is_compiled, unwrapped

#: Models found to compute with the logits of their output layer, or without calling it as a module.
_WHOLE_LOGITS: weakref.WeakSet[nn.Module] = weakref.WeakSet()
#: Models found to decode padded rows as they do rows alone.
_MASK_PADDING: weakref.WeakSet[nn.Module] = weakref.WeakSet()


@dataclass(frozen=True, eq=False)
class Denoiser(Conventions):
    """A frozen masked diffusion language model behind one calling convention.

    Make one with ``Denoiser.from_model``. Two adapters are the same if ``same_as`` says so.
    """

    model: nn.Module
    #: The model inside wrappers, which knows its config and layers; ``model`` itself if there are none.
    core: nn.Module
    #: Runs on the positions asked for only. None (and in unknown models): the model's logits are taken as they come.
    output_layer: nn.Module | None

    @classmethod
    def resolve(
        cls, model: nn.Module | Denoiser, *, tokenizer: Any = None, mask_token_id: int | None = None
    ) -> Denoiser:
        """The adapter that was passed or is attached to the model, else a new one.

        Raises:
            ValueError: the model has not as many tokens any more as when its adapter was made.
        """
        if isinstance(model, Denoiser):
            made = model
        else:
            made = cls._attached(model) or cls.from_model(model, tokenizer=tokenizer, mask_token_id=mask_token_id)
        made._refuse_resized()
        return made

    @staticmethod
    def _attached(model: nn.Module) -> Denoiser | None:
        for one in (model, unwrapped(model)):
            attached = getattr(getattr(one, "generate", None), "denoiser", None)
            if isinstance(attached, Denoiser):
                return attached if attached.model is model else attached._called_through(model)
        return None

    @classmethod
    def from_model(
        cls,
        model: nn.Module,
        *,
        tokenizer: Any = None,
        mask_token_id: int | None = None,
        stop_token_ids: Iterable[int] | None = None,
        pad_token_id: int | None = None,
        shift: Literal[0, 1] | None = None,
        attention: Attention | None = None,
        block_length: int | None = None,
    ) -> Denoiser:
        """Settle the conventions of ``model``.

        Args:
            model: any native ``*ForMaskedLM`` of transformers, a model of a known family, or any other whose
                ``forward(input_ids, attention_mask)`` returns ``logits`` if ``shift`` and ``attention`` are given.
            tokenizer: asked for ids that the model's configs do not hold.
            mask_token_id, stop_token_ids, pad_token_id: override what is found.
            shift: 1 if the logits at position i - 1 predict position i.
            attention: "2d" for a padding mask [B, S], "4d" for a boolean [B, 1, S, S], "block" or "block-additive" if
                a position sees its own block and those before it, "own" if the model takes no mask.
            block_length: positions per block of a model that decodes in blocks, counted from the first token.

        Raises:
            ValueError: unknown model, or an id that is missing or outside the vocabulary.
        """
        core = unwrapped(model)
        family = family_of(core, shift, attention)
        settled = settle(
            core,
            family,
            tokenizer=tokenizer,
            mask_token_id=mask_token_id,
            stop_token_ids=stop_token_ids,
            pad_token_id=pad_token_id,
            shift=shift,
            attention=attention,
            block_length=block_length,
            accepts=accepted(model),
        )
        return cls(
            **vars(settled), model=model, core=core, output_layer=_output_layer(model, core) if family.known else None
        )

    def _called_through(self, wrapper: nn.Module) -> Denoiser:
        """The same conventions for a model that was wrapped after it was attached."""
        layer = _output_layer(wrapper, self.core) if self.output_layer is not None else None
        return replace(self, model=wrapper, accepts=accepted(wrapper), output_layer=layer)

    def same_as(self, other: Denoiser) -> bool:
        """Whether both adapt the same model object by the same conventions."""
        return self.model is other.model and self.conventions() == other.conventions()

    def _refuse_resized(self) -> None:
        """Raise a ValueError if the model has other tokens than were settled."""
        size = vocab_size_of(self.core)
        if size != self.vocab_size:
            raise ValueError(
                f"{type(self.core).__name__} has {size} tokens, but had {self.vocab_size} when its adapter was made: "
                "call hf_unmask.detach(model), then attach it again (or Denoiser.from_model)"
            )

    @property
    def device(self) -> torch.device:
        """Where token ids go: to the embeddings, wherever they are computed."""
        return home(embeddings(self.core) or self.core)

    def __call__(
        self,
        tokens: Tensor,
        attended: Tensor | None,
        positions: Tensor,
        *,
        hidden: bool = False,
        cache: RowCache | None = None,
        types: Tensor | None = None,
    ) -> Prediction:
        """One forward pass.

        Args:
            tokens: [B, S] long, left-padded.
            attended: [B, S] bool, not padding. None: there is none, which saves the model looking for it.
            positions: [B, W] long, places in the sequence whose logits are wanted.
            hidden: also the last hidden states that these logits are computed from.
            cache: keys and values of the columns that the pass leaves out, and what these are.
            types: [B, S] long, segments of the tokens, for models that accept ``token_type_ids``. None: all 0.

        Returns:
            Logits [B, W, V] that predict the positions, in the model's dtype, and hidden states [B, W, D].

        Raises:
            ValueError: hidden states that the model does not return, or padding that it does not mask.
        """
        if self.core.training:  # a wrapper begins in training mode, whatever it wraps
            warnings.warn(f"{type(self.core).__name__} is in training mode: call model.eval()", stacklevel=2)
        if attended is not None and self.model not in _MASK_PADDING:
            self._check_padding(tokens, attended, positions[:, :1])
        return self._predict(tokens, attended, positions, hidden=hidden, cache=cache, types=types)

    def _predict(
        self,
        tokens: Tensor,
        attended: Tensor | None,
        positions: Tensor,
        *,
        hidden: bool = False,
        cache: RowCache | None = None,
        types: Tensor | None = None,
    ) -> Prediction:
        cells = self.sources(positions, attended)
        columns = None if cache is None else cache.columns
        inputs = forward_inputs(self, self.core, tokens, attended, cache, types)
        if columns is not None:  # then these alone are computed, and the cells lie among them
            query = torch.arange(columns.shape[1], device=columns.device).expand_as(columns)
            cells = torch.zeros_like(tokens).scatter(1, columns, query).gather(1, cells)
        if hidden:
            inputs["output_hidden_states"] = True
        if cache is None:
            output, source, project = self._forward(inputs)
        else:
            output, source, project = self._cached_forward(inputs, cache)
        states = self._hidden(output, cells) if hidden else None
        if len(tokens) > 1:
            first = torch.arange(0, source.shape[:2].numel(), source.shape[1], device=tokens.device)
            cells = first[:, None] + cells
        return Prediction(source.flatten(0, 1), cells, self.vocab_size, project, states)

    @torch.no_grad()
    def _check_padding(self, tokens: Tensor, attended: Tensor, positions: Tensor) -> None:
        """Refuse a model that gives a padded row other logits than the row alone: code that came with a checkpoint may
        ignore its attention mask, add it as numbers, turn causal or count positions from the padding. Two passes, once
        per model; those of transformers are known to be right."""
        if not type(self.core).__module__.startswith("transformers."):
            padding = (~attended).sum(-1)
            row, columns = int(padding.argmax()), int(padding.max())
            if not columns:
                return
            one = slice(row, row + 1)
            padded = self._predict(tokens, attended, positions).logits()[one]
            alone = self._predict(tokens[one, columns:], None, positions[one] - columns).logits()
            distance, spread = float((padded - alone).abs().max()), float(alone.float().std())
            if distance > spread * max(1e-2, 32 * torch.finfo(alone.dtype).eps):
                raise ValueError(
                    f"{type(self.model).__name__} gives a padded row other logits than the row alone: they differ by "
                    f"{distance:.3g} and spread by {spread:.3g}, so it ignores or misreads its attention mask. Pass "
                    "rows of equal length, or slots=1 to fill one row at a time, or load newer code"
                )
        _MASK_PADDING.add(self.model)

    def _hidden(self, output: Any, cells: Tensor) -> Tensor:
        """[B, W, D], last hidden states at ``cells`` [B, W] of the columns that were computed."""
        states = getattr(output, "hidden_states", None)
        if states is None:
            raise ValueError(
                f"{type(self.model).__name__} returns no hidden states with output_hidden_states=True "
                "(`hf-unmask models` says which families do): use a sampler that does not read them"
            )
        return _at(states[-1], cells)

    def sources(self, positions: Tensor, attended: Tensor | None) -> Tensor:
        """Columns whose logits predict ``positions``, both [B, W] long."""
        if not self.shift:
            return positions
        if attended is None:
            return (positions - self.shift).clamp(min=0)
        # the first real token has nothing before it and is read at itself, wherever padding puts it
        first = attended.int().argmax(-1, keepdim=True)
        return torch.maximum(positions - self.shift, first)

    def _forward(self, inputs: dict[str, Any]) -> tuple[Any, Tensor, Callable[[Tensor], Tensor] | None]:
        """The model's output, and what logits are made of: [B, S, D] and how, or the logits [B, S, V] and None."""
        few = inputs["input_ids"].numel() * self.vocab_size <= head.FEW
        layer = None if few or self.model in _WHOLE_LOGITS else self.output_layer
        with held_back(layer, inputs["input_ids"].shape) as held:
            try:
                output = self._output(inputs)
            except torch.OutOfMemoryError:
                raise
            except Exception:
                if held.states is None:
                    raise
                output = None  # it could not go on with logits of no position
        if held.states is None:
            return output, output.logits, None
        if output is not None and held.is_answer(output.logits):
            return output, held.states, self.project
        _WHOLE_LOGITS.add(self.model)
        return self._forward(inputs)

    def _cached_forward(
        self, inputs: dict[str, Any], cache: RowCache
    ) -> tuple[Any, Tensor, Callable[[Tensor], Tensor] | None]:
        """As ``_forward``; code that has keys and values of another kind is told from any other fault."""
        cure = f"{type(self.core).__name__} keeps no keys and values in a `Cache` of transformers: leave `cache` off"
        try:
            found = self._forward(inputs)
        except (TypeError, AttributeError, IndexError, KeyError, ValueError) as error:
            if cache.stores:
                raise
            raise ValueError(f"{cure} ({type(error).__name__}: {error})") from error
        if not cache.stores:  # what is left out of the next pass would be seen by nobody
            raise ValueError(cure)
        return found

    def _output(self, inputs: dict[str, Any]) -> Any:
        """What the model returns, with ``logits`` and perhaps ``hidden_states``."""
        try:
            output = self.model(**inputs)
        except AttributeError as error:
            if getattr(getattr(self.core, "config", None), "return_dict", True) is not False:
                raise
            raise ValueError(  # some classes of transformers read their own tuples as outputs
                f"{type(self.core).__name__} fails with `config.return_dict=False`: set it to True ({error})"
            ) from error
        if isinstance(output, tuple) and not hasattr(output, "logits"):  # those that work return tuples
            states = (part for part in output[1:] if isinstance(part, tuple) and part and part[-1].ndim == 3)
            output = SimpleNamespace(logits=next(iter(output), None), hidden_states=next(states, None))
        if not isinstance(getattr(output, "logits", None), Tensor):
            raise ValueError(
                f"{type(self.core).__name__} returns no logits: load it with a head that predicts tokens, e.g. by "
                "AutoModelForMaskedLM"
            )
        return output

    def project(self, states: Tensor) -> Tensor:
        """Logits [N, V] of what goes into the output layer [N, D]."""
        if self.output_layer is None:
            raise ValueError(f"{type(self.model).__name__} has no output layer that can be run on its own")
        logits: Tensor = self.output_layer(states)
        return logits


def _at(values: Tensor, positions: Tensor) -> Tensor:
    return values.gather(1, positions[..., None].expand(-1, -1, values.shape[-1]))


def _output_layer(model: nn.Module, core: nn.Module) -> nn.Module | None:
    """The layer that makes logits, None if the model does not tell, or is compiled with it."""
    if is_compiled(model):
        return None
    layer = getattr(core, "get_output_embeddings", lambda: None)()
    return layer if isinstance(layer, nn.Module) and not isinstance(layer, nn.Embedding) else None
