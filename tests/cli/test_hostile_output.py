"""What strangers wrote reaches the terminal as text only, and results that name things run and fetch nothing."""

from __future__ import annotations

import ast
import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from commands import call
from huggingface_hub import constants
from loopback_hub import LoopbackHub
from report_folder import point, samples, setting
from rich.console import Console

import hf_unmask.cli
import hf_unmask.tiny
from hf_unmask.cli.terminal_canvas import watching
from hf_unmask.cli.watch import events
from hf_unmask.results.records import sample_line, write_results

pytestmark = pytest.mark.usefixtures("library_logging")

#: Clears the screen, writes to the clipboard, turns text round, forges a line.
BAD = "\x1b[2J\x1b]52;c;YQ==\x07\u202e\nforged"
SHOWN = "\\x1b[2J\\x1b]52;c;YQ==\\x07\\u202e\\nforged"
CLI = Path(hf_unmask.cli.__file__).parent


def assert_harmless(text: str, shown: str = SHOWN) -> None:
    assert shown in text
    assert all(c.isprintable() for line in text.split("\n") for c in line), ascii(text)
    assert not [line for line in text.splitlines() if line.startswith("forged")]


# ------------------------------------------------------------------------------------------------------- the mechanism


@pytest.mark.parametrize("path", sorted(CLI.glob("*.py")), ids=lambda path: path.stem)
def test_commands_print_through_one_door(path: Path) -> None:
    """`say`, `say_prose`, `styled` and `print_json` of `terminal` make texts printable; nothing goes past them."""
    doors = {"terminal": {"typer.echo", "Text", "json.dumps"}, "terminal_canvas": {"Text", "Text.assemble"}}
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        printers = ("echo", "secho", "write", "print", "Text", "Text.assemble", "json.dumps")
        if name in doors.get(path.stem, ()) or name.rpartition("typer.")[2] not in printers and ".print" not in name:
            continue
        first = ast.unparse(node.args[0])
        assert name.endswith(".print") and first in ("table", "line"), f"{path.name}:{node.lineno} prints {first}"


# --------------------------------------------------------------------------------------------------------- the commands


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    with LoopbackHub() as made:
        monkeypatch.setattr(constants, "ENDPOINT", made.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", made.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield made


def test_search(hub: LoopbackHub) -> None:
    card = json.dumps({"tags": ["hf-unmask"], "base_model": f"org/a{BAD}"})
    hub.add_repository("ann/policy", {"README.md": f"---\n{card}\n---\n".encode()})
    assert_harmless(call("search").stdout)
    exact = call("search", "--json").stdout
    assert json.loads(exact)["policies"][0]["base_model"] == [f"org/a{BAD}"] and "\x1b" not in exact
    assert exact.count("\n") == 1 and "\u202e" not in exact


def test_info(tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    shutil.copytree(Path(hf_unmask.__file__).parent / "policies" / "tiny-full", folder)
    entry = {"dataset": {"name": BAD}, "metrics": [{"name": BAD, "value": BAD}]}
    (folder / "README.md").write_text(f"---\n{json.dumps({'model-index': [{'results': [entry]}]})}\n---\n", "utf-8")
    (folder / f"a{BAD}.py").write_text("")
    out = call("info", folder).stdout
    assert_harmless(out)
    assert out.count(SHOWN) == 4
    assert json.loads(call("info", folder, "--json").stdout)["code"] == [f"a{BAD}.py"]


def test_errors() -> None:
    for command in (["info", f"./no{BAD}"], ["generate", "--model", f"./no{BAD}", "--prompt", "a"]):
        result = call(*command, code=2)
        assert result.stderr.count("\n") == 1 and result.stderr.startswith("error: ")
        assert all(c.isprintable() for c in result.stderr.removesuffix("\n"))
    endless = call("generate", "--model", "tiny", "--prompt", "a", "--sampler", "x" * 100_000, code=2).stderr
    assert len(endless) < 5000


def test_evaluate(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps({"prompt": "1+1=", "answer": "2", "task": BAD}) + "\n")
    options = ("--metric", "exact_match", "--max-new-tokens", 4, "--sampler", "left_to_right:k=4")
    assert_harmless(call("evaluate", "--dataset", path, *options).stdout, "\\x1b[2J")


@pytest.fixture(scope="module")
def hostile_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model with a tokenizer whose digits are escape sequences."""
    folder = tmp_path_factory.mktemp("hostile") / "model"
    shutil.copytree(Path(hf_unmask.tiny.__file__).parent / "model", folder)
    content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    vocabulary = {(f"\u011b[2J{t}" if t.isdigit() else t): i for t, i in content["model"]["vocab"].items()}
    content["model"] |= {"vocab": vocabulary, "merges": []}
    (folder / "tokenizer.json").write_text(json.dumps(content), "utf-8")  # \u011b stands for the byte 0x1b
    return folder


def test_generate(hostile_model: Path) -> None:
    command = ("generate", "--model", hostile_model, "--prompt", "+=", "--max-new-tokens", 12)
    assert_harmless(call(*command).stdout, "\\x1b[2J")
    assert_harmless(call(*command, "--watch").stdout, "\\x1b[2J")
    exact = call(*command, "--json").stdout
    assert "\x1b[2J" in json.loads(exact)["results"][0]["text"] and "\x1b" not in exact


@pytest.fixture
def hostile_results(tmp_path: Path, hostile_model: Path) -> Path:
    of = replace(setting(f"confidence{BAD}", task=BAD), model=str(hostile_model))
    write_results(tmp_path / "results.json", [point(of, [1.0], 2)])
    stored = [replace(sample, tokens=[18 + place % 10 for place in range(16)]) for sample in samples(of, [1.0], 2)]
    (tmp_path / "samples.jsonl").write_text("".join(map(sample_line, stored)), "utf-8")
    return tmp_path


def test_watch(hostile_results: Path) -> None:
    out = call("watch", hostile_results).stdout
    assert_harmless(out)
    assert "\\x1b[2J3" in out  # a token
    assert_harmless(call("watch", hostile_results, "--task", "x", code=2).stderr, "there are \\x1b[2J")


def test_watch_on_a_terminal(hostile_results: Path) -> None:
    class Escapes:
        all_special_ids = ()

        def decode(self, tokens: list[int]) -> str:
            return BAD * len(tokens)

    of = setting("a")
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, color_system="standard", width=300)
    with watching(console, Escapes(), [BAD]) as show:
        for event in events(samples(of, [1.0], 2)):
            show(event)
    made = file.getvalue()
    assert SHOWN in made and "\x1b[2J" not in made and "\x1b]52" not in made and "\u202e" not in made


def test_transfer(hostile_results: Path) -> None:
    assert_harmless(call("transfer", hostile_results, "--columns", "task,model").stdout, "\\\\x1b\\[2J")


def test_report_files(hostile_results: Path) -> None:
    html = "<img src=x onerror=alert(1)>"
    of = [setting(f"=x;{html}|`", task=f"+{html}|[a](b)\n# forged"), setting("b", task=f"+{html}|[a](b)\n# forged")]
    write_results(hostile_results / "results.json", [point(one, [1.0, 0.0], 2) for one in of])
    call("report", hostile_results)
    tables = (hostile_results / "tables.md").read_text("utf-8")
    assert "<" not in tables and "\n# forged" not in tables and "[a](b)" not in tables.replace("\\[a\\](b)", "")
    rows = [line for line in tables.splitlines() if line.startswith("| `b`")]
    assert rows and all(row.count(" | ") == 5 for row in rows)
    csv = (hostile_results / "results.csv").read_text("utf-8")
    assert csv.count("\n") == 3 and "\"'=x;" in csv and "\"'+<img" in csv


# -------------------------------------------------------------------------------------------------------- tokenizers


def with_model(folder: Path, model: str) -> Path:
    of = setting("a", model=model)
    write_results(folder / "results.json", [point(of, [1.0], 2)])
    (folder / "samples.jsonl").write_text(sample_line(samples(of, [1.0], 2)[0]), "utf-8")
    return folder


@pytest.mark.parametrize("command", ["report", "watch"])
def test_a_name_in_a_file_is_not_fetched(tmp_path: Path, hub: LoopbackHub, command: str) -> None:
    """A stranger's results would make the reader's machine ask for the stranger's repository."""
    result = call(command, with_model(tmp_path, "ann/tokenizer"))
    assert result.stderr == "tokens are shown as ids (or give --tokenizer), 'ann/tokenizer' is no folder here\n"
    assert hub.requests == []
    named = call(command, tmp_path, "--tokenizer", "ann/tokenizer", code=2)  # asked for, and not there
    assert hub.requests and "ann/tokenizer" in named.stderr and named.stderr.count("\n") == 1


@pytest.fixture
def with_code(tmp_path: Path) -> Path:
    """A tokenizer that comes with code of its own."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    mapping = {"AutoTokenizer": [None, "own.Own"]}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Own", "auto_map": mapping}))
    source = "from transformers import BertTokenizer\nopen({!r}, 'w').close()\nclass Own(BertTokenizer): pass\n"
    (folder / "own.py").write_text(source.format(str(tmp_path / "canary")))
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrst"]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    return folder


def test_no_code_of_a_tokenizer_runs_unless_it_is_trusted(
    tmp_path: Path, with_code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("transformers asked whether to run code"))
    folder = with_model(tmp_path, str(with_code))
    for command in ("watch", "report"):
        result = call(command, folder)
        assert "tokens are shown as ids (or give --tokenizer)" in result.stderr and result.stderr.count("\n") == 1
        refused = call(command, folder, "--tokenizer", with_code, code=2)
        assert "--trust-remote-code" in refused.stderr and refused.stderr.count("\n") == 1
    assert not (tmp_path / "canary").exists()
    call("watch", folder, "--tokenizer", with_code, "--trust-remote-code")
    assert (tmp_path / "canary").exists()


def test_a_folder_on_this_machine_gives_its_tokenizer(tmp_path: Path) -> None:
    folder = with_model(tmp_path, str(Path(hf_unmask.tiny.__file__).parent / "model"))
    result = call("watch", folder)
    assert result.stderr == "" and "step   1  !\"#$%&'()*+,-_" not in result.stdout and '!"#' in result.stdout


@pytest.mark.parametrize("model", ["", "x" * 5000, "\0", "~nobody/at/all", "../../etc/passwd"])
def test_odd_names_of_models_leave_ids(tmp_path: Path, model: str) -> None:
    assert "tokens are shown as ids" in call("watch", with_model(tmp_path, model)).stderr


def test_a_damaged_tokenizer_is_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(Path(hf_unmask.tiny.__file__).parent / "model", broken)
    (broken / "tokenizer.json").write_text('{"version": "1.0", "model": 3}')
    folder = with_model(tmp_path, str(broken))
    implied, named = call("watch", folder).stderr, call("watch", folder, "--tokenizer", broken, code=2).stderr
    assert implied.count("\n") == named.count("\n") == 1 and "broken" in implied and "broken" in named


def test_no_call_of_transformers_leaves_open_whether_code_runs() -> None:
    """Without an answer transformers asks on the terminal."""
    root = CLI.parents[1]
    for path in sorted([*CLI.parent.rglob("*.py"), *(root / "trainers").glob("*.py")]):
        source = path.read_text("utf-8")
        if "from_pretrained" not in source and "from_config" not in source:
            continue
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            owner = ast.unparse(node.func.value)
            if node.func.attr in ("from_pretrained", "from_config") and (
                owner.startswith(("Auto", "auto_")) or "entry" in owner
            ):
                assert "trust_remote_code" in {one.arg for one in node.keywords}, f"{path.name}:{node.lineno}"


# ---------------------------------------------------------------------------------------------------- other encodings


def test_a_stream_of_another_encoding_loses_nothing(tmp_path: Path) -> None:
    """A console of Windows: what it cannot show is escaped, not an error after all the work is done."""
    folder = with_model(tmp_path, "org/模型")
    result = call("transfer", folder, "--columns", "model", charset="cp1252")
    assert "model: org/\\u6a21\\u578b" in result.stdout_bytes.decode("cp1252")
    assert b"\\u6a21" in call("watch", folder, charset="cp1252").stderr_bytes
