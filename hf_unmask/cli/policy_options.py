"""What commands about policies share: their options, how a policy is found, and errors of the Hub in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_unmask.cli.terminal import plain_errors, quiet_libraries

if TYPE_CHECKING:
    from hf_unmask.policy.model import UnmaskingPolicy

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


@contextmanager
def hub_errors() -> Iterator[None]:
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


def check_results(results: Path | None) -> None:
    """An error if it is no folder of an evaluation, before anything is loaded."""
    from hf_unmask.results.places import require_evaluation

    if results is not None:
        require_evaluation(results)


def size_limit(max_bytes: int | None) -> dict[str, Any]:
    return {} if max_bytes is None else {"max_bytes": max_bytes}


def find(policy: str, revision: str | None, max_bytes: int | None) -> tuple[UnmaskingPolicy, Path, str | None]:
    """The policy, its folder and, if it comes from the Hub, its commit."""
    from hf_unmask.policy.hub.download import commit_of
    from hf_unmask.policy.hub.folders import find_policy, load_policy

    folder = find_policy(policy, revision=revision, **size_limit(max_bytes))
    return load_policy(folder, **size_limit(max_bytes)), folder, commit_of(folder)


def shown(value: Any) -> str:
    """A recorded value; `-` is none."""
    if value is None:
        return "-"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
