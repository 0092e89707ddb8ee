"""Input that is odd but no attack: other encodings, devices and folders that are not there, clocks set back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import commands
import pytest
import torch
from huggingface_hub import constants
from loopback_hub import LoopbackHub
from report_folder import point, setting

import hf_unmask
from hf_unmask.denoisers.texts import encode_prompts
from hf_unmask.doors.loading import load_denoiser
from hf_unmask.evaluation.problems import load_problems
from hf_unmask.evaluation.prompt_templates import load_template
from hf_unmask.evaluation.scoring import Scorer
from hf_unmask.evaluation.timing import Clock
from hf_unmask.results.records import write_results
from hf_unmask.samplers.pc import surprisals

pytestmark = pytest.mark.usefixtures("library_logging")

GENERATE = ("generate", "--model", "tiny", "--max-new-tokens", "4", "--sampler", "left_to_right:k=4")
EVALUATE = ("evaluate", "--metric", "exact_match", "--max-new-tokens", "4", "--sampler", "left_to_right:k=4")
MARK = b"\xef\xbb\xbf"


def call(*arguments: object, code: int = 0, charset: str = "utf-8") -> Any:
    result = commands.call(*arguments, code=code, charset=charset)
    assert code == 0 or (result.stdout == "" and result.stderr.count("\n") == 1), result.output
    return result


# ------------------------------------------------------------------------------------------------- files and encodings

FORMS = {
    "jsonl": '{"prompt": "é", "answer": "é"}\n',
    "json": '{"prompt": "é", "answer": "é"}\n',
    "csv": "prompt,answer\né,é\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_data_sets_are_utf8_with_or_without_a_mark(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"a.{form}"
    for start in (b"", MARK):
        path.write_bytes(start + FORMS[form].encode())
        (problem,) = load_problems(str(path))
        assert (problem.prompt, problem.answer) == ("é", "é")
    path.write_bytes(FORMS[form].encode("latin-1"))
    line = 2 if form == "csv" else 1
    with pytest.raises(ValueError, match=rf"a\.{form}, line {line} is not UTF-8 .*0xe9.*: save the file as UTF-8"):
        load_problems(str(path))
    assert "is not UTF-8" in call(*EVALUATE, "--dataset", path, code=2).stderr


@pytest.mark.parametrize("content", ["[" * 100_000, '{"prompt": "\\ud8001", "answer": "a"}', '{"prompt": "a"'])
@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_damaged_data_sets_are_one_line(tmp_path: Path, form: str, content: str) -> None:
    path = tmp_path / f"a.{form}"
    path.write_text(content)
    assert len(call(*EVALUATE, "--dataset", path, code=2).stderr) < 500


def test_templates_and_tables_are_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(MARK + "é\r\n{prompt}".encode())
    assert load_template(path).text == "é\n{prompt}"
    path.write_bytes("é{prompt}".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.txt, line 1 is not UTF-8"):
        load_template(path)
    path.write_bytes(b'{"1": 0.5, "\xe9": 1}')
    with pytest.raises(ValueError, match=r"a\.txt, line 1 is not UTF-8"):
        surprisals(str(path))


def test_configs_are_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes("output: é".encode("latin-1"))
    assert "a.yaml is not UTF-8" in call("train", "--config", path, code=2).stderr
    path.write_bytes(MARK + b"output: x\nmax_stepz: 3")
    assert "max_stepz" in call("train", "--config", path, code=2).stderr


def test_arguments_that_are_no_utf8() -> None:
    """What the shell passes on of a Latin-1 terminal."""
    said = call(*GENERATE, "--prompt", "1+1=", "--prompt", os.fsdecode(b"caf\xe9"), code=2).stderr
    assert "prompt 1 holds half a character" in said and "caf\\udce9" in said


def test_half_a_character_in_a_chat() -> None:
    class Chatty:
        chat_template = "{{ messages }}"

        def apply_chat_template(self, turns: Any, **_: Any) -> list[str]:
            return ["".join(turn["content"] for turn in one) for one in turns]

    with pytest.raises(ValueError, match="prompt 1 holds half a character"):
        encode_prompts(Chatty(), ["a", "b\ud800"], system="c")


def test_results_cannot_name_what_is_no_utf8(tmp_path: Path) -> None:
    """An evaluation that ended in an unreadable file after all its work."""
    path = os.fsencode(tmp_path) + b"/caf\xe9.jsonl"
    with open(path, "w") as file:
        file.write('{"prompt": "1+1=", "answer": "2", "task": "a"}\n')
    said = call(*EVALUATE, "--dataset", os.fsdecode(path), "--out", tmp_path / "out", code=2).stderr
    assert "the dataset" in said and "caf\\udce9.jsonl" in said and not (tmp_path / "out").exists()


def test_a_console_that_is_not_utf8_gets_escapes(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"prompt": "1+1=", "answer": "2", "task": "模型é"}))
    shown = call(*EVALUATE, "--dataset", path, charset="cp1252").stdout_bytes.decode("cp1252")
    assert "\\u6a21\\u578bé" in shown
    exact = call(*EVALUATE, "--dataset", path, "--json", charset="cp1252").stdout_bytes.decode("cp1252")
    assert json.loads(exact)["records"][0]["setting"]["task"] == "模型é"
    said = call("generate", "--model", tmp_path / "没有", "--prompt", "a", code=2, charset="cp1252").stderr_bytes
    assert b"\\u6ca1\\u6709" in said


def test_a_real_console_that_is_not_utf8(tmp_path: Path) -> None:
    write_results(tmp_path / "results.json", [point(setting("a", model="模型"), [1.0], 2)])
    command = [sys.executable, "-m", "hf_unmask.cli.main", "transfer", str(tmp_path), "--columns", "model"]
    done = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "cp1252"}, check=True)
    assert b"model: \\u6a21\\u578b" in done.stdout and done.stderr == b""


# ------------------------------------------------------------------------------------------------- machines and clocks


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "nowhere", "cuda:x"])
def test_a_device_that_is_not_there(device: str) -> None:
    assert (
        f"the device '{device}' cannot be used" in call(*GENERATE, "--prompt", "a", "--device", device, code=2).stderr
    )
    with pytest.raises(ValueError, match="cannot be used"):
        load_denoiser("no model is looked for", device=device)


@pytest.mark.slow
def test_a_cache_that_cannot_be_written() -> None:
    code = (
        "from hf_unmask.cli.terminal import plain_errors\nfrom hf_unmask.metrics import load_metric\n"
        "with plain_errors():\n    load_metric('exact_match')\n"
    )
    home = os.devnull + "/cache"  # also root cannot write there
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | {"HF_HOME": home}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode != 0 and f"set HF_HOME, which is {home}" in done.stderr.splitlines()[0]
    assert done.stderr.splitlines()[0].startswith("error: ")


def test_no_duration_is_negative(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([10.0, 4.0, 3.0, 9.0])
    clock = Clock(torch.device("cpu"))
    with monkeypatch.context() as patch:
        patch.setattr(time, "perf_counter", lambda: next(readings))
        start = clock.now()
        with clock.measure("denoiser"):  # set back meanwhile
            pass
        assert clock.split(clock.since(start)) == {"denoiser": 0.0, "sampler": 0.0, "rest": 0.0}


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_is_a_number(score: float) -> None:
    """It ended in an error after all the work, at every try again."""

    class Metric:
        name = "odd"

        def compute(self, predictions: Any, references: Any) -> dict[str, Any]:
            return {"per_sample": [score]}

    with pytest.raises(ValueError, match="metric odd scores an answer (nan|inf)"):
        Scorer(Metric())(["a"], load_problems([{"prompt": "a", "answer": "a"}]))


# ---------------------------------------------------------------------------------------------------------------- pull

PACKAGED = Path(hf_unmask.__file__).parent / "policies" / "tiny-full"
FILES = ("config.json", "model.safetensors")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LoopbackHub]:
    with LoopbackHub() as made:
        template = made.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", made.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        made.add_repository("ann/policy", {name: (PACKAGED / name).read_bytes() for name in FILES})
        yield made


OTHERS: dict[str, dict[str, bytes]] = {
    "another model": {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"weights"},
    "weights alone": {"model.safetensors": b"weights"},
    "a config of something": {"config.json": b'{"debug": true}'},
    "no JSON": {"config.json": b"debug = yes"},
    "a list": {"config.json": b"[1]"},
    "Latin-1": {"config.json": b'{"a": "\xe9"}'},
}


@pytest.mark.parametrize("name", OTHERS)
def test_pull_replaces_no_file_that_is_not_a_policys(hub: LoopbackHub, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for file, content in OTHERS[name].items():
        (folder / file).write_bytes(content)
    said = call("pull", "ann/policy", folder, code=2).stderr
    assert "is no policy's" in said and str(folder) in said and hub.requests == []
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == OTHERS[name]


def test_pull_replaces_an_older_policy_and_nothing_else(hub: LoopbackHub, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(PACKAGED.parent / "tiny-block", folder)
    for other in (".config-mine.json", "notes.txt"):
        (folder / other).write_text("mine")
    (folder / ".config-0123456789abcdef.json").write_text("left by a save that was killed")
    call("pull", "ann/policy", folder)
    assert (folder / "model.safetensors").read_bytes() == (PACKAGED / "model.safetensors").read_bytes()
    here, there = (json.loads((place / "config.json").read_text()) for place in (folder, PACKAGED))
    assert here | {"transformers_version": None} == there | {"transformers_version": None}  # the one that wrote it
    assert (folder / ".config-mine.json").read_text() == (folder / "notes.txt").read_text() == "mine"
    assert not (folder / ".config-0123456789abcdef.json").exists()
