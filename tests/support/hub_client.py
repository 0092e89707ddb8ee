"""Jobs for a client process of the loopback Hub: ``python tests/hub_client.py`` reads phases from stdin as JSON.

A phase is a list of jobs that run at the same time: in threads, or in processes of their own if they say so. A job is
``{"do": NAME, ...arguments}``, its result ``{"value": ...}`` or ``{"error": class, "bases": [...], "message": ...}``.
One process per job from the start would spend the time of the tests on importing torch.

``process`` may hold limits of the job's process: ``file_bytes`` (largest file), ``disk`` (a folder that becomes a file
system of 300 KB), ``permissions`` (obeys them although root), ``pid_file`` (so that the test can kill it). A result
``{"impossible": [...]}`` names those that this machine does not allow.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

Job = Mapping[str, Any]
_CLONE_NEWNS, _MS_PRIVATE_REC = 0x20000, 0x44000
_OVERRIDE = 0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
_libc = ctypes.CDLL(None, use_errno=True)


def run(environment: Mapping[str, str], *phases: Sequence[Job], timeout: float = 600) -> list[list[dict[str, Any]]]:
    """Run jobs in a fresh client process. Returns their results by phase."""
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(phases),
        capture_output=True,
        text=True,
        env={**environment},
        timeout=timeout,
    )
    if done.returncode:
        raise RuntimeError(f"the client process failed: {done.stderr}")
    results: list[list[dict[str, Any]]] = json.loads(done.stdout)
    return results


# Jobs


def policy_of(seed: int = 0, hidden_size: int = 8, **trained_for: Any) -> Any:
    """A random policy; equal arguments make equal ones."""
    import torch

    from hf_unmask.policy import UnmaskingPolicy, UnmaskingPolicyConfig

    sizes = {"hidden_size": hidden_size, "intermediate_size": 4 * hidden_size, "num_heads": 2, "time_size": 4}
    policy = UnmaskingPolicy(UnmaskingPolicyConfig(**sizes, trained_for=trained_for))
    generator = torch.Generator().manual_seed(seed)  # jobs in threads share the global one
    for p in policy.parameters():
        p.data.normal_(0, 0.5, generator=generator)
    return policy


def digest(policy: Any) -> str:
    """Equal for policies with equal config and bit-identical tensors."""
    found = hashlib.sha256(json.dumps(policy.config.trained_for, sort_keys=True).encode())
    for name, tensor in sorted(policy.state_dict().items()):
        found.update(name.encode() + str(tensor.shape).encode() + tensor.numpy().tobytes())
    return found.hexdigest()


def push(repo: str, policy: Mapping[str, Any] = {}, **options: Any) -> dict[str, Any]:
    from hf_unmask import LearnedUnmaskingSampler

    pushed = LearnedUnmaskingSampler(policy_of(**policy)).push_to_hub(repo, **options)
    return {"commit": pushed.oid, "url": str(pushed), "pull_request": pushed.pr_url}


def push_twice(repo: str, token: str, **arguments: Any) -> dict[str, Any]:
    """A push, the commit that the branch is at then, and the same push again."""
    from huggingface_hub import HfApi

    first = attempt({"do": "push", "repo": repo, "token": token, **arguments})
    between = HfApi(token=token).model_info(repo).sha
    return {
        "first": first,
        "between": between,
        "again": attempt({"do": "push", "repo": repo, "token": token, **arguments}),
    }


def pull(repo: str, **options: Any) -> dict[str, str]:
    from hf_unmask import LearnedUnmaskingSampler

    sampler = LearnedUnmaskingSampler.from_pretrained(repo, **options)
    return {"digest": digest(sampler.policy), "spec": str(sampler)}


def pull_twice(repo: str, update: Mapping[str, Any] | None = None, token: str | None = None, **options: Any) -> Any:
    """A pull, what the cache alone then holds, and the same pull again.

    With ``update`` the cache holds the policy as it was when that one was pushed.
    """
    arguments = {"do": "pull", "repo": repo, "token": token, **options}
    if update is not None:
        pull(repo, token=token, **options)
        push(repo, update, token=token)
    return {
        "first": attempt(arguments),
        "offline": attempt({**arguments, "local_files_only": True}),
        "again": attempt(arguments),
    }


def lock(folder: str) -> None:
    """Take away every right to write."""
    for path in [Path(folder), *Path(folder).rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o500 if path.is_dir() else 0o400)


def spoil(cache_dir: str) -> int:
    """Turn a bit in every large file of a cache. Returns how many there are."""
    files = [path for path in Path(cache_dir).glob("models--*/blobs/*") if len(path.name) == 64]
    for path in files:
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    return len(files)


def plant(cache_dir: str, victim: str) -> int:
    """Let every link of a cache name a file of that name in a folder of the user's. Returns how many there are."""
    Path(victim).mkdir()
    links = [path for path in Path(cache_dir).glob("models--*/snapshots/*/*") if path.is_symlink()]
    for number, path in enumerate(links):
        other = Path(victim) / f"{number:0{len(Path(os.readlink(path)).name)}}"
        other.write_text("mine")
        path.unlink()
        path.symlink_to(other)
    return len(links)


def generate(repo: str | None = None, policy: Mapping[str, Any] = {}, **options: Any) -> dict[str, Any]:
    """Answers of the embedded model, in the order that a pulled or a made policy chooses."""
    import hf_unmask

    if repo is None:
        sampler = hf_unmask.LearnedUnmaskingSampler(policy_of(**policy))
    else:
        sampler = hf_unmask.LearnedUnmaskingSampler.from_pretrained(repo, **options)
    model, tokenizer = hf_unmask.load_tiny()
    ids = tokenizer(["3+4-2=", "5+8+1+1="], return_tensors="pt", padding=True, padding_side="left")
    output = hf_unmask.generate(
        model,
        ids["input_ids"],
        attention_mask=ids["attention_mask"],
        sampler=sampler,
        max_new_tokens=16,
        temperature=0.7,
        seed=5,
        return_dict_in_generate=True,
    )
    return {"tokens": output.sequences.tolist(), "step_map": output.step_map.tolist(), "digest": digest(sampler.policy)}


def drop_in(**arguments: Any) -> dict[str, Any]:
    """A call of a model's own ``generate`` with a repository as ``custom_generate``."""
    import drop_in_client

    return drop_in_client.call(**arguments)


def drop_in_twice(**arguments: Any) -> dict[str, Any]:
    return {name: attempt({"do": "drop_in", **arguments}) for name in ("first", "again")}


def command(arguments: list[str]) -> dict[str, Any]:
    """A call of ``hf-unmask``."""
    from typer.testing import CliRunner

    from hf_unmask.cli.main import app

    done = CliRunner().invoke(app, arguments)
    return {"code": done.exit_code, "out": done.stdout, "err": done.stderr}


JOBS: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (push, push_twice, pull, pull_twice, lock, spoil, plant, generate, drop_in, drop_in_twice, command)
}


# Running them


def attempt(job: Job) -> dict[str, Any]:
    arguments = {key: value for key, value in job.items() if key not in ("do", "process")}
    try:
        return {"value": JOBS[job["do"]](**arguments)}
    except Exception as error:
        bases = [base.__name__ for base in type(error).__mro__]
        return {"error": type(error).__name__, "bases": bases, "message": str(error)}


def run_phase(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    forked = {place: _fork(job) for place, job in enumerate(jobs) if "process" in job}
    rest = [place for place in range(len(jobs)) if place not in forked]
    with ThreadPoolExecutor(max_workers=max(len(rest), 1)) as pool:
        results = dict(zip(rest, pool.map(lambda place: attempt(jobs[place]), rest), strict=True))
    results |= {place: _collect(*child) for place, child in forked.items()}
    return [results[place] for place in range(len(jobs))]


def _fork(job: Job) -> tuple[int, int]:
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        return child, reader
    os.close(reader)
    try:
        impossible = [name for name, value in job["process"].items() if not _limited(name, value)]
        result = {"impossible": impossible} if impossible else attempt(job)
    except BaseException as error:
        result = {"error": "broken job", "bases": [], "message": repr(error)}
    with contextlib.suppress(OSError), os.fdopen(writer, "w") as file:
        json.dump(result, file)
    os._exit(0)


def _collect(child: int, reader: int) -> dict[str, Any]:
    with os.fdopen(reader) as file:
        text = file.read()
    _, status = os.waitpid(child, 0)
    return {"killed": signal.Signals(os.WTERMSIG(status)).name} if os.WIFSIGNALED(status) else json.loads(text)


def _limited(name: str, value: Any) -> bool:
    try:
        return _LIMITS[name](value)
    except AttributeError:  # a call that only Linux has
        return False


def _limit_files(largest: int) -> bool:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    return True


def _small_disk(folder: str) -> bool:
    Path(folder).mkdir(parents=True)
    return (
        _libc.unshare(_CLONE_NEWNS) == 0
        and _libc.mount(None, b"/", None, _MS_PRIVATE_REC, None) == 0
        and _libc.mount(b"tmpfs", folder.encode(), b"tmpfs", 0, b"size=300k") == 0
    )


def _obey_permissions(wanted: bool) -> bool:
    """Give up the right of root to read and write whatever the permissions say."""
    if not wanted or os.geteuid() != 0:
        return True
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if _libc.capget(header, data) != 0:
        return False
    data[0] &= ~_OVERRIDE  # effective, the lower half
    return bool(_libc.capset(header, data) == 0)


def _tell_pid(file: str) -> bool:
    Path(file).write_text(str(os.getpid()))
    return True


_LIMITS: dict[str, Callable[[Any], bool]] = {
    "file_bytes": _limit_files,
    "disk": _small_disk,
    "permissions": _obey_permissions,
    "pid_file": _tell_pid,
}


def main() -> None:
    import torch

    from hf_unmask import LearnedUnmaskingSampler  # imported before any process is forked

    del LearnedUnmaskingSampler
    torch.set_num_threads(1)
    phases, answer = json.load(sys.stdin), sys.stdout
    with contextlib.redirect_stdout(io.StringIO()):
        results = [run_phase(jobs) for jobs in phases]
    json.dump(results, answer)


if __name__ == "__main__":
    main()
