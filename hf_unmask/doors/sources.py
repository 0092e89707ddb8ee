"""What the name of a model stands for, looked at before anything is loaded or fetched."""

from __future__ import annotations

from pathlib import Path

from hf_unmask.results.places import POLICY, config_of, described, kinds, looks_like_path

_WEIGHTS = ("*.safetensors", "*.bin", "*.index.json")
_TOKENIZER = ("tokenizer*", "vocab*", "merges.txt", "*.model", "*.tiktoken", "tokenization_*.py")
_WHOLE = "a model's folder holds config.json, weights and a tokenizer"


def check_source(name: str, *, weights: bool = True) -> None:
    """Say what is missing where a name can only be a folder's, and what a folder lacks.

    Args:
        name: folder or repository.
        weights: whether they are needed.

    Raises:
        ValueError: no such folder, a file, or a folder that holds no model, or only a part of one.
    """
    folder = Path(name)
    if folder.is_file():
        raise ValueError(f"{name!r} is a file: {_WHOLE}")
    if not folder.is_dir():
        if looks_like_path(name):
            raise ValueError(f"no folder {name!r}: give a model's folder, a repository org/name, or `tiny`")
        return
    if POLICY in kinds(folder):
        raise ValueError(
            f"the folder {name!r} holds a policy, not a model: decode a model with it by the sampler learned:{name}"
        )
    if not (folder / "config.json").exists():
        raise ValueError(f"the folder {name!r} {described(folder)}, no config.json: {_WHOLE}")
    config = config_of(folder)
    if config is None:
        raise ValueError(f"config.json in {name!r} is no JSON object")
    if "model_type" not in config and "auto_map" not in config:
        raise ValueError(f"config.json in {name!r} names no model_type: it is not one of transformers' configs")
    if weights and not any(any(folder.glob(form)) for form in _WEIGHTS):
        raise ValueError(f"the folder {name!r} has no weights (*.safetensors): {_WHOLE}")


def check_tokenizer(name: str) -> None:
    """Say that a model's folder has no tokenizer; libraries say that they cannot guess its class.

    Raises:
        ValueError: it has none.
    """
    folder = Path(name)
    if folder.is_dir() and not any(any(folder.glob(form)) for form in _TOKENIZER):
        raise ValueError(f"the folder {name!r} has no tokenizer (tokenizer.json): save the model's own there")
