"""Prompt templates: text files with ``{prompt}`` where the problem goes.

Everything else in a file is literal, braces included. A file named ``*.chat.txt`` is a turn of a conversation, put
through the tokenizer's chat template; what stands below a line ``---assistant---`` begins the model's reply.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_unmask.results.foreign_text import read_text

_HERE = Path(__file__).parent / "templates"
_FIELD, _REPLY, _CHAT = "{prompt}", "\n---assistant---\n", ".chat"


@dataclass(frozen=True)
class Template:
    """How a problem becomes a prompt."""

    name: str
    text: str
    reply: str = ""  # how the model's turn begins
    chat: bool = False

    @property
    def fingerprint(self) -> str:
        """Hash of the content."""
        return hashlib.sha256(repr((self.text, self.reply, self.chat)).encode()).hexdigest()[:16]

    def ids(self, tokenizer: Any, prompt: str, turns: Sequence[Mapping[str, str]] = ()) -> list[int]:
        """Token ids of a prompt, behind the earlier ``turns`` of a conversation.

        Raises:
            ValueError: a chat template, or turns, for a tokenizer that has none.
        """
        text = self.text.replace(_FIELD, prompt)
        chat = self.chat or bool(turns)
        if chat:
            if getattr(tokenizer, "chat_template", None) is None:
                what = f"template {self.name!r} is" if self.chat else f"{len(turns)} turns before a prompt are"
                raise ValueError(f"{what} for conversations, but the tokenizer has no chat template")
            said = [*turns, {"role": "user", "content": text}]
            text = tokenizer.apply_chat_template(said, add_generation_prompt=True, tokenize=False)
        # a chat template writes its special tokens itself
        return list(tokenizer(text + self.reply, add_special_tokens=not chat)["input_ids"])


def template_names() -> list[str]:
    """The packaged templates."""
    return sorted(path.name.removesuffix(".txt") for path in _HERE.glob("*.txt"))


def load_template(name_or_path: str | Path) -> Template:
    """A packaged template by name, or a file.

    Raises:
        ValueError: there is neither, it is no UTF-8, or has no place for the prompt.
    """
    path = Path(name_or_path)
    if str(name_or_path) in template_names():
        path = _HERE / f"{name_or_path}.txt"
    elif not path.is_file():
        raise ValueError(f"no template {str(name_or_path)!r}; give a file or one of {', '.join(template_names())}")
    # the line break that ends the file is not part of the prompt
    text, _, reply = read_text(path).removesuffix("\n").partition(_REPLY)
    if _FIELD not in text:
        raise ValueError(f"{path} must hold {_FIELD} where the problem goes")
    name = path.name.removesuffix(".txt")
    chat = name.endswith(_CHAT)
    if reply and not chat:
        raise ValueError(f"{path} begins the model's reply, which only conversations have: name it *{_CHAT}.txt")
    return Template(name, text, reply, chat)
