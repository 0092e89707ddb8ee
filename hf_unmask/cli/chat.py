"""``hf-unmask chat``: turn after turn with a model, and its unmasking to be seen."""

from __future__ import annotations

import dataclasses
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from hf_unmask.cli.generate import answers, new_tokens
from hf_unmask.cli.options import (
    TINY,
    BlockLengthOption,
    DeviceOption,
    DtypeOption,
    RevisionOption,
    SamplerOption,
    SeedOption,
    TemperatureOption,
    TrustOption,
)
from hf_unmask.cli.options import (
    block_length as read_block_length,
)
from hf_unmask.cli.terminal import error_line, load_model, plain_errors, quiet_libraries, say, say_prose

_PROMPT = "> "
_HELP = (
    "/sampler SPEC  decode with another sampler, e.g. /sampler threshold:0.8",
    "/speed X       dial of a learned policy, from 0 (careful) to 1 (fast)",
    "/watch         show the unmasking, or no longer",
    "/new           forget the turns so far",
    "/help          this list; Ctrl-C stops an answer, Ctrl-D ends",
)


def chat(  # noqa: PLR0913 - one argument per option
    model: Annotated[str, typer.Option(help="Folder or repository of a denoiser, or `tiny`.")] = TINY,
    sampler: SamplerOption = "threshold:0.9",
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Tokens of an answer. [default: 128, or tiny's longest answer]")
    ] = None,
    block_length: BlockLengthOption = "full",
    temperature: TemperatureOption = 0.0,
    seed: SeedOption = 0,
    system: Annotated[str | None, typer.Option(help="First turn of the chat template.")] = None,
    watch: Annotated[bool, typer.Option("--watch/--no-watch", help="Show the unmasking as it happens.")] = True,
    trust_remote_code: TrustOption = False,
    revision: RevisionOption = None,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
) -> None:
    """Talk with a model; /help lists what can be changed on the way. Ctrl-D ends."""
    with plain_errors():
        from hf_unmask.samplers.specs import parse_sampler

        length, rule = read_block_length(block_length), parse_sampler(sampler)
        quiet_libraries()
        network, tokenizer = load_model(model, trust_remote_code, revision, dtype, device)
        options = {
            "max_new_tokens": new_tokens(model, max_new_tokens),
            "block_length": length,
            "temperature": temperature,
            "seed": seed,
        }
        with suppress(ImportError):  # lines that can be edited and called back; not on Windows
            import readline  # noqa: F401
        remembers = getattr(tokenizer, "chat_template", None) is not None
        if system is not None and not remembers:
            raise ValueError(
                f"`--system` {system!r} needs a chat template, which the tokenizer of {model} does not have"
            )
        turns = "" if remembers else "; its tokenizer has no chat template, so every line is a prompt of its own"
        say(f"{model} with {rule}{turns}. /help lists commands, Ctrl-D ends.", err=True)
        _talk(Talk(network, tokenizer, rule, options, system, remembers, watch))


@dataclass
class Talk:
    """A conversation: what answers, and what was said."""

    network: Any
    tokenizer: Any
    sampler: Any
    options: dict[str, Any]
    system: str | None
    remembers: bool  # turns so far are part of the prompt
    watch: bool
    turns: list[dict[str, str]] = field(default_factory=list)

    def answer(self, text: str) -> None:
        """Print the answer to a line. What is stopped or fails is not remembered."""
        asked = [*self.turns, {"role": "user", "content": text}]
        texts, output, seconds = answers(
            self.network,
            self.tokenizer,
            [asked if self.remembers else text],
            [""] if self.watch else None,
            aside=True,
            system=self.system,
            sampler=self.sampler,
            **self.options,
        )
        say_prose(texts[0])
        passes, rate = int(output.nfe[0]), float(output.tokens_per_forward[0])
        say(f"{passes} forward passes, {rate:.1f} tokens each, {seconds:.1f} s", err=True)
        if self.remembers:
            self.turns = [*asked, {"role": "assistant", "content": texts[0]}]

    def command(self, line: str) -> None:
        """Carry out a line that begins with a slash.

        Raises:
            ValueError: there is no such command, or its value cannot be used.
        """
        from hf_unmask.samplers.specs import parse_sampler

        name, _, value = line.partition(" ")
        value = value.strip()
        if name == "/help":
            say(*_HELP, err=True)
        elif name == "/sampler":
            self.sampler = parse_sampler(value) if value else self.sampler
            say(f"sampler: {self.sampler}", err=True)
        elif name == "/speed":
            self.sampler = _at_speed(self.sampler, value)
            say(f"sampler: {self.sampler}", err=True)
        elif name == "/watch":
            self.watch = not self.watch
            say("the unmasking is shown" if self.watch else "answers are shown when they are finished", err=True)
        elif name == "/new":
            self.turns = []
            say("a new conversation", err=True)
        else:
            raise ValueError(f"no command {name}: /help lists them")


def _at_speed(sampler: Any, text: str) -> Any:
    """The same policy at another speed.

    Raises:
        ValueError: the sampler is no policy with such a dial, or the speed is no number from 0 to 1.
    """
    if not hasattr(sampler, "policy"):
        raise ValueError(f"/speed is the dial of a learned policy, not of {sampler}: give /sampler another value")
    try:
        speed = float(text)
    except ValueError:
        raise ValueError(f"/speed takes a number from 0 to 1, got {text!r}") from None
    return dataclasses.replace(sampler, speed=speed)


def _talk(talk: Talk) -> None:
    while True:
        try:
            line = input(_PROMPT if sys.stdin.isatty() else "").strip()
        except EOFError:
            say("", err=True)
            return
        except KeyboardInterrupt:  # of a line that is being written
            say("", "Ctrl-D ends", err=True)
            continue
        if not line:
            continue
        try:
            talk.command(line) if line.startswith("/") else talk.answer(line)
        except KeyboardInterrupt:
            say("", "stopped", err=True)
        except (ValueError, RuntimeError, OSError) as error:
            say(error_line(error), err=True)
