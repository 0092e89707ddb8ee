"""``hf-unmask push``, ``pull``, ``import`` and ``search``: policies that go to the Hub, or come from elsewhere.

There is no option for a token: command lines end in histories and process lists. The Hub's client reads ``HF_TOKEN`` or
what ``hf auth login`` stored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hf_unmask.cli.options import FULL, JsonFlag
from hf_unmask.cli.options import block_length as read_block_length
from hf_unmask.cli.policy_options import (
    LicenseOption,
    MaxBytesOption,
    ResultsOption,
    RevisionOption,
    check_results,
    hub_errors,
    shown,
    size_limit,
)
from hf_unmask.cli.terminal import print_json, say


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
    with hub_errors():
        from hf_unmask.policy.card.rendering import folder_card
        from hf_unmask.policy.hub.drop_in import drop_in_tags
        from hf_unmask.policy.hub.folders import find_policy, load_policy
        from hf_unmask.results.places import naming
        from hf_unmask.samplers.learned import LearnedUnmaskingSampler

        check_results(results)
        policy = load_policy(find_policy(folder), **size_limit(max_bytes))
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


def pull(
    repo: Annotated[str, typer.Argument(metavar="REPO", help="org/name")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to save; an older policy is replaced.")],
    revision: RevisionOption = None,
    max_bytes: MaxBytesOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Download a policy, check it, and save it into a folder."""
    with hub_errors():
        from hf_unmask.policy.hub.download import commit_of, download_policy
        from hf_unmask.policy.hub.folders import check_replaceable, load_policy, save_policy
        from hf_unmask.results.places import naming

        check_replaceable(folder)
        with naming(repo, f"the repository {repo!r} cannot be read"):
            cached = download_policy(repo, revision=revision, **size_limit(max_bytes))
        save_policy(load_policy(cached, **size_limit(max_bytes)), folder)
        if as_json:
            print_json({"repo": repo, "commit": commit_of(cached), "folder": str(folder)})
        else:
            say(f"{repo} at {commit_of(cached)} is in {folder}")


def import_(  # noqa: PLR0913 - one argument per option
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A .safetensors file, a folder with one, or org/name.")
    ],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to save; an older policy is replaced.")],
    file: Annotated[str | None, typer.Option(help="The file, where there are several.")] = None,
    num_heads: Annotated[int, typer.Option(min=1, help="Attention heads, which no shape tells.")] = 2,
    base_model: Annotated[str | None, typer.Option(help="Denoiser that it was trained for, for the record.")] = None,
    mask_token_id: Annotated[int | None, typer.Option(help="Of that denoiser, for the record.")] = None,
    block_length: Annotated[
        str | None, typer.Option(metavar="N|full", help="That it was trained in, for the record.")
    ] = None,
    revision: RevisionOption = None,
    max_bytes: MaxBytesOption = None,
) -> None:
    """Make a policy of one in the format of the paper's first code and its forks."""
    with hub_errors():
        from hf_unmask.policy.hub.folders import check_replaceable, save_policy
        from hf_unmask.policy.hub.importing import import_policy

        record: dict[str, Any] = {"base_model": base_model, "mask_token_id": mask_token_id}
        record = {key: value for key, value in record.items() if value is not None}
        if block_length is not None:
            length = read_block_length(block_length)
            record["block_length"] = None if length == FULL else int(length)
        check_replaceable(folder)
        policy = import_policy(
            source, file=file, num_heads=num_heads, trained_for=record, revision=revision, **size_limit(max_bytes)
        )
        save_policy(policy, folder)
        say(f"{policy.num_parameters():,} parameters are in {folder}: --sampler learned:{folder}")


def search(
    query: Annotated[str | None, typer.Argument(metavar="QUERY", help="Part of the name.")] = None,
    base_model: Annotated[str | None, typer.Option(help="Repository of the denoiser.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most policies to list.")] = 50,
    as_json: JsonFlag = False,
) -> None:
    """List policies on the Hub, found by the tag that every card of this package carries."""
    with hub_errors():
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
            say(f"{row['id']}  for {shown(row['base_model'] or None)}  {row['downloads'] or 0} downloads")


def _bases(tags: list[str]) -> list[str]:
    """The Hub tags a model with ``base_model:ID`` and, as the card says how, with ``base_model:adapter:ID``."""
    named = (tag.removeprefix("base_model:") for tag in tags if tag.startswith("base_model:"))
    return sorted({name.rpartition(":")[2] for name in named})
