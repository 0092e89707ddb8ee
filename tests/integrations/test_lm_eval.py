"""The harness's model: local tasks, the embedded denoiser, any sampler."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
import yaml
from forked import Forked
from helpers import slow
from transformers import GenerationConfig

lm_eval = pytest.importorskip("lm_eval")

from lm_eval.config.evaluate_config import EvaluatorConfig  # noqa: E402

from hf_unmask.doors.loading import usable_device  # noqa: E402
from hf_unmask.integrations.lm_eval import UnmaskLM  # noqa: E402
from hf_unmask.tiny import held_out  # noqa: E402

# the harness and its metrics warn about their own dependencies
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

TASK = """
task: tiny_sums
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["#"], max_gen_toks: 40, do_sample: false, temperature: 0.0}}
filter_list:
  - name: last
    filter: [{{function: regex, regex_pattern: "(-?[0-9]+)$"}}, {{function: take_first}}]
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


class Request:
    """As much of the harness's ``Instance`` as a model reads."""

    task_name = "sums"

    def __init__(self, prompt, **options):
        self.args = (prompt, {"until": [], "max_gen_toks": 40, **options})


def model(**options):
    return UnmaskLM(**{"pretrained": "tiny", "sampler": "threshold:threshold=0.5", "device": "cpu", **options})


@pytest.mark.skipif(torch.cuda.is_available(), reason="the harness's default device is there")
def test_the_default_device_of_the_harness_need_not_be_there(capsys):
    """The README's command ended in an error on a machine without CUDA."""
    arguments = "pretrained=tiny,sampler=threshold:0.5"
    made = UnmaskLM.create_from_arg_string(arguments, {"device": EvaluatorConfig().device, "batch_size": 1})
    assert str(made.device) == usable_device() and str(made.sampler) == "threshold:threshold=0.5"
    assert "no cuda:0 here, the harness's default" in capsys.readouterr().err
    with pytest.raises(ValueError, match="the device 'cuda:0' cannot be used"):
        UnmaskLM.create_from_arg_string(f"{arguments},device=cuda:0")


def requests(count, **options):
    return [Request(problem.prompt, **options) for problem in held_out("chain_sum", "validation", count)]


def answers(count=6, options=None, **arguments):
    return model(**arguments).generate_until(requests(count, **(options or {})), disable_tqdm=True)


def run_harness(*arguments):
    """``python -m hf_unmask.integrations.lm_eval`` with these arguments."""
    sys.argv = ["lm_eval", *arguments]
    runpy.run_module("hf_unmask.integrations.lm_eval", run_name="__main__", alter_sys=True)


def test_the_harness_runs_a_local_task_with_a_spec_in_its_own_argument_syntax(tmp_path, monkeypatch):
    problems = held_out("chain_sum", "validation", 8)
    data = tmp_path / "sums.jsonl"
    data.write_text("".join(json.dumps({"prompt": p.prompt, "answer": p.answer}) + "\n" for p in problems))
    (tmp_path / "sums.yaml").write_text(TASK.format(data=data))
    spec = "eos_suppress(klass:tau=0.6;eps=0.02)"
    # its own tasks would be looked for here: reading those ten thousand files takes longer than all the rest
    monkeypatch.setattr("lm_eval.tasks.manager.__file__", str(tmp_path / "nothing" / "manager.py"))
    arguments = ["--model", "hf_unmask", "--tasks", "tiny_sums", "--log_samples"]
    arguments += ["--model_args", f"pretrained=tiny,sampler={spec},block_length=10,max_new_tokens=40,batch_size=4"]
    arguments += ["--include_path", str(tmp_path), "--output_path", str(tmp_path / "out")]
    with Forked(run_harness, *arguments) as process:
        assert process.wait() == 0, process.err[-3000:]
        said = process.err
    (path,) = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(path.read_text())
    own = results["config"]["hf_unmask"]
    assert own["sampler"] == spec and own["block_length"] == 10 and own["batch_size"] == 4
    figures = own["tasks"]["tiny_sums"]
    assert figures["requests"] == 8 and 1 <= figures["nfe_mean"] <= 40
    assert figures["tokens_per_forward"] == pytest.approx(40 / figures["nfe_mean"])
    assert f"tiny_sums, {spec}: {figures['nfe_mean']:.2f} forward passes per answer" in said
    expected = answers(8, sampler=spec, block_length=10, batch_size=8)
    solved = sum(p.solved_by(text) for p, text in zip(problems, expected, strict=True)) / 8
    assert results["results"]["tiny_sums"]["exact_match,last"] == pytest.approx(solved)


@pytest.mark.parametrize(
    "text",
    ["pretrained=tiny,sampler=klass:tau=0.6;eps=0.02,batch_size=4", "sampler=klass:tau=0.6;eps=0.02,pretrained=tiny"],
)
def test_the_plain_parser_keeps_specs_whole_and_model_args_win(text):
    found = UnmaskLM.create_from_arg_string(text, {"batch_size": 2, "device": "cpu", "max_batch_size": None})
    assert str(found.sampler) == "klass:tau=0.6;eps=0.02"
    assert found.batch_size == (4 if "batch_size" in text else 2)


@pytest.mark.slow
def test_requests_come_back_in_order_whatever_the_batch():
    alone = answers(6, sampler="random:k=4", batch_size=1)
    assert answers(6, sampler="random:k=4", batch_size=4) == alone
    assert answers(6, sampler="random:k=4", seed=1) != alone


def test_repeats_of_a_prompt_draw_differently():
    prompt = held_out("chain_sum", "validation", 1)[0].prompt
    again = [Request(prompt, do_sample=True, temperature=1.5) for _ in range(4)]
    texts = model(sampler="random:k=8", batch_size=2).generate_until(again, disable_tqdm=True)
    assert len(set(texts)) > 1


def test_texts_are_cut_at_the_earliest_stop_string():
    whole = answers(3)
    cut = answers(3, {"until": ["=", "\n\n"]})
    assert [text.split("=")[0] for text in whole] == cut
    assert any("=" in text for text in whole)


@pytest.mark.slow
def test_ending_early_saves_forwards_and_keeps_what_stands_before():
    late = model(sampler="left_to_right")
    early = model(sampler="left_to_right", stop_at_eos=True)
    asked = requests(3, until=["="])
    assert early.generate_until(asked, disable_tqdm=True) == late.generate_until(asked, disable_tqdm=True)
    saved, full = (m.get_model_info()["hf_unmask"]["tasks"]["sums"]["nfe_mean"] for m in (early, late))
    assert saved < full == 40


def test_model_args_set_the_length_of_the_canvas():
    short = model(max_new_tokens=8, sampler="left_to_right")
    short.generate_until(requests(2), disable_tqdm=True)
    assert short.get_model_info()["hf_unmask"]["tasks"]["sums"]["nfe_mean"] == 8


def test_prompts_that_are_too_long_lose_their_beginning():
    found = model(max_length=48)
    ids = found._ids("1+2=" * 30, {"max_new_tokens": 40})
    assert len(ids) == 8 and ids == found._ids("1+2=" * 31, {"max_new_tokens": 40})
    with pytest.raises(ValueError, match="`max_new_tokens` 40 leaves no room"):
        model(max_length=40).generate_until(requests(1), disable_tqdm=True)


def test_chat_templates_are_those_of_the_tokenizer():
    found = model()
    found.tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{{ m.content }}{% endfor %}{% if add_generation_prompt %}={% endif %}"
    )
    turns = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "1+2"}]
    assert found.chat_template(True) == found.tokenizer.chat_template
    assert found.apply_chat_template(turns) == "1+2="
    assert found.apply_chat_template(turns, add_generation_prompt=False) == "1+2"
    assert found.tokenizer_name


def test_likelihoods_are_refused_by_name():
    for refuse in (model().loglikelihood, model().loglikelihood_rolling):
        with pytest.raises(NotImplementedError, match="sums: model 'hf_unmask' generates text.*generate_until"):
            refuse(requests(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": "many"}, "`batch_size` must be a whole number of at least 1, got 'many'"),
        ({"batch_size": "auto", "max_batch_size": 0}, "`max_batch_size` must be a whole number of at least 1, got 0"),
        ({"max_new_tokens": 0}, "`max_new_tokens` must be a whole number of at least 1, got 0"),
        ({"block_length": 0}, "`block_lengths` must hold .* got 0"),
        ({"sampler": "treshold"}, "did you mean 'threshold'"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        model(**options)


def test_options_that_a_canvas_cannot_follow_are_refused():
    with pytest.raises(ValueError, match="repetition_penalty"):
        answers(1, {"repetition_penalty": 1.2})


def test_greedy_is_greedy_whatever_the_model_says():
    """Catches a task with ``do_sample: false`` that is sampled because the checkpoint's config says so."""
    found, asked = model(), {"do_sample": False, "temperature": 0.7, "top_p": 0.9, "min_p": 0.1}
    expected = found.generate_until(requests(3), disable_tqdm=True)
    found.adapter.model.generation_config = GenerationConfig(do_sample=True, temperature=3.0, block_length=4)
    for options in (asked, {}, {"temperature": 0.0}, {"do_sample": True, "temperature": 0.0}):
        assert found.generate_until(requests(3, **options), disable_tqdm=True) == expected
    drawn = found.generate_until(requests(3, do_sample=True), disable_tqdm=True)
    assert drawn != expected, "and do_sample without a temperature takes the model's"
    found.adapter.model.generation_config = GenerationConfig(temperature=3.0)
    hot = found.generate_until(requests(3, do_sample=True, temperature=3.0), disable_tqdm=True)
    assert hot == drawn


def test_options_that_ask_for_nothing_are_accepted():
    """``num_beams: 1`` stands in eight of the harness's own files, and 10 in one."""
    folder = Path(lm_eval.__file__).parent / "tasks"
    loader = type("Loader", (yaml.SafeLoader,), {})
    loader.add_multi_constructor("", lambda *_: None)  # functions, which a request does not hold
    files = [*(folder / "noreval").rglob("*"), folder / "code_x_glue" / "code-text" / "_default_template_yaml"]
    texts = [file.read_bytes() for file in files if file.is_file()]
    asked = [yaml.load(text, loader)["generation_kwargs"] for text in texts if b"num_beams" in text]
    asked = [{name: value for name, value in one.items() if not name.startswith("max_")} for one in asked if one]
    assert {one["num_beams"] for one in asked} == {1, 10}
    found, expected = model(), answers(1)
    for one in asked:
        one["until"] = []
        if one["num_beams"] == 1:
            assert found.generate_until(requests(1, **one), disable_tqdm=True) == expected
        else:
            with pytest.raises(ValueError, match="`num_beams=10` has no meaning for masked diffusion"):
                found.generate_until(requests(1, **one), disable_tqdm=True)


def test_generation_options_of_a_call_win_over_those_of_the_model():
    """Catches ``--gen_kwargs seed=3``, or a block length, that is passed to generate twice."""
    found = model(sampler="random:k=4", seed=5, block_length=10)
    assert found.generate_until(requests(2, seed=3), disable_tqdm=True) == answers(
        2, sampler="random:k=4", seed=3, block_length=10
    )
    asked = {"block_length": "full", "seed": 5}
    assert found.generate_until(requests(2, **asked), disable_tqdm=True) == answers(2, sampler="random:k=4", seed=5)
    early = model(sampler="left_to_right")
    early.generate_until(requests(1, until=["="], stop_at_eos=True), disable_tqdm=True)
    assert early.get_model_info()["hf_unmask"]["tasks"]["sums"]["nfe_mean"] < 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": "three"}, "must hold different ints, got 'three'"),
        ({"sampler": "random"}, "`sampler=random` is chosen by --model_args"),
        ({"stop_strings": ["="]}, "chosen by `until`"),
        ({"num_return_sequences": 2}, "`num_return_sequences=2` is chosen by the task's `repeats`"),
        ({"return_dict_in_generate": True}, "chosen by the model itself"),
        ({"temprature": 1.0}, "unknown option temprature"),
    ],
)
def test_generation_options_that_are_not_a_tasks_to_choose(options, message):
    with pytest.raises(ValueError, match=message):
        answers(1, options)


@pytest.mark.parametrize("size", [slow("auto:4"), slow("auto")])
def test_an_automatic_batch_is_what_memory_allows(size):
    """Catches an evaluation that dies for want of memory, or whose answers depend on what there was."""
    expected = answers(7, sampler="random:k=4")
    found, seen = model(sampler="random:k=4", batch_size=size, max_batch_size=5), []

    def short_of_memory(module, args, inputs):
        seen.append(len(inputs["input_ids"]))
        if seen[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    handle = found.adapter.model.register_forward_pre_hook(short_of_memory, with_kwargs=True)
    assert found.generate_until(requests(7), disable_tqdm=True) == expected
    assert list(dict.fromkeys(seen)) == [5, 3, 2, 1] and found.batch_size == 2
    assert found.batch_sizes == {"generate_until": 2} and found.get_model_info()["hf_unmask"]["batch_size"] == 2
    handle.remove()
    assert model(batch_size=size).batch_size == 64 and not model(batch_size=2).batch_sizes


@pytest.mark.parametrize("size", [4, "auto"])
def test_want_of_memory_that_is_not_ours_to_settle_is_told(size):
    found = model(batch_size=size, max_batch_size=1)
    found.adapter.model.register_forward_pre_hook(
        lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory. X"))
    )
    with pytest.raises(torch.OutOfMemoryError):
        found.generate_until(requests(2), disable_tqdm=True)


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="WORLD_SIZE is 2"):
        model()
