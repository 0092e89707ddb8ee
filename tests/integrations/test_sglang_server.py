"""Samplers inside a real SGLang server on its CPU engine, against our own loop; run by `make engines`."""

from __future__ import annotations

import functools
import json
import subprocess
import time
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from engines import block_by_block
from policies import make_policy
from sglang_server import KINDS, checkpoint, command, environment, serving

from hf_unmask import Denoiser
from hf_unmask.samplers.specs import parse_sampler

pytestmark = [
    pytest.mark.slow,
    pytest.mark.engines,
    pytest.mark.skipif(find_spec("sglang") is None, reason="needs SGLang: run `make engines`"),
    pytest.mark.filterwarnings("ignore:the prompt holds the mask token"),
]
NEW, SEED, THRESHOLD = 13, 4, 0.5
DIALS = "speed=0.9;beta=2.0"
SPECS = {
    "threshold": f"threshold:threshold={THRESHOLD}",
    "greedy": f"learned:POLICY;greedy=True;{DIALS}",
    "drawn": f"learned:POLICY;{DIALS}",
}
MODES = {"first done": [], "in step": ["--no-dllm-fdfo"], "two ranks": []}


def prompts_for(mask):
    """Shorter than a block, whole blocks, rests; and with mask tokens, but no block of nothing else, whose positions
    are all alike: rounding decides which is the most probable."""
    plain = [[5, 6, 7, 8, 9, 10], [11, 12, 13], [*range(20, 28)], [*range(30, 43)], [44]]
    literal = [
        [5, 6, mask, 8, 9, 10],
        [mask, 6],
        [5, 6, 7, mask],
        [5, *[mask] * 6, 12, 13],
        [*range(9), mask, 11, mask],
    ]
    return plain + literal


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("engines")
    with torch.random.fork_rng():
        policy = make_policy(6, observation="block", speed_conditioned=True, log_alpha_range=[-1.0, 1.0])
    policy.save_pretrained(path / "policy")
    return path


@pytest.fixture(scope="module")
def served(folder):
    """Folder of a kind's checkpoint, and our own loop on the same network."""

    @functools.cache
    def build(kind):
        model = checkpoint(KINDS[kind], folder / kind)
        return folder / kind, Denoiser.from_model(model, block_length=KINDS[kind].block)

    return build


@pytest.fixture(scope="module")
def expected(folder, served):
    """Tokens of our own loop for every prompt, and how many forward passes they took."""

    @functools.cache
    def decode(kind, name):
        sampler = parse_sampler(SPECS[name].replace("POLICY", str(folder / "policy")))
        known, size = served(kind)[1], KINDS[kind].block
        found = [block_by_block(known, p, sampler, NEW, size, SEED) for p in prompts_for(KINDS[kind].mask)]
        tokens, passes = [row for row, _ in found], sum(count for _, count in found)
        whole = sum(-(-(len(p) + NEW) // size) * size - len(p) for p in prompts_for(KINDS[kind].mask))
        assert whole / size < passes < whole, "one pass a block, or a token a pass, would show nothing"
        return tokens, passes, whole

    return decode


@pytest.fixture(scope="module")
def log():
    """A line per server; what is there at the end stands in runs/engines.md."""
    lines = [
        f"{date.today()}: " + ", ".join(f"{name} {version(name)}" for name in ("sglang", "torch", "transformers")),
        "",
        "| model | algorithm | mode | equal tokens | equal requests | passes per token | s to start |",
        "|---|---|---|---|---|---|---|",
    ]
    yield lines
    target = Path("runs/engines.md")
    target.parent.mkdir(exist_ok=True)
    target.write_text("\n".join([*lines, ""]))


def yaml_of(folder, kind, name):
    """Of the algorithm's config, a JSON that is YAML too."""
    told = {"block_size": KINDS[kind].block}
    if name == "LowConfidence":
        told["threshold"] = THRESHOLD
    elif name == "threshold":
        told["sampler"] = SPECS[name]
    else:
        told |= {"policy": str(folder / "policy"), "speed": 0.9, "beta": 2.0, "greedy": name == "greedy", "seed": SEED}
    target = folder / f"{kind} {name}.yaml"
    target.write_text(json.dumps(told))
    return str(target)


def asked(server, prompts):
    """Together; each alone without what is stored of earlier requests; together again, with it."""
    together = server.generate(prompts, NEW)
    server.forget()
    alone = [server.generate([prompt], NEW)[0] for prompt in prompts]
    return together, alone, server.generate(prompts, NEW)


def compare(server, kind, found, name, mode, right, log, started):
    tokens, passes, whole = right
    pairs = [(row, want) for rows in found for row, want in zip(rows, tokens, strict=True)]
    equal = sum(a == b for row, want in pairs for a, b in zip(row, want, strict=True))
    rows = sum(row == want for row, want in pairs)
    share = f"{equal} of {len(pairs) * NEW} | {rows} of {len(pairs)} | {passes / whole:.2f} | {started:.0f}"
    log.append(f"| {kind} | {name} | {mode} | {share} |")
    assert [row for row, _ in pairs] == [want for _, want in pairs]
    assert "leak" not in server.said() and "Traceback" not in server.said()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_server_gives_the_tokens_of_our_loop(folder, served, expected, log, kind, name, mode):
    """A mask token of a prompt that is filled, draws that depend on the batch or the rank, another clock."""
    config = ["--dllm-algorithm", "HfUnmask", "--dllm-algorithm-config", yaml_of(folder, kind, name)]
    right, begun, ranks = expected(kind, name), time.monotonic(), 1 + (mode == "two ranks")
    options = [*config, "--max-running-requests", "4", *MODES[mode]]
    with serving(served(kind)[0], folder / "log", *options, ranks=ranks) as server:
        started = time.monotonic() - begun
        found = asked(server, prompts_for(KINDS[kind].mask))
        compare(server, kind, found, f"HfUnmask, {name}", mode, right, log, started)


@pytest.mark.parametrize("kind", KINDS)
def test_its_own_rule_gives_the_same_at_the_same_threshold(folder, served, expected, log, kind):
    """A comparison of two rules that differ in more than their name."""
    config = ["--dllm-algorithm", "LowConfidence", "--dllm-algorithm-config", yaml_of(folder, kind, "LowConfidence")]
    right, begun = expected(kind, "threshold"), time.monotonic()
    with serving(served(kind)[0], folder / "log", *config, "--max-running-requests", "4") as server:
        started = time.monotonic() - begun
        found = asked(server, prompts_for(KINDS[kind].mask))
        compare(server, kind, found, "LowConfidence", "first done", right, log, started)


def test_a_wrong_config_ends_at_launch(folder, served):
    """A fault that shows after the model is loaded, or as an algorithm that is unknown."""
    wrong = folder / "wrong.yaml"
    wrong.write_text("sampler: threshold\ntreshold: 0.5\n")
    told = command("--model-path", str(served("SDAR")[0]), "--dllm-algorithm", "HfUnmask")
    ended = subprocess.run(
        [*told, "--dllm-algorithm-config", str(wrong)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(), timeout=300,
    )  # fmt: skip
    last = [line for line in ended.stdout.splitlines() if line.strip()][-1]
    assert last.startswith("ValueError: unknown key 'treshold' in the algorithm's config; allowed: policy")
    assert ended.returncode != 0 and "Load weight" not in ended.stdout
