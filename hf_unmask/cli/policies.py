"""``hf-unmask card``, ``info`` and ``verify``: about one policy, in a folder, in the package or on the Hub."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from hf_unmask.cli.options import FULL, TINY, JsonFlag, ModelOption
from hf_unmask.cli.options import block_length as read_block_length
from hf_unmask.cli.policy_options import (
    LicenseOption,
    MaxBytesOption,
    PolicyArgument,
    ResultsOption,
    RevisionOption,
    check_results,
    find,
    hub_errors,
    shown,
)
from hf_unmask.cli.terminal import print_json, say, say_prose

if TYPE_CHECKING:
    from hf_unmask.denoisers.adapter import Denoiser

_Answer = TypeVar("_Answer")


def card(
    policy: PolicyArgument,
    results: ResultsOption = None,
    license: LicenseOption = None,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="[default: stdout]")] = None,
    revision: RevisionOption = None,
    max_bytes: MaxBytesOption = None,
) -> None:
    """Render a policy's model card from what is recorded; a packaged policy has one with its results.

    A push fills in the repository and the revision.
    """
    with hub_errors():
        from hf_unmask.policy.card.rendering import read_recipe, render_card
        from hf_unmask.policy.card.seal import is_rendered
        from hf_unmask.results.foreign_text import read_text

        check_results(results)
        if output is not None and output.is_file() and not is_rendered(read_text(output)):
            raise ValueError(f"{output} was written or edited by hand: give another --output, or remove it")
        loaded, folder, _ = find(policy, revision, max_bytes)
        text = None if results or license else _packaged_card(policy, folder)
        text = text or render_card(loaded, results=results, recipe=read_recipe(folder), license=license, name=policy)
        if output is None:
            say_prose(text.removesuffix("\n"))
        else:
            output.write_text(text, encoding="utf-8")


def _packaged_card(policy: str, folder: Path) -> str | None:
    """The card that lies in the package, with the results that were measured for it; None for any other policy."""
    from hf_unmask.policy.card.published_results import find_card
    from hf_unmask.policy.hub.folders import BUILTIN

    return find_card(policy, folder) if policy.startswith(BUILTIN) else None


def info(
    policy: PolicyArgument,
    revision: RevisionOption = None,
    max_bytes: MaxBytesOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Say what a policy is, what it was trained for, and what its card claims about results."""
    with hub_errors():
        from hf_unmask.policy.hub.files import WEIGHTS

        loaded, folder, commit = find(policy, revision, max_bytes)
        config = loaded.config
        facts = {
            "policy": policy,
            "commit": commit,
            "parameters": loaded.num_parameters(),
            "bytes": (folder / WEIGHTS).stat().st_size,
            "observation": config.observation,
            "action": config.action,
            "top_k": config.top_k,
            "hidden_input_size": config.hidden_input_size,
            "further_inputs": config.further_inputs,
            "reads_revealed": config.reads_revealed,
            "speed_conditioned": config.speed_conditioned,
            "schema_version": config.schema_version,
        }
        code, results = _code(policy, folder), _results(policy, folder)
        if as_json:
            print_json({**facts, "code": code, "trained_for": config.trained_for, "results": results})
            return
        for key, value in {**facts, "code": _shown_code(code), **config.trained_for}.items():
            say(f"{key}: {shown(value)}")
        say(*_shown_results(results))


def verify(  # noqa: PLR0913 - one argument per option
    policy: PolicyArgument,
    model: ModelOption,
    block_length: Annotated[
        str | None,
        typer.Option(metavar="N|full", help="Positions per block, compared too. [default: not compared]"),
    ] = None,
    revision: RevisionOption = None,
    model_revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the denoiser.")] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Run model code that comes with the denoiser.")] = False,
    max_bytes: MaxBytesOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Compare a policy with a denoiser, whose weights are not loaded; exit code 1 if something differs."""
    with hub_errors():
        from hf_unmask.policy.compatibility import block_differences, model_differences

        length = None if block_length is None else read_block_length(block_length, least=0)  # 0 was full diffusion
        loaded, folder, commit = find(policy, revision, max_bytes)
        code = _code(policy, folder)
        found = model_differences(loaded.config, _outline(model, model_revision, trust_remote_code))
        compared = ["base_model", "mask_token_id"]
        if length is not None:
            found += block_differences(loaded.config, None if length in (0, FULL) else int(length))
            compared.append("block_length")
        # None is a block length: full diffusion
        record = {key for key, value in loaded.config.trained_for.items() if value is not None or key == "block_length"}
        unrecorded = [name for name in compared if name not in record]
        if as_json:
            differences = [difference._asdict() for difference in found]
            report = {"policy": policy, "commit": commit, "model": model, "compatible": not found}
            print_json({**report, "differences": differences, "not_recorded": unrecorded, "code": code})
        else:
            lines = [f"differs: {difference}" for difference in found] or [f"{policy} fits {model}"]
            lines += [f"not recorded by the policy: {name}" for name in unrecorded]
            lines += [f"code: {_shown_code(code)}"] if code != [] else []
            say(*lines)
    if found:
        raise typer.Exit(1)


def _answered(ask: Callable[[], _Answer]) -> _Answer | None:
    """None: the Hub does not answer."""
    import httpx2  # the Hub client's own HTTP library

    try:
        return ask()
    except (OSError, httpx2.TransportError):
        return None


def _code(policy: str, folder: Path) -> list[str] | None:
    """The modules beside a policy. This package runs none of them, transformers may. None: the Hub does not answer."""
    from hf_unmask.policy.hub.client import repository_files
    from hf_unmask.policy.hub.download import fetched_commit

    commit = fetched_commit(policy, folder)
    if commit is None:
        found = [path.relative_to(folder).as_posix() for form in ("*.py", "*/*.py") for path in folder.glob(form)]
    else:
        names = _answered(lambda: repository_files(policy, revision=commit))
        if names is None:
            return None
        found = [name for name in names if name.endswith(".py")]
    return sorted(found)


def _results(policy: str, folder: Path) -> list[dict[str, str]] | None:
    """What the card's metadata say was measured. None: the Hub does not answer."""
    from hf_unmask.policy.card.published_results import find_card, published_results

    card = _answered(lambda: find_card(policy, folder) or "")
    return None if card is None else [asdict(result) for result in published_results(card)]


def _shown_results(results: list[dict[str, str]] | None) -> list[str]:
    if not results:
        return ["results: unknown, the Hub does not answer" if results is None else "results: -"]
    from hf_unmask.results.markdown import table

    rows = [list(row.values()) for row in results]
    return ["", *table(["results, as its card says", "metric", "value"], rows).splitlines()]


def _shown_code(code: list[str] | None) -> str:
    if code is None:
        return "unknown, the Hub does not answer"
    return f"{', '.join(code)} (never run by hf_unmask)" if code else "-"


def _outline(name: str, revision: str | None, trust_remote_code: bool) -> Denoiser:
    from hf_unmask.denoisers.adapter import Denoiser
    from hf_unmask.doors.loading import load_outline
    from hf_unmask.tiny import load_tiny

    if name == TINY:
        return Denoiser.from_model(load_tiny()[0])
    return load_outline(name, revision=revision, trust_remote_code=trust_remote_code)
