"""Model cards: what they say comes from records, is valid for the Hub, and claims nothing that was not measured."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from commands import call
from hub_client import policy_of
from huggingface_hub import ModelCard
from loopback_hub import front_matter
from report_folder import point, setting, shares, with_well_formed, write

from hf_unmask.policy import save_policy
from hf_unmask.policy.card.measured import read_measured
from hf_unmask.policy.card.metadata import retagged
from hf_unmask.policy.card.published_results import PublishedResult, published_results
from hf_unmask.policy.card.rendering import folder_card, render_card
from hf_unmask.policy.card.seal import is_rendered, seal
from hf_unmask.policy.hub.drop_in import DROP_IN_TAG
from hf_unmask.results.records import read_results, write_results
from hf_unmask.results.spec_text import quoted

RECORD = {"base_model": "org/denoiser", "mask_token_id": 7, "block_length": None, "max_new_tokens": 16}


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    return write(tmp_path_factory.mktemp("evaluation"), ["sums", "puzzles"])


@pytest.fixture
def policy():
    return policy_of(**RECORD, lineage=["org/first@abc", "<b>second</b>"], dataset="openai/gsm8k:main:train")


def rewritten(folder: Path, path: Path, **changes) -> Path:
    """The results of a folder, with fields of the settings changed; without answers."""
    path.mkdir()
    points = read_results(folder / "results.json")
    write_results(path / "results.json", [replace(p, setting=replace(p.setting, **changes)) for p in points])
    return path


def test_a_card_without_results_claims_nothing(policy):
    """Numbers of another policy, or metadata that make the Hub list results."""
    text = render_card(policy)
    data = front_matter(text)
    assert "No measured results are given here" in text and "%" not in text
    assert not {"model-index", "metrics", "license"} & data.keys()
    assert data["base_model"] == "org/denoiser" and data["base_model_relation"] == "adapter"
    assert data["library_name"] == "hf-unmask" and "hf-unmask" in data["tags"] and "grpo" not in data["tags"]
    assert data["datasets"] == ["openai/gsm8k"]
    assert f"{policy.num_parameters():,} parameters" in text
    assert "none: full diffusion" in text and "max_new_tokens=16, block_length=None" in text
    assert "1. `org/first@abc`\n2. `<b>second</b>`" in text
    assert "settings of the training were not saved" in text and "not all recorded" not in text


def test_a_model_without_a_repository_is_no_base_model():
    """A link to somebody else's repository, or to none."""
    for name in ("tiny", "my model", "/home/me/model"):
        text = render_card(policy_of(base_model=name))
        assert not {"base_model", "base_model_relation"} & front_matter(text).keys()
        assert f"`{name}`" in text and "not all recorded" in text


def test_metadata_is_valid_and_holds_every_operating_point(policy, evaluation):
    """Metadata that the Hub rejects, or results of heuristics published as the policy's."""
    text = render_card(policy, results=evaluation, license="apache-2.0", recipe={"seed": 3, "hub_token": "hf_secret"})
    data = ModelCard(text).data
    assert data.license == "apache-2.0" and data.metrics == ["exact"] and {"grpo", "trl"} <= set(data.tags)
    found = {(r.task_name, r.metric_type, r.metric_value) for r in data.eval_results}
    expected = {
        (p.setting.task, kind, value)
        for p in read_results(evaluation / "results.json")
        if "learned" in p.setting.sampler
        for kind, value in (("accuracy", p.accuracy), ("nfe", p.nfe_mean))
    }
    assert found == expected and len(data.eval_results) == 8
    assert "hf_secret" not in text and "| `seed` | `3` |" in text


def test_a_second_metric_stands_beside_the_accuracy(policy, tmp_path):
    """A card that shows the metric under which the policy looks best, or does not say what its figures count."""
    text = render_card(policy, results=with_well_formed(write(tmp_path)))
    assert "| accuracy | well_formed | NFE" in text and "| 30.0 [20.0, 40.0] | 15.0 [0.0, 30.0] | 4.0" in text
    assert "- `exact`, the accuracy of sums.\n- `well_formed`: the final answer is right, every written step" in text
    data = ModelCard(text).data
    assert data.metrics == ["exact", "well_formed"]
    values = {r.metric_name.split()[0]: r.metric_value for r in data.eval_results if "blocks" in r.metric_name}
    assert values == {"exact": 0.3, "well_formed": 0.15, "forward": 4}


def test_the_body_compares_at_equal_settings(policy, evaluation):
    """A policy that loses, shown as if it won; verdicts without the answers they need."""
    text = render_card(policy, results=evaluation)
    assert "`learned:<org/name>;speed=0.5` | sums | tiny | blocks of 8 | 16 | 30.0 [20.0, 40.0] | 4.0" in text
    assert "90.0 (4.0) [80.0, 100.0] `confidence:k=4`, blocks of 8" in text and "not distinguishable" in text
    assert "### Across settings" in text and "| learned:<org/name>;speed=0.5 | 77.5 % @ 4.0 |" in text
    assert "Measured with torch 2.13, commit abc, date 2026-12-01." in text


def test_what_is_missing_is_said(policy, evaluation, tmp_path):
    """An empty table, a verdict out of nothing, a heuristic that was never run."""
    text = render_card(policy, results=rewritten(evaluation, tmp_path / "no answers", temperature=0.0))
    assert "not compared" in text and "not distinguishable" not in text
    (tmp_path / "alone").mkdir()
    alone = [replace(point(setting("learned:policy"), shares(3, 4), 4.0), environment={})]
    write_results(tmp_path / "alone" / "results.json", alone)
    text = render_card(policy, results=tmp_path / "alone")
    assert "No heuristic was measured" in text and "### Across settings" not in text
    assert "versions and hardware that were not recorded" in text


@pytest.mark.parametrize("run", ["/home/me/run", "/home/me/run 2;x", '/home/me/my "run" (2)', "/home/me/a=0..1/2"])
def test_no_path_of_the_machine_is_published(policy, evaluation, tmp_path, run):
    """The name of a user, or of a secret project, in a public card."""
    folder = rewritten(
        *(evaluation, tmp_path / "paths"),
        **{"model": "/home/me/denoiser", "dataset": "/home/me/data.jsonl", "metric": "/home/me/exact.py"},
    )
    points = read_results(folder / "results.json")
    local = [replace(p.setting, sampler=p.setting.sampler.replace(":policy", f":{quoted(run)}")) for p in points]
    write_results(folder / "results.json", [replace(p, setting=s) for p, s in zip(points, local, strict=True)])
    text = render_card(policy, results=folder, name=run, recipe={"output_dir": run, "seed": 1})
    assert "`learned:<org/name>;speed=0.5` | sums" in text
    assert "/home/me" not in text and "| denoiser |" in text and front_matter(text)["metrics"] == ["exact"]


def test_results_of_several_policies_need_the_right_name(policy, evaluation, tmp_path):
    """Numbers of another policy in this one's card."""
    points = read_results(evaluation / "results.json")
    other = [replace(p, accuracy=0.01, setting=replace(p.setting, sampler="learned:other")) for p in points[:1]]
    write_results(tmp_path / "results.json", [*points, *other])
    with pytest.raises(ValueError, match="policy, other.*none called 'mine'"):
        render_card(policy, results=tmp_path, name="mine")
    assert "`learned:<org/name>` | sums | tiny | full diffusion | 16 | 1.0 [" in render_card(
        policy, results=tmp_path, name="other"
    )
    write_results(tmp_path / "results.json", [p for p in points if "learned" not in p.setting.sampler])
    with pytest.raises(ValueError, match="no results of a policy"):
        render_card(policy, results=tmp_path)
    with pytest.raises(ValueError, match="results.json"):
        render_card(policy, results=tmp_path / "nowhere")


def test_a_benchmark_needs_its_form_and_its_results(evaluation):
    """An entry on a public leaderboard with a value measured on something else."""
    measured = read_measured(evaluation, None, "org/policy")
    for wrong in ("gsm8k", "openai/gsm8k", "openai/gsm8k:a/../b"):
        with pytest.raises(ValueError, match="ORG/DATASET:TASK_ID"):
            measured.benchmark_file(wrong)
    with pytest.raises(ValueError, match="only on problems"):
        measured.benchmark_file("openai/gsm8k:gsm8k")


def test_a_hand_edited_card_is_known(policy):
    """Edits that a new rendering deletes."""
    text = render_card(policy)
    assert is_rendered(text) and seal(text) == text
    for edited in (text + "more\n", text.replace("## Limits", "## Limit"), "by hand", text.rpartition("\n<!--")[0]):
        assert not is_rendered(edited)


def test_the_card_of_a_folder(policy, evaluation, tmp_path):
    """A card that is rendered over a written one, or an old rendering that hides new results."""
    save_policy(policy, tmp_path)
    (tmp_path / "training_args.json").write_text(json.dumps({"seed": 11, "output_dir": "/x"}))
    rendered = folder_card(policy, tmp_path)
    assert "| `seed` | `11` |" in rendered and "/x" not in rendered
    (tmp_path / "README.md").write_text(rendered)
    assert folder_card(policy, tmp_path) == rendered
    assert "### Against heuristics" in folder_card(policy, tmp_path, results=evaluation)
    (tmp_path / "README.md").write_text("by hand")
    assert folder_card(policy, tmp_path) == "by hand"
    with pytest.raises(ValueError, match="edited by hand"):
        folder_card(policy, tmp_path, results=evaluation)
    (tmp_path / "training_args.json").write_text("[]")
    (tmp_path / "README.md").unlink()
    with pytest.raises(ValueError, match="training_args.json.*found list, expected a JSON object"):
        folder_card(policy, tmp_path)


def test_command_card(policy, evaluation, tmp_path, library_logging):
    """A command that prints something else than the card, or writes over a file of the user's."""
    save_policy(policy, tmp_path / "policy")
    output = tmp_path / "README.md"

    card = ["card", tmp_path / "policy"]
    done = call(*card, "--results", evaluation, "--license", "mit")
    assert done.stdout == render_card(policy, results=evaluation, license="mit")
    for _ in range(2):
        call(*card, "--output", output)
    assert output.read_text() == render_card(policy)
    output.write_text("mine")
    done = call(*card, "--output", output, code=2)
    assert "edited by hand" in done.stderr and output.read_text() == "mine"


# With code for transformers


def test_a_card_tells_of_code_only_if_there_is_some(policy, tmp_path):
    """Catches a snippet that cannot work, and a repository with code that nobody finds by its tag."""
    call = 'custom_generate="<org/name>", trust_remote_code=True)'
    plain, telling = render_card(policy), folder_card(policy, tmp_path, tags=[DROP_IN_TAG])
    assert call in telling and DROP_IN_TAG in front_matter(telling)["tags"]
    assert DROP_IN_TAG not in plain and is_rendered(plain) and is_rendered(telling)


@pytest.mark.parametrize("edited", [False, True])
def test_a_given_card_gets_and_loses_the_tag_and_stays_what_it_was(policy, evaluation, edited):
    """Catches an edited card that counts as rendered afterwards, or the reverse, and other metadata that are lost."""
    card = render_card(policy, results=evaluation) + ("\nBy hand.\n" if edited else "")
    tagged = retagged(card, DROP_IN_TAG, wanted=True)
    before, after = front_matter(card), front_matter(tagged)
    assert after == {**before, "tags": [*before["tags"], DROP_IN_TAG]}
    assert is_rendered(tagged) is not edited and retagged(tagged, DROP_IN_TAG, wanted=True) == tagged
    assert retagged(tagged, DROP_IN_TAG, wanted=False) == card


@pytest.mark.parametrize("wanted", [True, False])
def test_a_card_without_metadata_stays_as_it_is(wanted):
    """Catches metadata that nobody wrote."""
    card = "# By hand, about custom_generate\n"
    assert retagged(card, DROP_IN_TAG, wanted=wanted) == card


def test_metadata_that_cannot_be_read_are_no_traceback():
    with pytest.raises(ValueError, match="metadata of the card cannot be read"):
        retagged("---\ntags: [\n---\n# Card\n", DROP_IN_TAG, wanted=True)


def test_results_can_be_read_back(policy, evaluation):
    found = published_results(render_card(policy, results=evaluation))
    assert len(found) == 8 and found[0].metric.startswith("exact (learned:<org/name>")
    assert {result.value for result in found} >= {"0.3", "4"}


HOSTILE = {
    "no metadata": "# Title",
    "not YAML": "---\na: [\n---\n",
    "too deep": f"---\nmodel-index: {'[' * 5000}{']' * 5000}\n---\n",
    "a number of many digits": "---\nmodel-index: 1" + "0" * 5000 + "\n---\n",
    "no list": "---\nmodel-index: 3\n---\n",
    "lists of nothing": "---\nmodel-index: [1, {results: [{metrics: [x, null]}, 2]}]\n---\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_metadata_of_another_form_hold_no_results(name):
    assert published_results(HOSTILE[name]) == []


def test_what_a_hostile_card_claims_is_shortened_and_moves_no_cursor():
    """Escape sequences, values that cannot be formatted, and a list that would fill the screen."""
    metrics = f'{{name: "a\\e[2J", value: {"1" * 400}}}, {{name: {"n" * 300}, value: 0x{"f" * 300}}}'
    text = (
        f"---\nmodel-index: [{{results: [{{dataset: {{name: [1]}}, metrics: [{', '.join([metrics] * 150)}]}}]}}]\n---\n"
    )
    found = published_results(text)
    long = PublishedResult("-", "n" * 200 + "...", "0x" + "f" * 198 + "...")
    assert len(found) == 200 and set(found) == {PublishedResult("-", "a\\x1b[2J", "-"), long}


#: Values of another type than they claim: each ends PyYAML's own loaders in an error of its own kind.
MISTYPED = ("!!bool maybe", "!!int ''", "!!timestamp a", "2026-13-45", "!!float x", '!!binary "\xe9"', "!!omap [1]")
MISTYPED += ("1:" + "59:" * 1500 + "5", "1" * 5000, "!!python/object/apply:os.abort []", "!unknown x", "=", "{<<: 3}")
CLAIM = "model-index: [{results: [{dataset: {name: sums}, metrics: [{type: accuracy, value: 0.25}]}]}]"


@pytest.mark.parametrize("value", MISTYPED)
def test_values_are_read_as_text_whatever_they_claim_to_be(value):
    card = f"---\nx: {value}\n{CLAIM}\n---\n# Card\n"
    assert published_results(card) == [PublishedResult("sums", "accuracy", "0.25")]
    tagged = retagged(card, DROP_IN_TAG, wanted=True)
    assert tagged == card.replace("\n---\n#", f"\ntags:\n- {DROP_IN_TAG}\n---\n#")


def bomb(levels: int, width: int, line: str) -> str:
    """Every level stands for many of the level before."""
    lines = [line.format(n, ", ".join([f"*a{n - 1}"] * width)) for n in range(1, levels)]
    return "\n".join(["a0: &a0 {k: v}", *lines])


BOMBS = {
    "merge keys": bomb(9, 9, "a{0}: &a{0} {{<<: [{1}]}}"),
    "aliases": bomb(9, 9, "a{0}: &a{0} [{1}]"),
    "an alias of itself": "a: &a [*a]",
    "many levels": "a: " + "[" * 30_000,
    "many levels of lines": "- " * 30_000,
    "many values": "a: [" + "b," * 100_000 + "]",
    "a long text": "a: " + "b" * 300_000,
    "a key that is a list": "? [a]\n: b",
    "a key that is a dict": "{{a: b}: c}",
    "two documents": "a: b\n--- c",
}


@pytest.mark.parametrize("name", BOMBS)
def test_much_out_of_little_is_not_read(name):
    """469 bytes with merge keys took PyYAML 81 seconds."""
    card = f"---\n{CLAIM}\n{BOMBS[name]}\n---\n# Card\n"
    began = time.process_time()
    assert published_results(card) == []
    with pytest.raises(ValueError, match="metadata of the card cannot be read: ") as caught:
        retagged(card, DROP_IN_TAG, wanted=True)
    assert time.process_time() - began < 4 and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("tags", "tagged"),
    {
        "tags: [a, 'b: c']  # d": "tags: [a, 'b: c', custom_generate]  # d",
        "tags:\n  - a  # d\n  - 1": "tags:\n  - a\n  - '1'\n  - custom_generate",
        "tags: &t\n- a": "tags: [a, custom_generate]",
        "tags: a": "tags: [a, custom_generate]",
        "tags:": "tags: [custom_generate]",
        "tags: [x]\ntags: [y]": "tags: [x]\ntags: [y, custom_generate]",
    }.items(),
)
def test_only_the_list_of_tags_is_written_anew(tags, tagged):
    """Comments, order and form of what somebody wrote are lost."""
    card = "---\nz:   1  # kept\n{}\na: 010\n---\n# Card\n"
    assert retagged(card.format(tags), DROP_IN_TAG, wanted=True) == card.format(tagged)
    without = retagged(card.format(tagged), DROP_IN_TAG, wanted=False)
    assert DROP_IN_TAG not in without and front_matter(without)["a"] == 8


@pytest.mark.parametrize("metadata", ["[1]", "text", "tags: {a: b}", "tags: [[a]]", "{a: b}"])
def test_tags_that_have_no_place_are_an_error(metadata):
    with pytest.raises(ValueError, match="metadata of the card cannot be read: "):
        retagged(f"---\n{metadata}\n---\n", DROP_IN_TAG, wanted=True)
