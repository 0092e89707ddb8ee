"""The evaluation engine on tiny models: what is measured, that it resumes, that processes do not matter."""

from __future__ import annotations

import io
import json
import re
import shutil
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from commands import call
from evaluation_run import ROWS, SAMPLERS, run, tiny_tokenizer
from forked import Forked, launch
from models import tiny_eurobert
from operating_points import SETTING
from transformers import GenerationConfig

from hf_unmask.denoisers.adapter import Denoiser
from hf_unmask.evaluation.planning import is_stochastic, row_seed
from hf_unmask.evaluation.problems import load_problems, name_of
from hf_unmask.evaluation.prompt_templates import load_template, template_names
from hf_unmask.evaluation.scoring import TINY_METRICS, by_rank
from hf_unmask.evaluation.storage import check_manifest
from hf_unmask.evaluation.timing import Clock, TimedDenoiser, TimedSampler
from hf_unmask.generation.loop import generate
from hf_unmask.results.aggregation import aggregate
from hf_unmask.results.records import Sample, Setting, Timing, comparable, read_results, read_samples, read_timings
from hf_unmask.samplers import EosSuppressSampler, RandomSampler, ThresholdSampler

SETTINGS = 2 * 2 * len(SAMPLERS)  # tasks, block lengths
ANSWERS = 8 * 2 * (2 + 1 + 1)  # prompts, block lengths, seeds of the samplers


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    run(folder)
    return folder


def assert_same(folder: Path, other: Path) -> None:
    assert (folder / "samples.jsonl").read_bytes() == (other / "samples.jsonl").read_bytes()
    points, others = (read_results(place / "results.json") for place in (folder, other))
    assert [comparable(point) for point in points] == [comparable(point) for point in others]
    timed = [[(t.setting, t.seed, t.prompt_ids) for t in read_timings(f / "timings.jsonl")] for f in (folder, other)]
    assert timed[0] == timed[1]
    assert not list(folder.glob("*.part*")) and not list(folder.glob("*.tmp"))


def sample(prompt_id: int, score: float, nfe: int, seed: int = 0, draw: int = 0, **values: Any) -> Sample:
    defaults = {"answer_length": 2, "tokens": [5, 6, 1, 1], "step_map": [0, 0, 1, -1], "text": "", "steps": nfe}
    return Sample(Setting(**SETTING), prompt_id, seed, draw, score, nfe, **(defaults | values))


@pytest.mark.slow
def test_greedy_and_full_diffusion_whatever_the_model_says(whole: Path, tmp_path: Path) -> None:
    """A model whose own config draws tokens, or decodes in blocks, where the evaluation's record says otherwise."""
    drawing = tiny_eurobert(torch.float64)
    drawing.generation_config = GenerationConfig(do_sample=True, temperature=3.0, block_length=2)
    run(tmp_path, model=drawing)
    assert_same(whole, tmp_path)


# -------------------------------------------------------------------------------------------------------- aggregation


def test_aggregation_by_hand():
    """Two prompts, two seeds. Prompt 0: right, wrong; prompt 1: right twice."""
    samples = [sample(0, 1, 2), sample(1, 1, 4), sample(0, 0, 6, seed=1), sample(1, 1, 8, seed=1)]
    timing = Timing(Setting(**SETTING), 0, [0, 1], denoiser=1.0, sampler=0.5, rest=0.5)
    (point,) = aggregate(samples, [timing, replace(timing, seed=1, denoiser=3.0)], {"threads": 1})
    assert (point.prompts, point.seeds, point.draws) == (2, [0, 1], 1)
    assert point.accuracy == 0.75 and point.accuracy_per_seed == {"0": 1.0, "1": 0.5}
    assert (
        point.nfe_mean == 5 and point.nfe_p50 == 5 and point.nfe_p95 == pytest.approx(np.percentile([2, 4, 6, 8], 95))
    )
    assert point.tokens_per_forward == 12 / 20 and point.tokens_per_forward_to_eos == 8 / 20
    assert point.seconds_per_sequence == {"denoiser": 1.0, "sampler": 0.25, "rest": 0.25, "total": 1.5}
    assert point.tokens_per_second == pytest.approx(8 / 6)
    assert point.pass_at_k == {"1": 0.75, "2": 1.0}
    assert point.accuracy_interval[0] <= 0.75 <= point.accuracy_interval[1]
    assert point.environment == {"threads": 1}


def test_votes_count_extracted_answers():
    """The wrong text is the most frequent one, the right answer the most frequent answer."""
    rows = [("so 7", "7", 1), ("it is 7", "7", 1), ("8", "8", 0)]
    samples = [sample(0, score, 1, draw=i, text=text, answer=answer) for i, (text, answer, score) in enumerate(rows)]
    (point,) = aggregate(samples)
    assert point.majority == 1.0 and point.draws == 3 and point.pass_at_k["3"] == 1.0
    assert point.seconds_per_sequence == {} and point.tokens_per_second == 0.0
    (point,) = aggregate([replace(one, answer=None, text=one.text[-1:]) for one in samples])
    assert point.majority == 1.0


def test_one_answer_has_no_vote_and_graded_scores_no_pass_at_k():
    (point,) = aggregate([sample(0, 1, 1)])
    assert point.majority is None and point.pass_at_k == {}
    (point,) = aggregate([sample(0, 0.5, 1), sample(0, 1, 1, seed=1)])
    assert point.pass_at_k == {} and point.accuracy == 0.75


def test_a_hole_in_the_answers_is_refused():
    with pytest.raises(ValueError, match="3 answers for 2 prompts, 2 seeds"):
        aggregate([sample(0, 1, 1), sample(0, 1, 1, seed=1), sample(1, 1, 1)])


# ------------------------------------------------------------------------------------------------------------- running


def test_what_is_written(whole):
    samples, points = read_samples(whole / "samples.jsonl"), read_results(whole / "results.json")
    assert len(points) == SETTINGS and len(samples) == ANSWERS
    assert {point.setting.task for point in points} == {"even", "odd"}
    for point in points:
        own = [one for one in samples if one.setting == point.setting]
        stochastic = point.setting.sampler == "random"
        assert point.seeds == ([0, 1] if stochastic else [0]) and point.prompts == 4
        assert point.nfe_mean == np.mean([one.nfe for one in own])
        assert set(point.seconds_per_sequence) == {"denoiser", "sampler", "rest", "total"}
        assert point.seconds_per_sequence["denoiser"] > 0 and point.environment["processes"] == 1
    one = next(one for one in samples if one.setting.sampler.startswith("threshold"))
    assert len(one.tokens) == len(one.step_map) == 8 and max(one.step_map) + 1 == one.steps == one.nfe
    assert one.confidence is not None and all(0 < value <= 1 for value in one.confidence)
    assert next(one for one in samples if one.setting.sampler == "random").confidence is None


def test_confidences_are_those_the_sampler_read():
    model, tokenizer = tiny_eurobert(torch.float64), tiny_tokenizer()
    prompts = torch.tensor([tokenizer("1+2=")["input_ids"], tokenizer("5+3=")["input_ids"]])
    clock, options = Clock(torch.device("cpu")), {"max_new_tokens": 8, "block_length": 3, "output_trajectory": True}
    timed = TimedSampler(ThresholdSampler(0.4), clock, 2, 8)
    denoiser = TimedDenoiser.of(Denoiser.from_model(model), clock)
    output = generate(denoiser, prompts, sampler=timed, return_dict_in_generate=True, **options)
    plain = generate(model, prompts, sampler=ThresholdSampler(0.4), return_dict_in_generate=True, **options)
    assert torch.equal(output.sequences, plain.sequences) and torch.equal(output.step_map, plain.step_map)
    steps = plain.step_map[:, -8:]
    read = plain.trajectory.confidence.gather(1, steps[:, None]).squeeze(1)
    assert torch.equal(timed.confidence, read)
    assert all(seconds > 0 for seconds in clock.seconds.values()) and str(timed) == "threshold:threshold=0.4"


def test_equal_prompts_draw_differently_and_batches_do_not_matter():
    rows = [ROWS[3]] * 6
    options = {"rows": rows, "samplers": "random", "temperature": 1.0, "block_lengths": "full", "draws": 2}
    folders = []
    for batch_size in (1, 5, 50):
        points, samples = kept(batch_size=batch_size, **options)
        folders.append([(one.prompt_id, one.seed, one.draw, one.tokens, one.step_map) for one in samples])
        assert points[0].draws == 2 and points[0].majority is not None and set(points[0].pass_at_k) == {"1", "2", "4"}
    assert folders[0] == folders[1] == folders[2]
    assert len({tuple(one[3]) for one in folders[0]}) == 6 * 2 * 2


def kept(**options: Any) -> tuple[Any, list[Sample]]:
    with tempfile.TemporaryDirectory() as folder:
        return run(folder, **options), read_samples(Path(folder) / "samples.jsonl")


def test_deterministic_rules_run_once():
    assert is_stochastic(RandomSampler(), 0.0) and not is_stochastic(ThresholdSampler(), 0.0)
    assert is_stochastic(ThresholdSampler(), 0.5)
    assert is_stochastic(EosSuppressSampler(RandomSampler()), 0.0) and not is_stochastic(EosSuppressSampler(), 0.0)
    assert row_seed(0, 1, 0) == row_seed(0, 1, 0) != row_seed(1, 0, 0)
    (point,) = run(samplers="threshold", block_lengths=4, draws=3, rows=ROWS[:1])
    assert point.draws == 1 and point.seeds == [0]


def test_templates_limit_and_tokens_per_task(tmp_path):
    (tmp_path / "mine.txt").write_text("{x} {prompt} ok?\n")
    points = run(
        templates=("plain", tmp_path / "mine.txt"),
        limit=1,
        max_new_tokens={"even": 4, "odd": 8},
        samplers="confidence:k=4",
        block_lengths=None,
        stop_at_eos=True,
    )
    assert [(p.setting.template, p.setting.task, p.prompts) for p in points] == [
        (template, task, 1) for template in ("plain", "mine") for task in ("even", "odd")
    ]
    assert all(point.nfe_mean <= point.setting.max_new_tokens / 4 and point.setting.stop_at_eos for point in points)


@pytest.fixture
def plain_length(tmp_path):
    """A metric that is none of ours: the mean length of the answers."""
    folder = tmp_path / "plain_length"
    folder.mkdir()
    (folder / "plain_length.py").write_text(
        "import datasets\nimport evaluate\n"
        "class PlainLength(evaluate.Metric):\n"
        "    def _info(self):\n"
        "        features = datasets.Features({k: datasets.Value('string') for k in ('predictions', 'references')})\n"
        "        return evaluate.MetricInfo(description='', citation='', features=features)\n"
        "    def _compute(self, predictions, references):\n"
        "        return {'length': sum(map(len, predictions)) / len(predictions)}\n"
    )
    return folder


def test_foreign_metrics_are_computed_answer_by_answer(plain_length):
    _, samples = kept(metric=str(plain_length), samplers="threshold", block_lengths=4, rows=ROWS[:3])
    assert [one.score for one in samples] == [len(one.text) for one in samples]


# ----------------------------------------------------------------------------------------------------- several metrics


def test_a_second_metric_is_recorded_beside_the_first(whole, plain_length, tmp_path):
    """Scores that change what decides, or that are lost between the files and what is read from them."""
    points = run(tmp_path / "both", metric={"even": ["answer_match", plain_length], "odd": "answer_match"})
    assert points == read_results(tmp_path / "both" / "results.json")
    bare = [comparable(replace(point, further={})) for point in points]
    assert bare == [comparable(point) for point in read_results(whole / "results.json")]
    samples = read_samples(tmp_path / "both" / "samples.jsonl")
    assert {(one.setting.task, *one.further) for one in samples} == {("even", "plain_length"), ("odd",)}
    assert all(one.further.get("plain_length", len(one.text)) == len(one.text) for one in samples)
    for point in points:
        texts = [one.text for one in samples if one.setting == point.setting]
        assert bool(point.further) == (point.setting.task == "even")
        for one in point.further.values():
            low, high = one.accuracy_interval
            assert one.accuracy == pytest.approx(np.mean(list(map(len, texts)))) and low <= one.accuracy <= high
    # the folder is that of both metrics
    with pytest.raises(ValueError, match="metrics of even was '\\w+\\+\\w+', is '\\w+'"):
        run(tmp_path / "both")


def test_a_folder_of_before_there_were_several_is_read_and_gone_on_with(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "old")
    for name in ("results.json", "samples.jsonl"):
        path = tmp_path / "old" / name
        text = re.sub(r',\s*"further": \{\}', "", path.read_text())
        assert "further" not in text
        path.write_text(text)
    before = (tmp_path / "old" / "samples.jsonl").read_bytes()
    assert read_results(tmp_path / "old" / "results.json") == read_results(whole / "results.json")
    assert read_samples(tmp_path / "old" / "samples.jsonl") == read_samples(whole / "samples.jsonl")
    run(tmp_path / "old")
    assert (tmp_path / "old" / "samples.jsonl").read_bytes() == before


def test_answers_that_one_metric_has_not_scored_are_refused():
    """A mean over fewer answers than it says."""
    with pytest.raises(ValueError, match="answers were scored by strict, but one by \\[\\] only"):
        aggregate([sample(0, 1, 1, further={"strict": 1.0}), sample(1, 1, 1)])
    (point,) = aggregate([sample(0, 1, 1, further={"strict": 1.0}), sample(1, 1, 1, further={"strict": 0.0})])
    assert point.accuracy == 1 and point.further["strict"].accuracy == 0.5


@pytest.mark.parametrize(
    ("metric", "ranks"),
    [
        ("a+b", ["a", "b"]),
        (["a", "b"], ["a", "b"]),
        ({"x": "a+b", "y": "c"}, [{"x": "a", "y": "c"}, {"x": "b", "y": "c"}]),
        (TINY_METRICS, [{"chain_sum": name, "mini_sudoku": "sudoku"} for name in ("answer_match", "well_formed")]),
    ],
)
def test_metrics_by_rank(metric, ranks):
    assert by_rank(metric) == ranks


def test_a_path_with_a_plus_is_one_metric(tmp_path, monkeypatch):
    (tmp_path / "a+b").mkdir()
    monkeypatch.chdir(tmp_path)
    assert by_rank("a+b") == ["a+b"]


# -------------------------------------------------------------------------------------------------------------- resume


def test_kill_and_restart_end_in_the_same_files(whole, tmp_path):
    folder = tmp_path / "killed"
    timings = folder / "timings.jsonl"
    with Forked(run, folder) as process:
        process.wait_until(lambda: timings.exists() and timings.read_bytes().count(b"\n") >= 3)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert not (folder / "results.json").exists()
    begun = (folder / "samples.jsonl").read_bytes()
    run(folder)
    assert_same(folder, whole)
    assert begun[:200] == (folder / "samples.jsonl").read_bytes()[:200]


@pytest.mark.parametrize("cut", [{"samples"}, {"timings"}, {"samples", "timings"}])
def test_torn_lines_and_half_units_are_redone(whole, tmp_path, cut):
    (tmp_path / "manifest.json").write_bytes((whole / "manifest.json").read_bytes())
    for name in ("samples", "timings"):
        content = (whole / f"{name}.jsonl").read_bytes()
        (tmp_path / f"{name}.jsonl").write_bytes(content[: int(len(content) * (0.6 if name in cut else 1))])
    (tmp_path / "samples.part1.jsonl").write_bytes((whole / "samples.jsonl").read_bytes()[:3000])  # of another process
    run(tmp_path)
    assert_same(tmp_path, whole)


def test_a_finished_evaluation_is_not_run_again(whole, tmp_path):
    before = (whole / "timings.jsonl").read_bytes()
    run(whole)
    assert (whole / "timings.jsonl").read_bytes() == before


def test_a_damaged_line_in_the_middle_is_an_error(whole, tmp_path):
    for name in ("manifest.json", "samples.jsonl", "timings.jsonl"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    (tmp_path / "samples.jsonl").write_bytes(b"{oops\n" + (whole / "samples.jsonl").read_bytes())
    with pytest.raises(ValueError, match=r"samples\.jsonl, line 1 is damaged"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_size": 3}, "batch_size was 2, is 3"),
        ({"seeds": (0, 2)}, re.escape("seeds was [0, 1], is [0, 2]")),
        ({"rows": ROWS[:7] + ROWS[:1]}, "dataset was"),
        ({"metric": "exact_match"}, "metrics of even was"),
        ({"samplers": SAMPLERS[:2]}, r"settings of sampler was \[.*confidence.*\], is \['random', 'threshold[^']*'\]$"),
        ({"model": tiny_eurobert(torch.float64, seed=1)}, "weights was"),
    ],
)
def test_another_evaluation_in_the_folder_is_an_error(whole, options, says):
    with pytest.raises(ValueError, match=f"another evaluation.*{says}"):
        run(whole, **options)


def test_the_same_values_in_other_combinations_are_another_evaluation(tmp_path):
    lengths = [{"task": task, "max_new_tokens": length} for task, length in (("a", 4), ("b", 4), ("c", 8))]
    check_manifest(tmp_path, {"settings": lengths})
    check_manifest(tmp_path, {"settings": lengths})
    with pytest.raises(ValueError, match="settings combine the same values otherwise"):
        check_manifest(tmp_path, {"settings": [lengths[0], lengths[1] | {"max_new_tokens": 8}, lengths[2]]})


def test_foreign_folders_and_two_writers(whole, tmp_path):
    from filelock import FileLock

    (tmp_path / "data.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"no manifest\.json"):
        run(tmp_path)
    with FileLock(whole / ".lock"), pytest.raises(ValueError, match="another evaluation is writing"):
        run(whole)


def test_an_empty_prompt_is_a_prompt():
    (point,) = run(rows=[{"prompt": "", "answer": "1", "task": "none"}], samplers="threshold", block_lengths=4)
    assert point.prompts == 1


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_bar_shows_the_time_that_is_left(tmp_path, monkeypatch):
    def shown(name, stream, **options):
        monkeypatch.setattr(sys, "stderr", stream)
        run(tmp_path / name, samplers="confidence:k=2", block_lengths=(4, "full"), **options)
        return stream.getvalue()

    drawn = shown("terminal", Terminal(), progress=True)
    assert "even, blocks of 4, confidence:k=2" in drawn and re.search(r"\d/8 \[\d\d:\d\d<\d\d:\d\d", drawn)
    assert "confidence" not in shown("pipe", io.StringIO(), progress=True)
    assert "confidence" not in shown("off", Terminal(), progress=False)


@pytest.mark.slow
def test_two_processes_give_the_results_of_one(whole, tmp_path):
    launch(run, tmp_path)
    assert_same(tmp_path, whole)
    assert read_results(tmp_path / "results.json")[0].environment["processes"] == 2


# ------------------------------------------------------------------------------------------------- data, templates, CLI


def test_data_sets_of_every_form(tmp_path):
    lines = tmp_path / "sums.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    table = datasets.Dataset.from_list(ROWS)
    table.save_to_disk(str(tmp_path / "saved"))
    expected = load_problems(ROWS)
    assert load_problems(table) == load_problems(str(lines)) == load_problems(str(tmp_path / "saved")) == expected
    asked = [{"question": "1+1=", "answer": "2"}]
    (problem,) = load_problems(asked, task="sums", columns={"prompt": "question"})
    assert (problem.prompt, problem.task) == ("1+1=", "sums")
    tiny = load_problems("tiny:mini_sudoku:test", limit=2)
    assert [p.prompt_id for p in tiny] == [0, 1] and len(tiny[0].columns["puzzle"]) == 4
    assert {p.task for p in load_problems("tiny", limit=1)} == {"chain_sum", "mini_sudoku"}
    assert name_of(lines, expected) == str(lines) and name_of("tiny", tiny) == "tiny"
    assert name_of(ROWS, expected) == name_of(table, expected) != name_of(ROWS[:3], expected[:3])


@pytest.mark.parametrize(
    ("dataset", "options", "says"),
    [
        ([], {}, "no rows"),
        ([{"prompt": "a"}], {}, "'answer'; it has prompt"),
        ([{"prompt": "a", "answer": [3]}], {}, r"'answer'; got \[3\]"),
        (ROWS, {"limit": 0}, "`limit` must be an int of at least 1, got 0"),
        (ROWS, {"limit": 1.5}, "`limit` must be an int, got 1.5"),
        ("tiny:chess", {}, "tiny:chess"),
        ("no/such/thing", {}, "'no/such/thing'.*NAME:SPLIT"),
        (3, {}, "`dataset` must be .* got 3"),
        (["abc"], {}, "row 0 .* must be a dict, got 'abc'"),
        ({"train": ROWS, "test": ROWS}, {}, r"several splits \(train, test\)"),
        (ROWS, {"columns": {"prompt": "question"}}, "no column 'question'; it has prompt, answer, task"),
    ],
)
def test_data_sets_that_cannot_be_used(dataset, options, says):
    with pytest.raises(ValueError, match=says):
        load_problems(dataset, **options)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet", "folder"])
def test_damaged_data_sets_are_named(tmp_path, name):
    path = tmp_path / name
    path.mkdir() if name == "folder" else path.write_text("{oops\n")
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}.*(line 1 is not JSON|cannot be loaded)"):
        load_problems(path)


def test_templates(tmp_path):
    tokenizer = tiny_tokenizer()
    assert template_names() == ["math_boxed.chat", "plain", "question"]
    text = "a{b}"
    assert tokenizer.decode(load_template("plain").ids(tokenizer, text)).replace(" ", "") == text
    assert load_template("question").text == "Question: {prompt}\nAnswer:"
    chat = load_template("math_boxed.chat")
    assert chat.chat and chat.reply == "<reasoning>" and "\\boxed{" in chat.text
    with pytest.raises(ValueError, match="no chat template"):
        chat.ids(tokenizer, "a")
    tokenizer.chat_template = (
        "{% for m in messages %}A{{ m.content }}B{% endfor %}{% if add_generation_prompt %}C{% endif %}"
    )
    (tmp_path / "t.chat.txt").write_text("x{prompt}\n---assistant---\nk\n")
    assert tokenizer.decode(load_template(tmp_path / "t.chat.txt").ids(tokenizer, "1")).replace(" ", "") == "Ax1BCk"
    for name, content, says in (
        ("a.txt", "none", "must hold {prompt}"),
        ("b.txt", "{prompt}\n---assistant---\nk", "name it"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=says):
            load_template(tmp_path / name)
    with pytest.raises(ValueError, match="no template 'nope'; give a file or one of math_boxed"):
        load_template("nope")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"samplers": ()}, "`samplers` is empty"),
        ({"samplers": ("random", "random:k=1")}, "random more than once"),
        ({"samplers": [RandomSampler]}, "`samplers` must hold"),
        ({"block_lengths": (0,)}, "`block_lengths`"),
        ({"block_lengths": ("full", None)}, "`block_lengths`"),
        ({"seeds": (1, 1)}, "`seeds`"),
        ({"draws": 0}, "`draws` must be an int of at least 1, got 0"),
        ({"batch_size": 0}, "`batch_size` must be an int of at least 1, got 0"),
        ({"batch_size": "4"}, "`batch_size` must be an int, got '4'"),
        ({"block_lengths": 4.0}, "`block_lengths` .* got 4.0"),
        ({"seeds": None}, "`seeds` .* got None"),
        ({"temperature": -1}, "`temperature` .* got -1"),
        ({"temperature": "hot"}, "`temperature` .* got 'hot'"),
        ({"stop_at_eos": "no"}, "`stop_at_eos` .* got 'no'"),
        ({"metric_options": {"tolerance": 1}}, "`metric_options` holds 'tolerance'"),
        ({"metric": "/no/such/metric"}, "'/no/such/metric' is neither a packaged metric"),
        ({"out": ""}, "`out` must be a folder"),
        ({"out": __file__}, f"cannot write to {re.escape(__file__)} .*give another folder"),
        ({"max_new_tokens": {"even": 4}}, "`max_new_tokens`.*'odd'"),
        ({"templates": ("plain", "plain")}, "`templates`"),
        ({"metric": "sudoku", "samplers": "threshold"}, "`puzzle`"),
        ({"metric": {"even": "exact_match"}}, "odd"),
        ({"metric": 3}, "`metric`"),
        ({"metric": "answer_match+"}, "`metric` must be a name.*got 'answer_match\\+'"),
        ({"metric": []}, "`metric` .* got \\[\\]"),
        ({"metric": "answer_match+answer_match"}, "different metrics, got answer_match, answer_match"),
        ({"metric": "answer_match+nope"}, "'nope' is neither a packaged metric"),
    ],
)
def test_arguments_that_cannot_be_used(options, says):
    with pytest.raises(ValueError, match=says):
        run(**options)


def test_command_line(tmp_path):
    command = ["evaluate", "--dataset", "tiny:chain_sum:validation", "--sampler", "left_to_right:k=40", "--limit", "3"]
    command += ["--block-lengths", "20,full", "--out", str(tmp_path)]
    value = json.loads(call(*command, "--json").stdout)
    assert [record["nfe_mean"] for record in value["records"]] == [2.0, 1.0]
    assert read_results(tmp_path / "results.json")[0].setting.model == "tiny"
    assert [list(record["further"]) for record in value["records"]] == [["well_formed"]] * 2
    table = call(*command).stdout
    assert "left_to_right:k=40" in table and "full" in table
    assert "accuracy, answer_match: the final answer is right" in table and "\nwell_formed: the final answer" in table


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--dataset", "some.jsonl"], "--metric and --max-new-tokens"),
        (["--block-length", "8,x"], "`--block-length` must be a whole number or full, got 'x'"),
        (["--seeds", "a"], "`--seeds` must be a whole number"),
        (["--column", "prompt"], "`--column` must be NAME=VALUE, got 'prompt'"),
        (["--sampler", "thresold"], "did you mean 'threshold'"),
        (["--metric", "some/metric"], "allow it with --trust-remote-code"),
    ],
)
def test_command_line_errors_are_one_line(arguments, says):
    said = call("evaluate", *arguments, code=2).stderr
    assert says in said and len(said.strip().splitlines()) == 1


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "evaluate", None)
    assert "pip install 'hf_unmask[evaluate]'" in call("evaluate", "--limit", "1", code=2).stderr
