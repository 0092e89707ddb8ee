"""Evaluation records for tests: a plain one, with what a test cares about changed."""

from hf_unmask.results.records import OperatingPoint, Sample, Setting

SETTING = {
    "sampler": "threshold:threshold=0.9",
    "model": "embedded",
    "dataset": "problems",
    "task": "chain_sum",
    "template": "default",
    "metric": "exact_match",
    "max_new_tokens": 32,
    "block_length": None,
}


def operating_point(nfe, accuracy, *, tokens_per_forward=1.0, seconds=1.0, **setting):
    return OperatingPoint(
        setting=Setting(**{**SETTING, **setting}),
        prompts=100,
        seeds=[0],
        draws=1,
        accuracy=accuracy,
        accuracy_interval=(max(0.0, accuracy - 0.1), min(1.0, accuracy + 0.1)),
        accuracy_per_seed={"0": accuracy},
        nfe_mean=nfe,
        nfe_p50=nfe,
        nfe_p95=nfe,
        tokens_per_forward=2 * tokens_per_forward,
        tokens_per_forward_to_eos=tokens_per_forward,
        seconds_per_sequence={"denoiser": seconds / 2, "sampler": 0.0, "rest": seconds / 2, "total": seconds},
        tokens_per_second=1.0,
    )


def sample(prompt_id, score=1.0, *, seed=0, draw=0, step_map=(0, 1), **setting):
    return Sample(
        setting=Setting(**{**SETTING, **setting}),
        prompt_id=prompt_id,
        seed=seed,
        draw=draw,
        score=score,
        nfe=2,
        steps=2,
        answer_length=2,
        tokens=[0] * len(step_map),
        step_map=list(step_map),
        text="",
    )
