"""What ``hf-unmask train`` says at its end: commands that work as they are printed, whatever its folders are called."""

from __future__ import annotations

import shlex
from typing import Any

from hf_unmask.evaluation.scoring import TINY_METRICS
from hf_unmask.results.spec_text import quoted
from hf_unmask.trainers.arguments import TINY, ScriptArguments
from hf_unmask.trainers.config import UnmaskingGRPOConfig

_RIVALS = "threshold:threshold=0.5..0.9/3"


def next_steps(script: ScriptArguments, args: UnmaskingGRPOConfig, *, conditioned: bool) -> str:
    """Lines for a shell and for Python. ``conditioned``: the policy has a dial for its speed."""
    folder = str(args.output_dir)
    python = f"from hf_unmask import LearnedUnmaskingSampler; LearnedUnmaskingSampler.from_pretrained({folder!r})"
    lines = [f"  python: {python}"]
    if script.metric_revision is None:  # a metric of the Hub is loaded in Python only
        spec = f"learned:{quoted(folder)}" + (";speed=0..1/5" if conditioned else "")
        options = _options(script, args, f"{spec} {_RIVALS}")
        words = [word for name, value in options.items() for word in _words(name, value)]
        lines.insert(0, f"  hf-unmask evaluate {shlex.join(words)}")
    unseen = script.on_tiny or script.validation is not None
    return "\n".join(["next:" if unseen else "next (these are the training prompts, name others to compare):", *lines])


def _options(script: ScriptArguments, args: UnmaskingGRPOConfig, samplers: str) -> dict[str, Any]:
    """Those of an evaluation on the validation problems, or on what was trained on if there are none."""
    dataset = str(script.validation or script.dataset)
    packaged = dataset.split(":")[0] == TINY
    by_task = ",".join(f"{task}={metric}" for task, metric in TINY_METRICS.items())
    return {
        "--model": script.model if script.model != TINY else None,
        "--revision": script.revision,
        "--dtype": script.dtype if script.dtype != "auto" else None,
        "--trust-remote-code": bool(args.trust_remote_code),
        "--dataset": dataset if dataset != TINY else None,
        "--columns": None if packaged else script.columns,
        "--template": script.template if script.template != "plain" else None,
        "--metric": script.metric or (None if packaged else by_task),
        "--allow-code-execution": script.allow_code_execution,
        "--max-new-tokens": None if packaged else args.max_completion_length,
        "--temperature": args.token_temperature or None,
        "--sampler": samplers,
        "--block-length": args.block_length or "full",
    }


def _words(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [name] if value else []
    values = value if isinstance(value, list) else [] if value is None else [value]
    return [word for one in values for word in (name, str(one))]
