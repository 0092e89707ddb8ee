"""Policies in the format of the paper's first code, and of its forks, made policies of this package.

It is the same network (https://arxiv.org/abs/2512.09106) under other names, in one safetensors file that says nothing
of itself, and its rotary embedding turns neighbouring rows of a head, where ours turns one half against the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hf_unmask.policy.config import PolicyLoadError, UnmaskingPolicyConfig
from hf_unmask.policy.hub.client import hub_api
from hf_unmask.policy.hub.files import MAX_BYTES, check_max_bytes, declared_shapes, parse_weights
from hf_unmask.policy.hub.opening import read_inside
from hf_unmask.policy.model import UnmaskingPolicy
from hf_unmask.results.foreign_text import shown
from hf_unmask.results.places import naming, unreadable

_PREFIX, _BUFFER, _SUFFIX = "base_policy.", ".inv_freq", ".safetensors"
_LAYER = "transformer_blocks.0."
#: Their modules by ours.
_NAMES = {
    "confidence_projection": "confidence_proj",
    "mask_embedding": "mask_embedding",
    "time_mlp.0": "time_mlp.0",
    "time_mlp.2": "time_mlp.2",
    "modulation": f"{_LAYER}ada_conditioning",
    "attention_norm": f"{_LAYER}norm1",
    "feed_forward_norm": f"{_LAYER}norm2",
    "query": f"{_LAYER}q_proj",
    "key": f"{_LAYER}k_proj",
    "value": f"{_LAYER}v_proj",
    "attention_output": f"{_LAYER}out_proj",
    "feed_forward.0": f"{_LAYER}linear1",
    "feed_forward.2": f"{_LAYER}linear2",
    "final_norm": "final_norm",
    "head": "output_proj",
}
_SIZES = {
    "hidden_size": ("confidence_proj.weight", 0),
    "top_k": ("confidence_proj.weight", 1),
    "time_size": ("time_mlp.0.weight", 1),
    "intermediate_size": (f"{_LAYER}linear1.weight", 0),
}


def import_policy(
    source: str | Path,
    *,
    file: str | None = None,
    num_heads: int = 2,
    trained_for: Mapping[str, Any] | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    max_bytes: int = MAX_BYTES,
) -> UnmaskingPolicy:
    """A policy of the seed release's format as one of this package; save it with `save_policy`.

    Widths are read from the shapes of the tensors. bfloat16 and float16 become float32.

    Args:
        source: a .safetensors file, a folder that holds one, or a repository ``org/name`` of the Hub.
        file: name of the file in the folder or repository. None: the only .safetensors file there is.
        num_heads: attention heads, which no shape tells; the release has 2.
        trained_for: the record for the config, see `UnmaskingPolicyConfig`; the file holds none.
        revision, token: of the repository.
        max_bytes: largest file to read.

    Returns:
        The policy in evaluation mode, float32.

    Raises:
        PolicyLoadError: the file is missing, too large or damaged, holds tensors that this network has not, more than
            one layer, or a head that also takes decisions back.
    """
    check_max_bytes(max_bytes)
    folder, name = _find(source, file, revision, token, max_bytes)
    data = read_inside(folder, name, max_bytes, " (the argument `max_bytes` raises this limit)")
    if data is None:
        raise PolicyLoadError("file", f"no {name!r} in {str(folder)!r}", f"a {_SUFFIX} file")
    shapes = {_plain(key): shape for key, shape in declared_shapes(data).items()}
    sizes: dict[str, Any] = {key: _size(shapes, *place) for key, place in _SIZES.items()}
    origin = Path(source).name if Path(source).expanduser().exists() else str(source)  # paths are nobody's business
    record = {"lineage": [origin], **(trained_for or {})}
    config = UnmaskingPolicyConfig(**sizes, num_heads=num_heads, trained_for=record)
    _check_kind(shapes)
    with torch.device("meta"):  # shapes that a file claims take no memory before its content is seen to have them
        expected = {_theirs(key): tensor for key, tensor in UnmaskingPolicy(config).state_dict().items()}
    found = parse_weights(data, expected, names=_plain, dtypes=("F32", "BF16", "F16"))
    policy = UnmaskingPolicy(config)
    policy.load_state_dict({key: _turned(key, found[_theirs(key)].float(), config) for key in policy.state_dict()})
    policy.train(False)
    return policy


def _find(
    source: str | Path, file: str | None, revision: str | None, token: str | bool | None, max_bytes: int
) -> tuple[Path, str]:
    """The folder that holds the file, and its name there."""
    path = Path(source).expanduser()
    if path.is_file():
        return path.parent, path.name
    if path.is_dir():
        return path, file or _only([one.name for one in path.iterdir()], str(source))
    if isinstance(source, Path) or source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise PolicyLoadError("path", f"no file or folder {str(source)!r}", f"a {_SUFFIX} file or org/name of the Hub")
    with naming(source, unreadable("the policy", source)):
        api = hub_api(token)
        name = file or _only(api.list_repo_files(source, revision=revision), source)
        size = api.hf_hub_download(source, name, revision=revision, dry_run=True).file_size
        if size is None or size > max_bytes:
            raise PolicyLoadError(name, f"{size} bytes in {source!r}", f"at most {max_bytes}; `max_bytes` allows more")
        path = Path(api.hf_hub_download(source, name, revision=revision))
        return path.parents[len(Path(name).parts) - 1], name  # the folder of the commit


def _only(names: list[str], source: str) -> str:
    found = sorted(name for name in names if name.endswith(_SUFFIX))
    if len(found) != 1:
        raise PolicyLoadError("file", f"{', '.join(found) or 'none'} in {source!r}", f"one {_SUFFIX} file: name it")
    return found[0]


def _plain(key: str) -> str:
    """Their name of a tensor without what wrappers put before it; '' for what is no weight."""
    return "" if key.endswith(_BUFFER) else key.removeprefix(_PREFIX)


def _theirs(key: str) -> str:
    module, _, kind = key.rpartition(".")
    return f"{_NAMES[module]}.{kind}"


def _size(shapes: Mapping[str, Any], key: str, dimension: int) -> int:
    shape = shapes.get(key)
    if not isinstance(shape, list) or len(shape) != 2:
        raise PolicyLoadError(key, shown(shape), "a matrix: is this a policy of the seed release's format?")
    found: int = shape[dimension]  # checked with the config
    return found


def _check_kind(shapes: Mapping[str, Any]) -> None:
    if deeper := sorted(key for key in shapes if key.startswith("transformer_blocks.") and not key.startswith(_LAYER)):
        raise PolicyLoadError(deeper[0], "a further layer", "one layer, as in the paper")
    rows = _size(shapes, "output_proj.weight", 0)
    if rows != 1:
        raise PolicyLoadError(
            "output_proj.weight",
            f"{rows} rows" + (" (keep, open, remask)" if rows == 3 else ""),
            "1 row: a policy that opens positions and takes none back",
        )


def _turned(key: str, tensor: Tensor, config: UnmaskingPolicyConfig) -> Tensor:
    """Rows of queries and keys, per head: neighbours become halves."""
    if not key.startswith(("query.", "key.")):
        return tensor
    heads = tensor.reshape(config.num_heads, -1, *tensor.shape[1:])
    return torch.cat([heads[:, 0::2], heads[:, 1::2]], dim=1).flatten(0, 1)
