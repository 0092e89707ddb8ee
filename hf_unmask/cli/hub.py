"""``hf-unmask push``, ``card``, ``pull``, ``info``, ``verify`` and ``search``: policies on the Hub and in folders.

There is no option for a token: command lines end in histories and process lists. The Hub's client reads ``HF_TOKEN`` or
what ``hf auth login`` stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from hf_unmask.cli.options import FULL, TINY, JsonFlag, ModelOption
from hf_unmask.cli.options import block_length as read_block_length
from hf_unmask.cli.terminal import plain_errors, print_json, quiet_libraries, say, say_prose

if TYPE_CHECKING:
    from hf_unmask.denoisers.adapter import Denoiser
    from hf_unmask.policy.model import UnmaskingPolicy

_Answer = TypeVar("_Answer")

PolicyArgument = Annotated[str, typer.Argument(metavar="POLICY", help="Folder, repository or builtin:NAME.")]
RevisionOption = Annotated[
    str | None,
    typer.Option("--revision", "--policy-revision", help="Branch, tag or commit of the policy. [default: main]"),
]
ResultsOption = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder of an evaluation of this policy, shown in its card.")
]
LicenseOption = Annotated[str | None, typer.Option(help="Licence of the policy, e.g. apache-2.0. [default: none]")]
MaxBytesOption = Annotated[int | None, typer.Option(help="Largest policy to load. [default: 16 MiB]")]


def push(  # noqa: PLR0913 - one argument per option
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of a saved policy.")],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="org/name; it is made if it does not exist.")],
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="Of a new repository. [default: as the account sets it]")
    ] = None,
    branch: Annotated[str | None, typer.Option(help="[default: main]")] = None,
    pull_request: Annotated[bool, typer.Option(help="Open a pull request, leave the branch as it is.")] = False,
    message: Annotated[str, typer.Option(help="Of the commit.")] = "Upload an unmasking policy",
    results: ResultsOption = None,
    license: LicenseOption = None,
    benchmark: Annotated[
        str | None,
        typer.Option(metavar="DATASET:TASK_ID", help="Put the accuracy in --results on this leaderboard of the Hub."),
    ] = None,
    with_custom_generate: Annotated[
        bool, typer.Option("--with-custom-generate", help="Add code, for generate(custom_generate=REPO).")
    ] = False,
    max_bytes: MaxBytesOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Push a policy: its card, config.json and model.safetensors, in one commit.

    A README.md in the folder is the card. Without one, or over a rendered one if there are --results, it is rendered.
    """
    with _plain_errors():
        from hf_unmask.policy.card.rendering import folder_card
        from hf_unmask.policy.hub.drop_in import drop_in_tags
        from hf_unmask.policy.hub.folders import find_policy, load_policy
        from hf_unmask.results.places import naming
        from hf_unmask.samplers.learned import LearnedUnmaskingSampler

        _check_results(results)
        policy = load_policy(find_policy(folder), **_limit(max_bytes))
        card = folder_card(policy, folder, results=results, license=license, tags=drop_in_tags(with_custom_generate))
        with naming(repo, f"nothing was pushed to {repo!r}"):
            done = LearnedUnmaskingSampler(policy, source=str(folder)).push_to_hub(
                repo,
                private=private,
                branch=branch,
                create_pr=pull_request,
                commit_message=message,
                with_custom_generate=with_custom_generate,
                results=results,
                card=card,
                benchmark=benchmark,
            )
        if as_json:
            print_json({"commit": done.oid, "url": done.commit_url, "pull_request": done.pr_url})
        else:
            say(done.pr_url or done.commit_url)


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
    with _plain_errors():
        from hf_unmask.policy.card.rendering import read_recipe, render_card
        from hf_unmask.policy.card.seal import is_rendered
        from hf_unmask.results.foreign_text import read_text

        _check_results(results)
        if output is not None and output.is_file() and not is_rendered(read_text(output)):
            raise ValueError(f"{output} was written or edited by hand: give another --output, or remove it")
        loaded, folder, _ = _load(policy, revision, max_bytes)
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


def pull(
    repo: Annotated[str, typer.Argument(metavar="REPO", help="org/name")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to save; an older policy is replaced.")],
    revision: RevisionOption = None,
    max_bytes: MaxBytesOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Download a policy, check it, and save it into a folder."""
    with _plain_errors():
        from hf_unmask.policy.hub.download import commit_of, download_policy
        from hf_unmask.policy.hub.folders import check_replaceable, load_policy, save_policy
        from hf_unmask.results.places import naming

        check_replaceable(folder)
        with naming(repo, f"the repository {repo!r} cannot be read"):
            cached = download_policy(repo, revision=revision, **_limit(max_bytes))
        save_policy(load_policy(cached, **_limit(max_bytes)), folder)
        if as_json:
            print_json({"repo": repo, "commit": commit_of(cached), "folder": str(folder)})
        else:
            say(f"{repo} at {commit_of(cached)} is in {folder}")


def info(
    policy: PolicyArgument,
    revision: RevisionOption = None,
    max_bytes: MaxBytesOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Say what a policy is, what it was trained for, and what its card claims about results."""
    with _plain_errors():
        from hf_unmask.policy.hub.files import WEIGHTS

        loaded, folder, commit = _load(policy, revision, max_bytes)
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
            "reads_revealed": config.reads_revealed,
            "speed_conditioned": config.speed_conditioned,
            "schema_version": config.schema_version,
        }
        code, results = _code(policy, folder), _results(policy, folder)
        if as_json:
            print_json({**facts, "code": code, "trained_for": config.trained_for, "results": results})
            return
        for key, value in {**facts, "code": _shown_code(code), **config.trained_for}.items():
            say(f"{key}: {_shown(value)}")
        say(*_shown_results(results))


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


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
    with _plain_errors():
        from hf_unmask.policy.compatibility import block_differences, model_differences

        length = None if block_length is None else read_block_length(block_length, least=0)  # 0 was full diffusion
        loaded, folder, commit = _load(policy, revision, max_bytes)
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


def search(
    query: Annotated[str | None, typer.Argument(metavar="QUERY", help="Part of the name.")] = None,
    base_model: Annotated[str | None, typer.Option(help="Repository of the denoiser.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most policies to list.")] = 50,
    as_json: JsonFlag = False,
) -> None:
    """List policies on the Hub, found by the tag that every card of this package carries."""
    with _plain_errors():
        from hf_unmask.policy.hub.client import TAG, hub_api

        tags = [TAG, *([f"base_model:{base_model}"] if base_model else [])]
        found = hub_api().list_models(filter=tags, search=query, limit=limit)
        rows = [
            {"id": one.id, "base_model": _bases(one.tags or []), "private": one.private, "downloads": one.downloads}
            for one in found
        ]
        if as_json:
            print_json({"policies": rows})
        elif not rows:
            say("no policy found", err=True)
        for row in () if as_json else rows:
            say(f"{row['id']}  for {_shown(row['base_model'] or None)}  {row['downloads'] or 0} downloads")


def _bases(tags: list[str]) -> list[str]:
    """The Hub tags a model with ``base_model:ID`` and, as the card says how, with ``base_model:adapter:ID``."""
    named = (tag.removeprefix("base_model:") for tag in tags if tag.startswith("base_model:"))
    return sorted({name.rpartition(":")[2] for name in named})


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Also for a connection that breaks: the client's errors of that kind are no OSError."""
    with plain_errors():
        quiet_libraries()
        try:
            yield
        except Exception as error:
            import httpx2  # the Hub client's own HTTP library

            if isinstance(error, httpx2.TransportError):
                raise ConnectionError(f"no connection to the Hub: {type(error).__name__} {error}") from error
            raise


def _check_results(results: Path | None) -> None:
    from hf_unmask.results.places import require_evaluation

    if results is not None:
        require_evaluation(results)


def _limit(max_bytes: int | None) -> dict[str, Any]:
    return {} if max_bytes is None else {"max_bytes": max_bytes}


def _load(policy: str, revision: str | None, max_bytes: int | None) -> tuple[UnmaskingPolicy, Path, str | None]:
    """The policy, its folder and, if it comes from the Hub, its commit."""
    from hf_unmask.policy.hub.download import commit_of
    from hf_unmask.policy.hub.folders import find_policy, load_policy

    folder = find_policy(policy, revision=revision, **_limit(max_bytes))
    return load_policy(folder, **_limit(max_bytes)), folder, commit_of(folder)


def _answered(ask: Callable[[], _Answer]) -> _Answer | None:
    """None: the Hub does not answer."""
    import httpx2  # see above

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


#: In the order in which ``--help`` lists them.
COMMANDS = (push, card, pull, info, verify, search)
