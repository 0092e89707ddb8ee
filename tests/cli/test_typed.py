"""Commands as people type them, right and wrong, with a line of what each says: ``typed.txt``."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
from commands import invoke
from typer.testing import Result

import hf_unmask
from hf_unmask.policy.card.published_results import published_results

PACKAGE = Path(hf_unmask.__file__).parent
SCRIPT = Path(__file__).with_name("typed.txt").read_text("utf-8").splitlines()
CASES = [(SCRIPT[place][2:], SCRIPT[place + 1]) for place, line in enumerate(SCRIPT) if line.startswith("$ ")]
ROWS = [{"question": f"{a}+{b}=", "result": a + b} for a, b in ((3, 4), (5, 8))]

pytestmark = pytest.mark.usefixtures("library_logging")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What lies about where the commands are typed."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for name in ("empty", "parts", "run", "no-tokenizer", "other"):
        (folder / name).mkdir()
    (folder / "run" / "run.json").write_text("{}")
    for split in ("train", "test"):
        (folder / "parts" / f"{split}.csv").write_text("prompt,answer\n3+4=,007\n")
    shutil.copytree(PACKAGE / "policies" / "tiny-full", folder / "policy")
    for name in ("config.json", "model.safetensors"):
        shutil.copy(PACKAGE / "tiny" / "model" / name, folder / "no-tokenizer")
    shutil.copytree(PACKAGE / "tiny" / "model", folder / "other", dirs_exist_ok=True)
    (folder / "other" / "config.json").write_text('{"model_type": "gpt2"}')
    return folder


@pytest.fixture(autouse=True)
def at_the_desk(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk)


def typed(line: str) -> Result:
    """What a command does; behind ``<<<`` stands what is typed into it."""
    words = shlex.split(line)
    given = words.index("<<<") if "<<<" in words else len(words)
    return invoke(words[1:given], "\n".join([*words[given + 1 :], ""]))


def fits(expected: str, said: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, expected.split("..."))), said) is not None


@pytest.mark.parametrize(("line", "expected"), CASES, ids=[line for line, _ in CASES])
def test_a_command_says_what_it_should(line: str, expected: str) -> None:
    result = typed(line)
    lines = [one.rstrip() for one in (result.stdout + result.stderr).splitlines()]
    if expected.startswith("error: "):
        assert (result.exit_code, result.stdout, len(lines)) == (2, "", 1), (result.output, result.exception)
        assert fits(expected, lines[0]), lines[0]
    else:
        assert result.exit_code == 0, (result.output, result.exception)
        assert any(fits(expected, one) for one in lines), result.output


@pytest.mark.parametrize("name", ["tiny-block", "tiny-full", "tiny-semi-ar", "tiny-speed"])
def test_the_card_of_a_packaged_policy_has_its_results(name: str) -> None:
    """`info` showed them, the card did not."""
    shown, results = (
        typed(f"hf-unmask card builtin:{name}").stdout,
        json.loads(typed(f"hf-unmask info builtin:{name} --json").stdout),
    )
    assert [asdict(one) for one in published_results(shown)] == results["results"] != []


def test_there_are_enough_of_both() -> None:
    wrong = [line for line, expected in CASES if expected.startswith("error: ")]
    assert len(wrong) >= 40 and len(CASES) - len(wrong) >= 25 and len({line for line, _ in CASES}) == len(CASES)
