"""``hf-unmask generate``: prompts answered by a masked diffusion language model."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_unmask import __version__
from hf_unmask.cli.costs import cost_line
from hf_unmask.cli.options import (
    FULL,
    TINY,
    BlockLengthOption,
    DeviceOption,
    DtypeOption,
    JsonFlag,
    ModelOption,
    RevisionOption,
    SamplerOption,
    SeedOption,
    TemperatureOption,
    TrustOption,
)
from hf_unmask.cli.options import (
    block_length as read_block_length,
)
from hf_unmask.cli.terminal import load_model, make_console, plain_errors, print_json, quiet_libraries, say, say_prose

if TYPE_CHECKING:
    from hf_unmask.generation.output import UnmaskOutput

_NEW_TOKENS = 128
IdsOption = Annotated[list[int] | None, typer.Option(metavar="ID", help="Override the model's; repeat it for several.")]
IdOption = Annotated[int | None, typer.Option(metavar="ID", help="Override the model's.")]


def generate(  # noqa: PLR0913 - one argument per option
    model: ModelOption,
    prompt: Annotated[list[str], typer.Option(help="Prompt; repeat it for a batch.")],
    sampler: SamplerOption = "threshold:0.9",
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            help="Tokens to add; 0 fills the mask tokens of the prompt. [default: 128, or tiny's longest answer]"
        ),
    ] = None,
    block_length: BlockLengthOption = "full",
    temperature: TemperatureOption = 0.0,
    do_sample: Annotated[
        bool | None, typer.Option("--do-sample/--no-do-sample", help="Draw tokens, at temperature 1 if none is given.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Draw among so many tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw among tokens of this total probability.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="Classifier-free guidance; two passes a step.")] = None,
    num_return_sequences: Annotated[int | None, typer.Option(help="Answers per prompt. [default: 1]")] = None,
    seed: SeedOption = 0,
    stop_at_eos: Annotated[bool, typer.Option(help="End an answer at its first stop token.")] = False,
    stop_ends: Annotated[
        str | None, typer.Option(metavar="gap|row", help="What such an end ends. [default: gap]")
    ] = None,
    stop_strings: Annotated[list[str] | None, typer.Option(help="End an answer at this text; repeat it.")] = None,
    suppress_tokens: Annotated[
        list[int] | None, typer.Option(metavar="ID", help="Token that is never written; repeat it.")
    ] = None,
    mask_token_id: IdOption = None,
    eos_token_id: IdsOption = None,
    pad_token_id: IdOption = None,
    whole_blocks: Annotated[
        bool | None, typer.Option("--whole-blocks/--cut-blocks", help="Of a model with blocks of its own.")
    ] = None,
    slots: Annotated[int | None, typer.Option(help="Prompts filled at once; others wait. [default: all]")] = None,
    check_every: Annotated[int | None, typer.Option(help="Steps between two looks at the device. [default: 1]")] = None,
    cache: Annotated[
        str | None, typer.Option(metavar="MODE", help="Keep keys and values: prefix, dual or off.")
    ] = None,
    cache_refresh: Annotated[int | None, typer.Option(help="With a cache: positions between whole passes.")] = None,
    output_trajectory: Annotated[bool, typer.Option(help="With --json: the canvas after every step.")] = False,
    chat: Annotated[
        bool | None, typer.Option("--chat/--no-chat", help="Chat template. [default: if the tokenizer has one]")
    ] = None,
    system: Annotated[str | None, typer.Option(help="First turn of the chat template.")] = None,
    watch: Annotated[bool, typer.Option(help="Show the unmasking as it happens.")] = False,
    trust_remote_code: TrustOption = False,
    revision: RevisionOption = None,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Answer prompts with a masked diffusion language model."""
    with plain_errors():
        from hf_unmask.samplers.specs import parse_sampler

        options: dict[str, Any] = {
            "max_new_tokens": max_new_tokens,
            "block_length": read_block_length(block_length),
            "temperature": None if do_sample and not temperature else temperature,  # its own default, which draws
            "do_sample": do_sample,
            "top_k": top_k,
            "top_p": top_p,
            "guidance_scale": guidance_scale,
            "num_return_sequences": num_return_sequences,
            "stop_at_eos": stop_at_eos or None,
            "stop_strings": stop_strings or None,
            "stop_ends": stop_ends,
            "suppress_tokens": suppress_tokens or None,
            "mask_token_id": mask_token_id,
            "eos_token_id": eos_token_id or None,
            "pad_token_id": pad_token_id,
            "whole_blocks": whole_blocks,
            "slots": slots,
            "check_every": check_every,
            "cache": cache,
            "cache_refresh": cache_refresh,
            "output_trajectory": output_trajectory or None,
        }
        rule = parse_sampler(sampler)
        quiet_libraries()
        network, tokenizer = load_model(model, trust_remote_code, revision, dtype, device)
        options["max_new_tokens"] = new_tokens(model, max_new_tokens)
        said = {name: value for name, value in options.items() if value is not None}
        shown = prompt if watch else None
        texts, output, seconds = answers(
            network, tokenizer, prompt, shown, as_json, chat=chat, system=system, sampler=rule, seed=seed, **said
        )
        if as_json:
            said["block_length"] = None if block_length == FULL else said["block_length"]
            settings = {"model": model, "sampler": str(rule), "seed": seed, **said}
            start = output.sequences.shape[1] - options["max_new_tokens"] if options["max_new_tokens"] else 0
            asked = [one for one in prompt for _ in range(num_return_sequences or 1)]
            results = [
                {"prompt": asked[row], "text": text, **_numbers(output, row, start)} for row, text in enumerate(texts)
            ]
            print_json({**settings, "seconds": seconds, "version": __version__, "results": results})
        else:
            say_prose("\n".join(texts))
            say(cost_line(output, seconds), err=True)


def new_tokens(model: str, asked: int | None) -> int:
    """Positions to fill where nothing is said."""
    if asked is not None:
        return asked
    from hf_unmask.tiny import TASKS, answer_length

    return max(map(answer_length, TASKS)) if model == TINY else _NEW_TOKENS


def answers(
    network: Any,
    tokenizer: Any,
    prompts: list[Any],
    watched: list[str] | None,
    aside: bool = False,
    *,
    chat: bool | None = None,
    system: str | None = None,
    **options: Any,
) -> tuple[list[str], UnmaskOutput, float]:
    """Texts, how they came about, and the seconds it took.

    Args:
        prompts: texts or chats, see `hf_unmask.encode_prompts`.
        watched: titles of rows that are shown live. None: nothing is shown.
        aside: show them on stderr, as stdout is for something else, and take the picture away at the end.
        **options: of ``generate``.
    """
    from hf_unmask.denoisers.texts import encode_prompts, texts_of

    encoded = encode_prompts(tokenizer, prompts, chat=chat, system=system)
    options |= {"attention_mask": encoded["attention_mask"], "return_dict_in_generate": True}
    if options.get("stop_strings"):
        options["tokenizer"] = tokenizer
    began = time.perf_counter()
    if watched is None:
        output = network.generate(encoded["input_ids"], **options)
    else:
        from hf_unmask.cli.terminal_canvas import watching

        titles = [one for one in watched for _ in range(options.get("num_return_sequences") or 1)]
        with watching(make_console(stderr=aside), tokenizer, titles, stays=not aside) as show:
            output = network.generate(encoded["input_ids"], on_step=show, **options)
    seconds = time.perf_counter() - began
    adds = options["max_new_tokens"] > 0
    start = encoded["input_ids"].shape[1] if adds else 0
    stops = options.get("eos_token_id") or network.generate.denoiser.stop_token_ids
    texts = texts_of(tokenizer, output.sequences[:, start:], stops if adds else ())
    return texts, output, seconds


def _numbers(output: UnmaskOutput, row: int, start: int) -> dict[str, Any]:
    fields = ("nfe", "steps", "tokens_per_forward", "complete")
    numbers = {name: getattr(output, name)[row].item() for name in fields}
    rows = {"tokens": output.sequences, "step_map": output.step_map}
    numbers |= {name: values[row, start:].tolist() for name, values in rows.items()}
    if output.trajectory is None:
        return numbers
    kept = {name: getattr(output.trajectory, name)[row].tolist() for name in ("tokens", "masked")}
    return numbers | {"trajectory": kept}
