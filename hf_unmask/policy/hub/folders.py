"""Policies on disk: a folder with config.json and model.safetensors, found, read and written atomically."""

from __future__ import annotations

import copy
import difflib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from hf_unmask.policy.config import PolicyLoadError, UnmaskingPolicyConfig
from hf_unmask.policy.hub.download import download_policy
from hf_unmask.policy.hub.files import (
    CONFIG,
    MAX_BYTES,
    MAX_JSON,
    WEIGHTS,
    parse_json,
    parse_weights,
    read_files,
    unfinished_config,
)
from hf_unmask.policy.hub.locking import locked
from hf_unmask.policy.hub.opening import read_inside
from hf_unmask.policy.hub.workspace import workspace
from hf_unmask.policy.model import UnmaskingPolicy
from hf_unmask.results.places import EVALUATION, RUN, kinds, naming, unreadable

BUILTIN = "builtin:"
_UNFINISHED = re.compile(r"\.config-[0-9a-f]{16}\.json")  # see `unfinished_config`
_WAIT = 60.0  # seconds; a save takes less than one
PACKAGED = Path(__file__).resolve().parents[2] / "policies"


def find_policy(source: str | Path, **hub_options: Any) -> Path:
    """The folder that holds a policy: a local folder, a packaged policy ``builtin:NAME``, or else a Hub repository.

    Errors of the Hub pass unchanged. ``hub_options``: those of `download_policy`.
    """
    name = str(source)
    if name.startswith(BUILTIN):
        return _packaged(name.removeprefix(BUILTIN))
    path = Path(name).expanduser()
    if path.is_dir():
        _check_holds_policy(path, name)
        return path
    if path.exists():
        raise PolicyLoadError("path", f"a file, {name!r}", f"a folder with {CONFIG} and {WEIGHTS}")
    # Repository ids have at most one slash and no leading dot: anything else was meant as a path.
    if isinstance(source, Path) or name.startswith((".", "/", "~")) or name.count("/") != 1 or "\\" in name:
        near = difflib.get_close_matches(name, _packaged_names(), n=1)
        meant = f" (did you mean {BUILTIN}{near[0]}?)" if near else ""
        raise PolicyLoadError(
            "path", f"no folder {name!r}", f"a local folder, builtin:NAME or a repository org/name{meant}"
        )
    with naming(name, unreadable("the policy", name)):
        return download_policy(name, **hub_options)


def _check_holds_policy(folder: Path, name: str) -> None:
    """Say what a folder holds that has neither file of a policy, and where one might be."""
    if any(os.path.lexists(folder / file) for file in (CONFIG, WEIGHTS)) or not (there := kinds(folder)):
        return
    checkpoints = sorted(folder.glob(f"checkpoint-*/{WEIGHTS}"), key=lambda path: (len(path.parent.name), str(path)))
    where = f"; one of its checkpoints is {str(checkpoints[-1].parent)!r}" if checkpoints else ""
    raise PolicyLoadError("path", f"{there[0]} in {name!r}", f"a folder with {CONFIG} and {WEIGHTS}{where}")


def _packaged_names() -> list[str]:
    return sorted(p.parent.name for p in PACKAGED.glob(f"*/{CONFIG}"))


def _packaged(name: str) -> Path:
    names = _packaged_names()
    if name not in names:
        raise PolicyLoadError("builtin", f"{name!r}", f"one of the packaged policies {names or '(none are packaged)'}")
    return PACKAGED / name


def load_policy(folder: str | Path, *, max_bytes: int = MAX_BYTES) -> UnmaskingPolicy:
    """Read a policy from a folder, on the CPU, in float32 and in evaluation mode. Other files there are not read.

    Anything missing, unknown, of a wrong type, shape or dtype, not finite or larger than ``max_bytes`` is a
    ``PolicyLoadError``.
    """
    config, weights = read_files(Path(folder), max_bytes)
    with torch.device("meta"):  # shapes are compared before any memory is spent
        policy = UnmaskingPolicy(config)
    policy.load_state_dict(parse_weights(weights, policy.state_dict()), assign=True)
    policy.train(False)
    return policy


@contextmanager
def saving(folder: Path) -> Iterator[Path]:
    """Be the only one who saves a policy to a folder, or wait for who does; yields the folder, links resolved.

    Raises:
        ValueError: another process takes very long to save one there.
        OSError: a folder that cannot be.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"cannot save a policy to {str(folder)!r}: it is a file")
    target = folder.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    refusal = f"another process has been saving a policy to {str(folder)!r} for {_WAIT:g} s: wait for it"
    with locked(target.with_name(f".{target.name}.lock"), refusal, _WAIT):
        yield target


def save_policy(policy: UnmaskingPolicy, folder: str | Path) -> None:
    """Write config.json and model.safetensors. Whatever fails, an older policy in that folder stays as it was.

    Both files are complete, and have been read back, before either takes its place. Other files in the folder are left
    alone. A process killed at any moment leaves a folder that loads as the old or as the new policy, never as a mixture
    (and perhaps a hidden folder of unused files beside it, which the next save removes). Of two processes that save to
    one folder the second waits for the first.
    """
    folder = Path(folder)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in policy.state_dict().items()}
    config = copy.deepcopy(policy.config)
    config.architectures, config.dtype = [type(policy).__name__], torch.float32
    config.validate()
    with saving(folder) as target, workspace(target) as work:
        new = work / "new"
        new.mkdir()
        try:
            (new / WEIGHTS).write_bytes(save(tensors, metadata={"format": "pt"}))  # save_file's errors are no OSError
            config.to_json_file(new / CONFIG)
        except OSError as error:
            raise OSError(error.errno, f"cannot save a policy to {str(folder)!r}: {error.strerror}") from error
        load_policy(new, max_bytes=max(MAX_BYTES, (new / WEIGHTS).stat().st_size))  # what cannot be read is not saved
        for name in (WEIGHTS, CONFIG):
            with (new / name).open("rb+") as file:
                os.fsync(file.fileno())  # else a power cut may keep the renames and lose the contents
        try:
            os.rename(new, target)
        except OSError:
            if not target.is_dir():
                raise
            # It holds files, perhaps only now: other processes of a training write into the same checkpoint.
            _replace_files(new, target, backup=work)


def check_replaceable(folder: Path) -> None:
    """Whether a policy can be saved there and replaces nothing but another policy.

    Raises:
        ValueError: config.json or model.safetensors there are those of something else.
    """
    other = [kind for kind in kinds(folder) if kind in (EVALUATION, RUN)]
    if other:
        raise ValueError(f"{str(folder)!r} holds {other[0]}: give another folder")
    there = [name for name in (CONFIG, WEIGHTS) if os.path.lexists(folder / name)]
    if not there or (CONFIG not in there and any(map(_is_unfinished, folder.iterdir()))):  # a save that was killed
        return
    try:
        found = parse_json(read_inside(folder, CONFIG, MAX_JSON) or b"null", CONFIG).get("model_type")
    except PolicyLoadError:
        found = None
    if found != UnmaskingPolicyConfig.model_type:
        raise ValueError(f"{there[0]} in {str(folder)!r} is no policy's, and would be replaced: give another folder")


def _is_unfinished(path: Path) -> bool:
    return _UNFINISHED.fullmatch(path.name) is not None


def _replace_files(new: Path, target: Path, backup: Path) -> None:
    """Two renames are not atomic together, so the config is put beside the old one first, tied to the new weights."""
    old = [name for name in (WEIGHTS, CONFIG) if os.path.lexists(target / name)]
    for name in old:
        shutil.copy2(target / name, backup / name, follow_symlinks=False)  # a link's target is not ours to copy
    unfinished = target / unfinished_config((new / WEIGHTS).read_bytes())
    try:
        os.rename(new / CONFIG, unfinished)  # not read as long as the old weights are there
        os.replace(new / WEIGHTS, target / WEIGHTS)  # from here on a reader finds the new policy
        os.replace(unfinished, target / CONFIG)
    except BaseException:  # Ctrl-C as well
        for name in (WEIGHTS, CONFIG):
            if name in old:
                os.replace(backup / name, target / name)
            else:
                (target / name).unlink(missing_ok=True)
        unfinished.unlink(missing_ok=True)
        raise
    for left in filter(_is_unfinished, target.iterdir()):  # by saves that were killed
        left.unlink(missing_ok=True)
