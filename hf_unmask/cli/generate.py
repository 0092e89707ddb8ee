"""``hf-unmask generate``: prompts answered by a masked diffusion language model."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_unmask import __version__
from hf_unmask.cli.terminal import (
    JsonFlag,
    SeedOption,
    load_model,
    make_console,
    plain_errors,
    print_json,
    quiet_libraries,
    say_prose,
)

if TYPE_CHECKING:
    from hf_unmask.generation.output import UnmaskOutput

_NEW_TOKENS = 128


def generate(  # noqa: PLR0913 - one argument per option
    model: Annotated[str, typer.Option(help="Folder or repository of a denoiser, or `tiny` for the embedded one.")],
    prompt: Annotated[list[str], typer.Option(help="Prompt; repeat it for a batch.")],
    sampler: Annotated[str, typer.Option(help="Sampler spec, see `hf-unmask samplers`.")] = "threshold:threshold=0.9",
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            help="Tokens to add; 0 fills the mask tokens of the prompt. [default: 128, or tiny's longest answer]"
        ),
    ] = None,
    block_length: Annotated[int | None, typer.Option(help="Block size. [default: full diffusion]")] = None,
    temperature: Annotated[float, typer.Option(help="Of the token draw; 0 takes the most probable.")] = 0.0,
    seed: SeedOption = 0,
    trust_remote_code: Annotated[bool, typer.Option(help="Run model code that comes with the repository.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the repository.")] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str | None, typer.Option(help="[default: cuda if there is one, else cpu]")] = None,
    watch: Annotated[bool, typer.Option(help="Show the unmasking as it happens.")] = False,
    chat: Annotated[
        bool | None, typer.Option("--chat/--no-chat", help="Chat template. [default: if the tokenizer has one]")
    ] = None,
    system: Annotated[str | None, typer.Option(help="First turn of the chat template.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Answer prompts with a masked diffusion language model."""
    with plain_errors():
        from hf_unmask.denoisers.texts import encode_prompts, texts_of
        from hf_unmask.samplers.specs import parse_sampler
        from hf_unmask.tiny import TASKS, answer_length

        rule = parse_sampler(sampler)
        quiet_libraries()
        network, tokenizer = load_model(model, trust_remote_code, revision, dtype, device)
        if max_new_tokens is None:
            max_new_tokens = max(map(answer_length, TASKS)) if model == "tiny" else _NEW_TOKENS
        options = {"max_new_tokens": max_new_tokens, "block_length": block_length, "temperature": temperature}
        encoded = encode_prompts(tokenizer, prompt, chat=chat, system=system)
        began = time.perf_counter()
        watched = prompt if watch else None
        told = options | ({"block_length": "full"} if block_length is None else {})
        output = _run(network, tokenizer, encoded, watched, as_json, sampler=rule, seed=seed, **told)
        seconds = time.perf_counter() - began
        start = encoded["input_ids"].shape[1] if max_new_tokens else 0
        stops = network.generate.denoiser.stop_token_ids if max_new_tokens else ()
        texts = texts_of(tokenizer, output.sequences[:, start:], stops)
        if as_json:
            results = [
                {"prompt": text, "text": answer, **_numbers(output, row, start)}
                for row, (text, answer) in enumerate(zip(prompt, texts, strict=True))
            ]
            settings = {"model": model, "sampler": str(rule), "seed": seed, **options}
            print_json({**settings, "seconds": seconds, "version": __version__, "results": results})
        else:
            say_prose("\n".join(texts))


def _run(
    network: Any, tokenizer: Any, encoded: dict[str, Any], watched: list[str] | None, as_json: bool, **options: Any
) -> Any:
    """Generate; with ``watched`` prompts shown live, on stderr if stdout is for JSON."""
    options |= {"attention_mask": encoded["attention_mask"], "return_dict_in_generate": True}
    if watched is None:
        return network.generate(encoded["input_ids"], **options)
    from hf_unmask.cli.terminal_canvas import watching

    with watching(make_console(stderr=as_json), tokenizer, watched) as show:
        return network.generate(encoded["input_ids"], on_step=show, **options)


def _numbers(output: UnmaskOutput, row: int, start: int) -> dict[str, Any]:
    fields = ("nfe", "steps", "tokens_per_forward", "complete")
    numbers = {name: getattr(output, name)[row].item() for name in fields}
    rows = {"tokens": output.sequences, "step_map": output.step_map}
    return numbers | {name: values[row, start:].tolist() for name, values in rows.items()}
