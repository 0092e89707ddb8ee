"""Policy folders as an attacker would write them."""

from __future__ import annotations

import json
import math
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from policies import SMALL
from safetensors.torch import load_file, save_file

from hf_unmask.policy import UnmaskingPolicy, UnmaskingPolicyConfig, save_policy

CONFIG, WEIGHTS = "config.json", "model.safetensors"
#: Whatever runs code of a folder makes this folder.
CANARY = "canary"
Damage = Callable[[Path], Any]


def write_policy(folder: Path, seed: int = 0, **options: Any) -> None:
    torch.manual_seed(seed)
    save_policy(UnmaskingPolicy(UnmaskingPolicyConfig(**SMALL | options)), folder)


def split(weights: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and values of a safetensors file."""
    length = int.from_bytes(weights[:8], "little")
    return json.loads(weights[8 : 8 + length]), weights[8 + length :]


def join(header: dict[str, Any] | bytes, body: bytes, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


# Changes of one file


def config(**changes: Any) -> Damage:
    """Keys replaced or added."""
    return config_text(lambda text: json.dumps(json.loads(text) | changes))


def config_text(change: Callable[[str], str | bytes]) -> Damage:
    def damage(folder: Path) -> None:
        text = change((folder / CONFIG).read_text())
        (folder / CONFIG).write_bytes(text if isinstance(text, bytes) else text.encode())

    return damage


def in_config(key: str, value: str) -> Damage:
    """A key with a value that only exists as text, added at the end."""
    return config_text(lambda text: text.rstrip().removesuffix("}") + f', "{key}": {value}}}')


def weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Damage:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS)

    return damage


def cast(dtype: torch.dtype) -> Damage:
    return weights(lambda tensors: tensors.update({name: t.to(dtype) for name, t in tensors.items()}))


def layout(change: Callable[[dict[str, Any], bytes], bytes]) -> Damage:
    """The file rebuilt from header and values."""

    def damage(folder: Path) -> None:
        (folder / WEIGHTS).write_bytes(change(*split((folder / WEIGHTS).read_bytes())))

    return damage


def entry(name: str, **changes: Any) -> Damage:
    def change(header: dict[str, Any], body: bytes) -> bytes:
        header[name] |= changes
        return join(header, body)

    return layout(change)


def shift(name: str, by: int) -> Damage:
    """One tensor claims bytes of its neighbours."""

    def change(header: dict[str, Any], body: bytes) -> bytes:
        header[name]["data_offsets"] = [offset + by for offset in header[name]["data_offsets"]]
        return join(header, body)

    return layout(change)


def twice(header: dict[str, Any], body: bytes) -> bytes:
    repeated = json.dumps({"head.bias": header["head.bias"]})[1:-1]
    return join((json.dumps(header)[:-1] + f", {repeated}}}").encode(), body)


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


# Files that are not what they seem


def link(name: str, target: str | Path) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(target)

    return damage


def link_outside(name: str) -> Damage:
    """A link to a good file beside the folder."""

    def damage(folder: Path) -> None:
        outside = folder.parent.parent / f"outside-{folder.parent.name}-{name}"
        (folder / name).rename(outside)
        (folder / name).symlink_to(f"../../{outside.name}")

    return damage


def instead(name: str, make: Callable[[Path], Any]) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return damage


class Executed:
    """Unpickling makes the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = str(canary)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.canary,)


def add_code(folder: Path) -> None:
    """A pickle of every usual name, and modules of every name that somebody might import."""
    canary = folder.parent / CANARY
    for name in ("pytorch_model.bin", "model.pt", "training_args.bin", "optimizer.pt", "adapter_model.bin"):
        (folder / name).write_bytes(pickle.dumps(Executed(canary), protocol=2))
    code = f"import os\nos.mkdir({str(canary)!r})\nclass Model: pass\nclass Config: pass\n"
    for name in ("__init__", "evil", "hf_unmask", "torch", "configuration_policy", "sitecustomize", "generate"):
        (folder / f"{name}.py").write_text(code)
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(code)


def both(*damages: Damage) -> Damage:
    def damage(folder: Path) -> None:
        for each in damages:
            each(folder)

    return damage


EVIL_MAP = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}

#: Name: (what is done to a good folder, the key that the error must name).
CASES: dict[str, tuple[Damage, str]] = {
    # code
    "a pickle instead of weights": (both(add_code, lambda f: (f / WEIGHTS).unlink()), WEIGHTS),
    "a pickle named safetensors": (
        both(add_code, lambda f: (f / "pytorch_model.bin").rename(f / WEIGHTS)),
        WEIGHTS,
    ),
    "auto_map to code in the folder": (both(add_code, config(auto_map=EVIL_MAP)), "auto_map"),
    "auto_map to another repository": (config(auto_map={"AutoModel": "evil/repo--evil.Model"}), "auto_map"),
    "a kernel of the Hub": (config(attn_implementation="evil/kernel"), "attn_implementation"),
    "a name of Python's own": (config(self=None), "self"),
    "custom pipelines": (config(custom_pipelines={"x": {"impl": "evil.Model"}}), "custom_pipelines"),
    "another config file": (config(configuration_files=["config.4.0.0.json"]), "configuration_files"),
    "quantization": (config(quantization_config={"quant_method": "__import__('os').abort()"}), "quantization_config"),
    "code as an unknown value": (config(_name_or_path="__import__('os').system('true')"), "_name_or_path"),
    "code as labels": (config(id2label={"0": "{{ ''.__class__ }}"}), "id2label"),
    "code as a dtype": (config(dtype="load"), "dtype"),
    "a module as a dtype": (config(dtype="_inductor"), "dtype"),
    "a terminal sequence as a key": (config(**{"\x1b]0;owned\x07": 1}), "\x1b]0;owned\x07"),
    # config: sizes and values
    "huge hidden_size": (config(hidden_size=10**9), "hidden_size"),
    "huge top_k": (config(top_k=2**31), "top_k"),
    "largest allowed sizes": (
        config(hidden_size=16384, intermediate_size=65536, top_k=4096, hidden_input_size=65536),
        "hidden_projection.bias",
    ),
    "an integer of 4,000 digits": (in_config("top_k2", "1" + "0" * 4000), "top_k2"),
    "an integer of a million digits": (in_config("top_k2", "1" + "0" * 10**6), CONFIG),
    "a top_k of 4,000 digits": (config(top_k=10**4000), "top_k"),
    "negative size": (config(intermediate_size=-16), "intermediate_size"),
    "zero heads": (config(num_heads=0), "num_heads"),
    "heads that do not divide": (config(num_heads=3), "hidden_size"),
    "a size as text": (config(time_size="4"), "time_size"),
    "a size as a float": (config(time_size=4.0), "time_size"),
    "a size as true": (config(top_k=True), "top_k"),
    "1e999": (config_text(lambda t: t.replace('"stop_logit": 0.0', '"stop_logit": 1e999')), "stop_logit"),
    "NaN": (config(rope_theta=math.nan), "rope_theta"),
    "a made-up action": (config(action="run"), "action"),
    "speed without a range": (config(speed_conditioned=True), "log_alpha_range"),
    "half precision": (config(dtype="float16"), "dtype"),
    "another model": (config(model_type="bert"), "model_type"),
    "a nested model type": (config(model_type=[["unmask_policy"]]), "model_type"),
    "a newer schema": (config(schema_version=2), "schema_version"),
    "an unknown key": (config(hidden_sise=8), "hidden_sise"),
    "architectures of other types": (config(architectures=["UnmaskingPolicy", {"x": 1}]), "architectures"),
    "an enormous architecture": (config(architectures=["A" * 10**5]), "architectures"),
    "a version with line breaks": (config(transformers_version="5\n# Ignore the above"), "transformers_version"),
    "trained_for is a list": (config(trained_for=["org/model"]), "trained_for"),
    "trained_for with numbers as text": (config(trained_for={"block_length": "32"}), "trained_for.block_length"),
    "trained_for with an unknown key": (config(trained_for={"token": "hf_x"}), "trained_for.token"),
    "trained_for with enormous text": (config(trained_for={"task": "x" * 500_000}), "trained_for.task"),
    "trained_for with half a character": (config(trained_for={"dataset": "\ud800"}), "trained_for.dataset"),
    "trained_for with a terminal sequence": (config(trained_for={"base_model": "\x1b[2J"}), "trained_for.base_model"),
    "a lineage of 10,000": (config(trained_for={"lineage": ["a"] * 10_000}), "trained_for.lineage"),
    "a lineage 900 levels deep": (in_config("trained_for", f'{{"lineage": {deep(900)}}}'), "trained_for"),
    # config: text
    "duplicate key": (in_config("top_k", "1"), "top_k"),
    "duplicate key further down": (in_config("trained_for2", '{"task": "a", "task": "b"}'), "task"),
    "100,000 levels": (in_config("x", deep(100_000)), CONFIG),
    "100,000 levels of objects": (in_config("x", '{"a":' * 100_000 + "1" + "}" * 100_000), CONFIG),
    "no UTF-8": (config_text(lambda t: t.replace("canvas", "\xe9").encode("latin-1")), CONFIG),
    "UTF-16": (config_text(lambda t: t.encode("utf-16")), CONFIG),
    "no JSON": (config_text(lambda t: t[:-3]), CONFIG),
    "text after the JSON": (config_text(lambda t: t + "{}"), CONFIG),
    "a list": (config_text(lambda t: f"[{t}]"), CONFIG),
    "empty config": (lambda f: os.truncate(f / CONFIG, 0), CONFIG),
    "a config of 200 MB": (lambda f: os.truncate(f / CONFIG, 200 * 2**20), CONFIG),
    "a million empty objects": (in_config("x", "[" + "{}," * 10**6 + "{}]"), CONFIG),
    # links and special files
    "weights link outside": (link_outside(WEIGHTS), WEIGHTS),
    "config links outside": (link_outside(CONFIG), CONFIG),
    "weights link to an endless device": (link(WEIGHTS, "/dev/zero"), WEIGHTS),
    "config links to an endless device": (link(CONFIG, "/dev/zero"), CONFIG),
    "config links to a terminal": (link(CONFIG, "/dev/tty"), CONFIG),
    "config links to process data": (link(CONFIG, "/proc/self/environ"), CONFIG),
    "weights link to nothing": (link(WEIGHTS, "nowhere"), WEIGHTS),
    "weights link to themselves": (link(WEIGHTS, WEIGHTS), WEIGHTS),
    "weights link by traversal": (link(WEIGHTS, "../../../../../../etc/passwd"), WEIGHTS),
    "weights are a folder": (instead(WEIGHTS, Path.mkdir), WEIGHTS),
    "config is a folder": (instead(CONFIG, Path.mkdir), CONFIG),
    "weights are a pipe": (instead(WEIGHTS, os.mkfifo), WEIGHTS),
    "config is a pipe": (instead(CONFIG, os.mkfifo), CONFIG),
    "an index to files elsewhere": (
        both(
            lambda f: (f / WEIGHTS).rename(f / "weights"),
            lambda f: (f / f"{WEIGHTS}.index.json").write_text('{"weight_map": {"head.bias": "../../x"}}'),
        ),
        WEIGHTS,
    ),
    # weights: the container
    "empty weights": (lambda f: os.truncate(f / WEIGHTS, 0), WEIGHTS),
    "seven bytes": (lambda f: os.truncate(f / WEIGHTS, 7), WEIGHTS),
    "no values": (layout(lambda h, b: join(h, b[:0])), WEIGHTS),
    "cut values": (layout(lambda h, b: join(h, b[:-4])), WEIGHTS),
    "values that nobody claims": (layout(lambda h, b: join(h, b + b"\0" * 64)), WEIGHTS),
    "10 GB of nothing": (lambda f: os.truncate(f / WEIGHTS, 10 * 2**30), WEIGHTS),
    "header longer than the file": (layout(lambda h, b: join(h, b, length=10**7)), WEIGHTS),
    "header of 2^64 bytes": (layout(lambda h, b: join(h, b, length=2**64 - 1)), WEIGHTS),
    "header of no bytes": (layout(lambda h, b: join(h, b, length=0)), WEIGHTS),
    "header of 8 MB": (layout(lambda h, b: join(json.dumps(h).encode() + b" " * 2**23, b)), WEIGHTS),
    "header is no JSON": (layout(lambda h, b: join(b"\x80\x04" + json.dumps(h).encode()[2:], b)), WEIGHTS),
    "header is no UTF-8": (layout(lambda h, b: join(json.dumps(h).encode().replace(b"pt", b"\xff\xfe"), b)), WEIGHTS),
    "header is a list": (layout(lambda h, b: join(b"[" + json.dumps(h).encode() + b"]", b)), WEIGHTS),
    "header 100,000 levels deep": (
        layout(lambda h, b: join(b'{"x":' + deep(100_000).encode() + json.dumps(h).encode(), b)),
        WEIGHTS,
    ),
    "header with a tensor twice": (layout(twice), "head.bias"),
    "header with numbers as metadata": (layout(lambda h, b: join(h | {"__metadata__": {"a": 1}}, b)), WEIGHTS),
    "overlapping tensors": (shift("query.weight", -32), WEIGHTS),
    "a hole between tensors": (shift("value.weight", 32), WEIGHTS),
    "negative offsets": (entry("head.bias", data_offsets=[-4, 0]), WEIGHTS),
    "offsets backwards": (entry("head.bias", data_offsets=[8, 4]), WEIGHTS),
    "offsets beyond 2^64": (entry("head.bias", data_offsets=[2**64, 2**64 + 4]), WEIGHTS),
    "offsets beyond the file": (entry("head.bias", data_offsets=[10**10, 10**10 + 4]), WEIGHTS),
    "a tensor without offsets": (layout(lambda h, b: join(h | {"head.bias": {"dtype": "F32"}}, b)), "head.bias"),
    "a tensor that is a number": (layout(lambda h, b: join(h | {"head.bias": 1}, b)), "head.bias"),
    # weights: the tensors
    "10 GB claimed by a shape": (entry("head.bias", shape=[2_500_000_000]), "head.bias"),
    "a shape that overflows": (entry("head.bias", shape=[2**32, 2**32]), "head.bias"),
    "negative shape": (entry("head.bias", shape=[-1]), "head.bias"),
    "a shape of 100,000 dimensions": (entry("head.bias", shape=[1] * 100_000), "head.bias"),
    "a made-up dtype": (entry("head.bias", dtype="PICKLE"), "head.bias"),
    "missing tensor": (weights(lambda t: t.pop("head.bias")), "head.bias"),
    "unexpected tensor": (weights(lambda t: t.update({"../../etc/cron.d/x": torch.zeros(1)})), "../../etc/cron.d/x"),
    "mismatched tensor": (weights(lambda t: t.update({"head.bias": torch.zeros(2)})), "head.bias"),
    "float16": (cast(torch.float16), "attention_norm.bias"),
    "bfloat16": (cast(torch.bfloat16), "attention_norm.bias"),
    "int8": (cast(torch.int8), "attention_norm.bias"),
    "float64": (cast(torch.float64), "attention_norm.bias"),
    "one NaN": (weights(lambda t: t["query.weight"][3, 3:4].fill_(math.nan)), "query.weight"),
    "one infinity": (weights(lambda t: t["head.bias"].fill_(-math.inf)), "head.bias"),
}
#: Folders that are good but for files that nobody may read.
HARMLESS: dict[str, Damage] = {
    "pickles and code beside good weights": add_code,
    "an endless card": lambda f: (f / "README.md").symlink_to("/dev/zero"),
    "the config of an unknown save": lambda f: (f / f".config-{'0' * 16}.json").write_text("{"),
    "adapters": lambda f: (f / "adapter_config.json").write_text('{"base_model_name_or_path": "evil/repo"}'),
}


def build(root: Path) -> None:
    """A good folder and one per case, numbered: ROOT/0/policy, ROOT/1/policy ..."""
    write_policy(root / "good")
    for number, damage in enumerate([damage for damage, _ in CASES.values()] + list(HARMLESS.values())):
        damage(shutil.copytree(root / "good", root / str(number) / "policy"))
