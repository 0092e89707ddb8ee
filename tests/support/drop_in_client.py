"""Somebody who uses policies through transformers alone: ``python tests/drop_in_client.py``, calls as JSON on stdin.

A call is the arguments of ``generate``, with ``repo`` as ``custom_generate`` and some of these besides:

- ``model``: "causal" (a remote-code style class with transformers' own ``generate``), "embedded" (that of the package's
  folder ``folder``, as a class that transformers can generate with), "masked" (the same as its own class, which cannot:
  the repository's function is loaded and called) or "attached" (causal, attached by hf_unmask);
- ``rows``: 1 or 2 prompts; ``stream``: whether to listen.

Nothing here may import hf_unmask, except for "attached": a call's result says what the repository's code imported.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from typing import Any

import torch
from doubles import llada_double
from models import PAD
from transformers import EuroBertForMaskedLM, GenerationConfig, GenerationMixin, PreTrainedModel

IDS = torch.tensor([[5, 6, 7, 8], [PAD, PAD, 9, 10]])
REAL = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])


class EmbeddedModel(EuroBertForMaskedLM, GenerationMixin):
    """Masked language models of transformers have no ``generate``; a class like this one gives it to them."""


class Streamer:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.ended = 0

    def put(self, value: torch.Tensor) -> None:
        self.tokens += value.flatten().tolist()

    def end(self) -> None:
        self.ended += 1


def model_of(kind: str, folder: str | None) -> PreTrainedModel:
    if kind in ("causal", "attached"):
        model: PreTrainedModel = llada_double(torch.float64)
    else:
        model = (EmbeddedModel if kind == "embedded" else EuroBertForMaskedLM).from_pretrained(folder).double().eval()
    if kind == "attached":
        from hf_unmask import attach

        attach(model)
    return model


def call(
    repo: str,
    *,
    model: str = "causal",
    folder: str | None = None,
    rows: int = 2,
    stream: bool = False,
    config: dict[str, Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """One call of ``generate``: its tokens, what the streamer heard, and what the call changed."""
    denoiser, before = model_of(model, folder), "hf_unmask" in sys.modules
    options = {"input_ids": IDS[:rows], "attention_mask": REAL[:rows], **options}
    if config is not None:
        options["generation_config"] = GenerationConfig(**config)
    streamer = Streamer() if stream else None
    if model == "masked":
        decode = GenerationMixin.load_custom_generate(denoiser, repo, **loading(options))
        output = decode(denoiser, streamer=streamer, **options)
    else:
        trust = {} if "trust_remote_code" in options else {"trust_remote_code": True}
        output = denoiser.generate(custom_generate=repo, streamer=streamer, **trust, **options)
    sequences = output if isinstance(output, torch.Tensor) else output.sequences
    heard = streamer and {"tokens": streamer.tokens, "ended": streamer.ended}
    nfe = None if isinstance(output, torch.Tensor) else output.nfe.tolist()
    return {"tokens": sequences.tolist(), "heard": heard, "imported_before": before, "nfe": nfe}


def loading(options: dict[str, Any]) -> dict[str, Any]:
    names = ("revision", "token", "cache_dir", "local_files_only")
    return {"trust_remote_code": True, **{name: options[name] for name in names if name in options}}


def attempt(arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"value": call(**arguments)}
    except Exception as error:
        bases = [base.__name__ for base in type(error).__mro__]
        loaded = "hf_unmask" in sys.modules
        return {"error": type(error).__name__, "bases": bases, "message": str(error), "imported": loaded}


def main() -> None:
    torch.set_num_threads(1)
    calls, answer = json.load(sys.stdin), sys.stdout
    with contextlib.redirect_stdout(io.StringIO()):  # transformers asks its question there
        results = [attempt(arguments) for arguments in calls]
    json.dump(results, answer)


if __name__ == "__main__":
    main()
