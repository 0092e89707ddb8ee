"""Names that users import: they stay where they are, whatever file their code moves to."""

from __future__ import annotations

import importlib
import importlib.util

import pytest

#: A package and what can be imported from it; of the last two that is modules.
NAMES = {
    "hf_unmask": """
        AttachedGenerate Denoiser LearnedUnmaskingSampler Needs Noise PolicyLoadError RowStream Sampler
        Selection Step StepEvent StreamedRow Trajectory UnmaskOutput UnmaskingGenerationConfig UnmaskingPolicy
        UnmaskingPolicyConfig __version__ attach detach encode_prompts evaluate_samplers generate
        generate_stream load_denoiser load_tiny parse_sampler samplers
    """,
    "hf_unmask.samplers": """
        ConfidenceSampler CreditSampler DilatedSampler EntropyBoundSampler EntropySampler EosSuppressSampler
        FactorSampler KLASSSampler LearnedUnmaskingSampler LeftToRightSampler MarginSampler PCSampler
        RandomSampler Sampler ThresholdSampler
    """,
    "hf_unmask.policy": """
        BernoulliUnmask PlackettLuceUnmask PolicyLoadError PolicyMismatchWarning UnmaskDistribution
        UnmaskingPolicy UnmaskingPolicyConfig decide distribution load_policy save_policy
    """,
    "hf_unmask.trainers": """
        EvaluateReward SpeedReward UnmaskingGRPOConfig UnmaskingGRPOTrainer
    """,
    "hf_unmask.evaluation": """
        aggregation budgets contents contest environment frontier groups markdown order orders page planning
        plots problems processes prompts records report running scoring sections statistics storage tables
        timing transfer viewer working
    """,
    "hf_unmask.integrations": """
        block diffusers dinfer dream lm_eval random_canvas sglang vllm
    """,
}
#: Modules of other people's programs that need the program.
NEEDS = {"diffusers": "diffusers", "vllm": "dllm_plugin", "dinfer": "dinfer", "sglang": "sglang", "lm_eval": "lm_eval"}


@pytest.mark.parametrize(("package", "name"), [(package, name) for package in NAMES for name in NAMES[package].split()])
def test_the_name_is_there(package: str, name: str) -> None:
    if package == "hf_unmask.integrations" and importlib.util.find_spec(NEEDS.get(name, "torch")) is None:
        assert importlib.util.find_spec(f"{package}.{name}") is not None
        return
    space: dict[str, object] = {}
    exec(f"from {package} import {name}", space)
    assert space[name] is not None


def test_unknown_names_are_said_to_be_unknown() -> None:
    for package in NAMES:
        with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
            _ = importlib.import_module(package).nothing
