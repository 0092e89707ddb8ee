"""Model cards of policies, rendered from what is recorded; nothing in them is typed by hand.

Recorded are the policy's config and weights, the settings that its trainer saved, and the results of an evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from hf_unmask.policy.card.measured import eval_results, hub_dataset, metric_names, read_measured
from hf_unmask.policy.card.seal import REPOSITORY, REVISION, is_rendered, seal
from hf_unmask.policy.config import UnmaskingPolicyConfig
from hf_unmask.policy.hub.client import TAG, is_repository
from hf_unmask.policy.hub.drop_in import DROP_IN_TAG
from hf_unmask.policy.hub.files import CARD, MAX_BYTES, MAX_JSON, parse_json
from hf_unmask.policy.hub.opening import read_inside
from hf_unmask.policy.model import UnmaskingPolicy
from hf_unmask.results.markdown import code, table
from hf_unmask.results.records import OperatingPoint

#: What a trainer saves beside a policy.
SETTINGS = "training_args.json"
_TAGS = (TAG, "unmasking-policy", "diffusion-lm")
_TRAINED_TAGS = ("grpo", "trl")
#: Settings that a card shows, if they were saved; none is a path or a name of the machine.
_RECIPE = (
    *("seed", "loss_type", "alpha", "learning_rate", "lr_scheduler_type", "warmup_steps", "max_steps"),
    *("num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "num_generations"),
    *("num_iterations", "scale_rewards", "epsilon", "beta", "adam_beta2", "weight_decay", "max_grad_norm"),
    *("block_length", "max_completion_length", "token_temperature", "num_expert_rollouts", "expert"),
    *("scale_prices", "rollout_fallback"),
    *("warm_start_prompts", "warm_start_experts", "warm_start_epochs", "warm_start_learning_rate"),
)
_OBSERVATION = {"canvas": "all positions to fill, opened ones too", "block": "the positions of the active block"}
_ACTION = {
    "bernoulli": "one independent choice per position (`bernoulli`)",
    "plackett_luce": "an ordered list of positions that ends with STOP (`plackett_luce`)",
}
_RECORDED = ("base_model", "mask_token_id", "block_length")


def render_card(
    policy: UnmaskingPolicy,
    *,
    results: str | Path | None = None,
    recipe: Mapping[str, Any] | None = None,
    license: str | None = None,
    name: str | None = None,
    tags: Collection[str] = (),
    packaged: str | None = None,
    command: str | None = None,
    findings: str | None = None,
    points: Sequence[OperatingPoint] = (),
) -> str:
    """README.md for a policy.

    It names the repository and the revision by placeholders, which a push fills in, and ends in a mark by which a card
    that somebody edited is told from one that may be rendered again.

    Args:
        policy: what is described.
        results: folder of an evaluation, for tables and metadata. None, and no ``findings``: the card claims nothing
            about quality.
        recipe: the saved settings of its training, see `read_recipe`.
        license: identifier of the Hub, e.g. "apache-2.0". None: the card names none.
        name: what the evaluation called the policy; only needed if ``results`` are about several.
        tags: further ones. With `DROP_IN_TAG` the card also shows how transformers decodes by the repository's code.
        packaged: the ``builtin:`` name of a policy inside the package, which has neither repository nor revision.
        command: what trained it.
        findings: Markdown with what was measured otherwise than by an evaluation, in place of ``results``.
        points: operating points of the policy in ``findings``, for the metadata.

    Raises:
        ValueError: the results cannot be read, or are not of this policy.
        ImportError: results, without the packages that read them.
    """
    measured = None if results is None else read_measured(results, name, REPOSITORY)
    record = policy.config.trained_for
    lineage = record.get("lineage") or []
    shown = {key: value for key in _RECIPE if (value := (recipe or {}).get(key)) is not None}
    card = ModelCard.from_template(
        ModelCardData(),
        template_str=resources.files("hf_unmask.model_cards").joinpath("template.md").read_text("utf-8"),
        metadata=_metadata(
            record,
            license,
            [*(_TRAINED_TAGS if shown else ()), *tags],
            datasets=[] if measured is None else measured.datasets,
            metrics=metric_names(points) if measured is None else measured.metrics,
            eval_results=[r for p in points for r in eval_results(p)] if measured is None else measured.eval_results,
            model_name=packaged or REPOSITORY,
        ).to_yaml(),
        base_model=code(record["base_model"]) if record.get("base_model") else "",
        repository=packaged or REPOSITORY,
        revision=None if packaged else REVISION,
        generation=_generation(record),
        drop_in=DROP_IN_TAG in tags,
        facts=table(["", ""], _facts(policy).items()),
        recipe=shown and table(["setting", "value"], [[f"`{key}`", code(value)] for key, value in shown.items()]),
        lineage="\n".join(f"{number}. {code(one)}" for number, one in enumerate(lineage, 1)),
        command=command,
        findings=findings,
        measured=measured,
        reads_hidden=policy.config.hidden_input_size is not None,
        record_complete=all(key in record for key in _RECORDED),
    )
    return seal(str(card))


def folder_card(
    policy: UnmaskingPolicy,
    folder: str | Path,
    *,
    results: str | Path | None = None,
    license: str | None = None,
    tags: Collection[str] = (),
) -> str:
    """The card that a policy's folder is pushed with.

    A README.md in the folder is taken as it is. With ``results`` (or ``license``) a card is rendered instead, but only
    over one that was rendered too: what somebody wrote is never replaced.

    Args:
        policy: that of the folder.
        folder: where README.md and the saved settings are looked for.
        results, license, tags: as in `render_card`.

    Raises:
        ValueError: README.md was edited by hand, but results or a licence are given; it, or the saved settings, are
            links that leave the folder, or no regular files; else as `render_card`.
    """
    path = Path(folder) / CARD
    found = read_inside(Path(folder), CARD, MAX_BYTES)
    try:
        old = None if found is None else found.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 ({error}): save it as UTF-8") from error
    if old is not None and results is None and license is None:
        return old
    if old is not None and not is_rendered(old):
        raise ValueError(
            f"{path} was written or edited by hand, and a rendered card would replace it: write a new one with "
            "`hf-unmask card --output` and merge them, or push without results and licence to keep it"
        )
    return render_card(
        policy, results=results, recipe=read_recipe(folder), license=license, name=str(folder), tags=tags
    )


def read_recipe(folder: str | Path) -> dict[str, Any] | None:
    """The settings that a trainer saved in a policy's folder; None if there are none.

    Raises:
        ValueError: the file is no JSON object, no regular file, or a link that leaves the folder.
    """
    found = read_inside(Path(folder), SETTINGS, MAX_JSON)
    return None if found is None else parse_json(found, SETTINGS)


def _metadata(
    record: Mapping[str, Any],
    license: str | None,
    tags: Collection[str],
    *,
    datasets: Sequence[str],
    metrics: Sequence[str],
    eval_results: Sequence[EvalResult],
    model_name: str,
) -> ModelCardData:
    base = record.get("base_model") or ""
    known: dict[str, Any] = {"base_model": base, "base_model_relation": "adapter"} if is_repository(base) else {}
    datasets = [name for name in dict.fromkeys([hub_dataset(record.get("dataset")), *datasets]) if name is not None]
    if eval_results:
        found = list(dict.fromkeys(metrics))
        known |= {"metrics": found, "model_name": model_name, "eval_results": list(eval_results)}
    return ModelCardData(library_name=TAG, tags=[*_TAGS, *tags], license=license, datasets=datasets or None, **known)


def _facts(policy: UnmaskingPolicy) -> dict[str, str]:
    config, record = policy.config, policy.config.trained_for
    facts = {
        "size": f"{policy.num_parameters():,} parameters, float32: one layer of width {config.hidden_size}",
        "reads of each position": _inputs(config),
        "sees": _OBSERVATION[config.observation],
        "decides": _ACTION[config.action],
    }
    if config.speed_conditioned:
        low, high = (math.exp(config.log_alpha(speed)) for speed in (0.0, 1.0))
        facts["dial"] = f"`speed` from 0 to 1, trained for step prices (alpha) from {low:.3g} to {high:.3g}"
    for key, value in sorted(record.items()):  # as in config.json
        if key == "block_length" and value is None:
            facts["trained for `block_length`"] = "none: full diffusion"
        elif key != "lineage" and value is not None:
            facts[f"trained for `{key}`" if key != "hf_unmask_version" else "trained with `hf_unmask`"] = code(value)
    return facts


def _inputs(config: UnmaskingPolicyConfig) -> str:
    largest = (
        "the largest token probability" if config.top_k == 1 else f"the {config.top_k} largest token probabilities"
    )
    hidden = (
        f", the denoiser's last hidden state ({config.hidden_input_size} numbers)" if config.hidden_input_size else ""
    )
    further = f", {', '.join(map(code, config.further_inputs))}" if config.further_inputs else ""
    where = "" if config.reads_revealed else ", of masked positions only"
    return f"{largest}{hidden}{further}{where}, whether it is masked, and how far denoising has come"


def _generation(record: Mapping[str, Any]) -> str:
    """Arguments of `generate` as in the training."""
    known = {key: record[key] for key in ("max_new_tokens", "block_length") if key in record}
    return "".join(f", {key}={value}" for key, value in known.items())
