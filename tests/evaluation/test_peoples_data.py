"""Data sets as people have them: numbers for answers, conversations for prompts, folders with splits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hf_unmask.evaluation.problems import fingerprint, load_problems
from hf_unmask.evaluation.prompt_templates import load_template
from hf_unmask.trainers.data import as_dataset

USER, REPLY = {"role": "user", "content": "3+4="}, {"role": "assistant", "content": "7"}
SYSTEM = {"role": "system", "content": "Be brief."}
TEMPLATE = "{% for turn in messages %}{{ turn.role[0] }}:{{ turn.content }};{% endfor %}"


def test_answers_may_be_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "a", "answer": 7}\n{"prompt": "b", "answer": 3.5}\n')
    assert [one.answer for one in load_problems(str(path))] == ["7", "3.5"]
    for wrong in ("true", "NaN", "[7]", "null"):
        path.write_text(f'{{"prompt": "a", "answer": {wrong}}}\n')
        with pytest.raises(ValueError, match="row 0 of the data set needs a text column 'answer'; got "):
            load_problems(str(path))


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_table_is_read_as_it_stands(tmp_path: Path, mark: str) -> None:
    """A library makes 7 of 007 and nothing of None; what only a metric reads stays a number."""
    path = tmp_path / "a.csv"
    path.write_text(f"{mark}prompt,result,weight\n1,007,2\n2,3.50,3\n3,None,4\n", encoding="utf-8")
    found = load_problems(str(path), columns={"answer": "result"})
    assert [(one.prompt, one.answer) for one in found] == [("1", "007"), ("2", "3.50"), ("3", "None")]
    assert [one.columns["weight"] for one in found] == [2, 3, 4]
    path.write_text("prompt,answer\na,\n")
    with pytest.raises(ValueError, match="needs a text column 'answer'; got None"):
        load_problems(str(path))


@pytest.mark.parametrize(
    ("row", "meant"),
    [
        ({"question": "a", "answer": "b"}, "prompt=question"),
        ({"prompt": "a", "final_answer": "b", "id": 1}, "answer=final_answer"),
        ({"a": "b"}, "prompt=COLUMN"),
    ],
)
def test_a_missing_column_is_guessed_at(row: dict[str, Any], meant: str) -> None:
    with pytest.raises(ValueError, match=f"it has {', '.join(row)}: say which one it is with `columns`, e.g. {meant}$"):
        load_problems([row])


@pytest.mark.parametrize(
    ("row", "turns"),
    [
        ({"messages": [USER, REPLY]}, ()),
        ({"messages": [SYSTEM, USER], "answer": 7}, (SYSTEM,)),
        ({"prompt": [USER, REPLY, USER], "answer": "7"}, (USER, REPLY)),
        ({"prompt": [USER, REPLY]}, ()),
        ({"messages": [USER, {**REPLY, "content": "wrong"}], "answer": "7"}, ()),
    ],
)
def test_prompts_may_be_conversations(row: dict[str, Any], turns: tuple[Any, ...]) -> None:
    (problem,) = load_problems([row])
    assert (problem.prompt, problem.answer, problem.turns) == ("3+4=", "7", turns)


@pytest.mark.parametrize("turns", [[], [REPLY], [SYSTEM], ["3+4="], [{"role": "user"}]])
def test_conversations_that_ask_nothing(turns: list[Any]) -> None:
    with pytest.raises(ValueError, match="row 0 of the data set: .* turn .* got "):
        load_problems([{"prompt": turns, "answer": "7"}])


def test_earlier_turns_reach_the_model(tiny: Any) -> None:
    _, tokenizer = tiny
    rows = [{"prompt": [SYSTEM, USER], "answer": "7"}]
    (problem,), (bare,) = load_problems(rows), load_problems([{**rows[0], "prompt": [USER]}])
    assert fingerprint([problem]) != fingerprint([bare])
    template = load_template("plain")
    assert template.ids(tokenizer, bare.prompt, bare.turns) == tokenizer("3+4=")["input_ids"]
    with pytest.raises(ValueError, match="1 turns before a prompt are for conversations, but the tokenizer has no"):
        template.ids(tokenizer, problem.prompt, problem.turns)
    with pytest.raises(ValueError, match="the prompts are for conversations, but the tokenizer has no chat template"):
        as_dataset([{"prompt": "3+4=", " turns": [SYSTEM]}], template, tokenizer)
    tokenizer.chat_template = TEMPLATE
    try:
        whole = template.ids(tokenizer, problem.prompt, problem.turns)
        trained = as_dataset([{"prompt": "3+4=", " turns": [SYSTEM]}, {"prompt": "1+1="}], template, tokenizer)
    finally:
        tokenizer.chat_template = None
    assert whole == tokenizer("s:Be brief.;u:3+4=;", add_special_tokens=False)["input_ids"]
    assert trained["prompt"] == [[SYSTEM, USER], [{"role": "user", "content": "1+1="}]]
    assert trained.column_names == ["prompt"]


def test_folders_have_splits(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    splits = {name: datasets.Dataset.from_list([{"prompt": name, "answer": "1"}]) for name in ("train", "test")}
    saved, files = tmp_path / "saved", tmp_path / "files"
    datasets.DatasetDict(splits).save_to_disk(saved)
    files.mkdir()
    for name in splits:
        (files / f"{name}.jsonl").write_text(json.dumps({"prompt": name, "answer": "1"}))
    for folder in (saved, files):
        assert [one.prompt for one in load_problems(f"{folder}:test")] == ["test"]
        with pytest.raises(ValueError, match="train.*test"):
            load_problems(str(folder))
        with pytest.raises(ValueError, match="tset.*train.*test"):
            load_problems(f"{folder}:tset")
    for missing in ("./no/such", "rows.jsonl:train", "rows.csv"):
        with pytest.raises(ValueError, match=f"no file or folder '{missing.partition(':')[0]}'"):
            load_problems(missing)
    with pytest.raises(ValueError, match="needs the split that is meant: org/name:SPLIT or org/name:CONFIG:SPLIT"):
        load_problems("org/name")
