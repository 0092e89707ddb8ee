"""The unmasking policy network: one small transformer layer over the positions to fill."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init

from hf_unmask.policy.config import CODE_SIZE, PolicyLoadError, UnmaskingPolicyConfig
from hf_unmask.policy.hub.files import MAX_BYTES, parse_weights, read_files, unfinished_config


def time_features(time: Tensor, size: int) -> Tensor:
    """cos(t) and sin(t), each repeated size / 2 times: [...] -> [..., size].

    The original's sinusoidal embedding has period constant 1, which makes all its frequencies equal 1. It computes
    them in bfloat16; here they keep the precision of ``time``, so that neighbouring steps of a long canvas differ.
    """
    half = (*time.shape, size // 2)
    return torch.cat([time.cos()[..., None].expand(half), time.sin()[..., None].expand(half)], dim=-1)


def rotate(x: Tensor, theta: float) -> Tensor:
    """Rotary position embedding, places 0 .. L - 1 counted inside the window: [..., L, D] -> [..., L, D]."""
    length, width = x.shape[-2:]
    frequency = theta ** (-torch.arange(0, width, 2, device=x.device, dtype=x.dtype) / width)
    angle = torch.arange(length, device=x.device, dtype=x.dtype)[:, None] * frequency  # [L, D / 2]
    cos, sin = angle.cos(), angle.sin()
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def require_finite(policy: nn.Module) -> None:
    """Raise `PolicyLoadError` for weights that are not finite, which would open positions at will. One look at the
    device."""
    weights = policy.state_dict()
    finite = torch.stack([tensor.isfinite().all() for tensor in weights.values()]).tolist()
    for name, right in zip(weights, finite, strict=True):
        if not right:
            raise PolicyLoadError(name, "values that are not finite", "finite values: load it again")


def _check_loaded(policy: nn.Module, info: Mapping[str, Any]) -> None:
    """Raise `PolicyLoadError` for what transformers only reports, or passes over."""
    for kind, found in info.items():
        if found:
            raise PolicyLoadError(kind, sorted(map(str, found)), "none")
    require_finite(policy)


class _Zero(nn.Module):
    """A linear map that begins as zero, and draws no random numbers, which the other weights take from the seed."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


class UnmaskingPolicy(PreTrainedModel):
    """Reads how sure the denoiser is at every position and answers with one logit per position.

    A content stream (confidences) is modulated by a conditioning stream (mask bit and time, per position). The block
    is an ordinary pre-norm transformer block with six modulation vectors; since the gates are 1 + gate, zero
    modulation leaves an ordinary block. Bidirectional, dropout-free, 331,265 parameters with the default config.
    Source: https://arxiv.org/abs/2512.09106.
    """

    config_class = UnmaskingPolicyConfig
    config: UnmaskingPolicyConfig
    base_model_prefix = "policy"
    main_input_name = "confidences"
    _supports_sdpa = True
    _no_split_modules: list[str] = []

    def __init__(self, config: UnmaskingPolicyConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.confidence_projection = nn.Linear(config.top_k, width)
        self.mask_embedding = nn.Embedding(2, width)
        self.time_mlp = nn.Sequential(nn.Linear(config.time_size, width), nn.SiLU(), nn.Linear(width, width))
        self.modulation = nn.Linear(width, 6 * width)
        self.attention_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.attention_output = nn.Linear(width, width)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, config.intermediate_size), nn.GELU(), nn.Linear(config.intermediate_size, width)
        )
        self.final_norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 1)
        # Optional inputs come last, so that the same seed gives the same shared weights with and without them.
        self.hidden_projection = nn.Linear(config.hidden_input_size, width) if config.hidden_input_size else None
        self.speed_mlp = (
            nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width)) if config.speed_conditioned else None
        )
        self.further_projection = _Zero(config.further_size, width) if config.further_size else None
        self.calibration_projection = _Zero(CODE_SIZE, width) if "calibration" in config.further_inputs else None
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        """PyTorch's own defaults, except for zero modulation, the constant bias of the head and further inputs.

        At the start the logits thus depend on confidences and places only, and are about ``initial_bias``.
        """
        if module is self.modulation:
            init.zeros_(self.modulation.weight)
            init.zeros_(self.modulation.bias)
        elif isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            init.uniform_(module.weight, -bound, bound)
            if module is self.head:
                init.constant_(module.bias, self.config.initial_bias)
            else:
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, _Zero):
            init.zeros_(module.weight)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, max_bytes: int = MAX_BYTES, **kwargs: Any
    ) -> Any:
        """As in transformers, so also through ``AutoModel``, but strict, and without pickles.

        The files of a local folder are first read as `load_policy` reads them. From a repository transformers downloads
        what it likes, which is checked when it is loaded: ``LearnedUnmaskingSampler.from_pretrained`` checks before.

        Args:
            pretrained_model_name_or_path, args, kwargs: those of transformers.
            max_bytes: largest file to read from a folder.

        Returns:
            The policy in evaluation mode, with ``output_loading_info=True`` also what transformers reports.

        Raises:
            PolicyLoadError: something is missing, unknown, of a wrong type, shape or dtype, or not finite.
            ValueError: ``use_safetensors=False``.
        """
        safe = kwargs.pop("use_safetensors", None)
        if safe is False:
            raise ValueError(f"`use_safetensors={safe}`: a policy is never read from a pickle; leave it out")
        wanted = kwargs.pop("output_loading_info", False)
        folder = Path(str(pretrained_model_name_or_path), kwargs.get("subfolder") or "")
        if folder.is_dir():
            cls._check_folder(folder, max_bytes)
        loaded: Any = super().from_pretrained(
            pretrained_model_name_or_path, *args, use_safetensors=True, output_loading_info=True, **kwargs
        )
        policy, info = loaded
        _check_loaded(policy, info)
        return (policy, info) if wanted else policy

    @classmethod
    def _check_folder(cls, folder: Path, max_bytes: int) -> None:
        config, weights = read_files(folder, max_bytes)
        name = unfinished_config(weights)
        if (folder / name).exists():  # transformers knows nothing of it
            raise PolicyLoadError(name, "a save that was interrupted", "`load_policy`, and to save again")
        with torch.device("meta"):
            expected = cls(config).state_dict()
        parse_weights(weights, expected)

    def push_to_hub(self, *args: Any, **kwargs: Any) -> NoReturn:  # type: ignore[override]
        """Refused: transformers would replace the repository's card by a generic one."""
        del args, kwargs
        raise NotImplementedError(
            "push a policy through its sampler, with the policy's own card: "
            "LearnedUnmaskingSampler(policy).push_to_hub(repo_id)"
        )

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """As in transformers, except that ``push_to_hub=True`` is refused."""
        if kwargs.get("push_to_hub"):
            self.push_to_hub()
        super().save_pretrained(*args, **kwargs)

    def forward(
        self,
        confidences: Tensor,
        masked: Tensor,
        time: Tensor,
        *,
        valid: Tensor | None = None,
        hidden: Tensor | None = None,
        speed: Tensor | None = None,
        further: Tensor | None = None,
        calibration: Tensor | None = None,
    ) -> Tensor:
        """One logit per position. Leading dimensions are [B], or [B, T] when whole rollouts are replayed.

        Args:
            confidences: [..., L, K] float in [0, 1], the K largest token probabilities, descending. At revealed
                positions they are not looked at by a policy without ``reads_revealed``.
            masked: [..., L] bool, still undecided.
            time: [...] float in [0, 1), denoising steps made / positions to fill.
            valid: [..., L] bool, positions that exist (None: all). The others are never attended to, so that a row's
                logits do not depend on how far it was padded on the right; its own logits there mean nothing.
            hidden: [..., L, D] float, the denoiser's last hidden state, for a policy that reads it.
            speed: [...] float in [0, 1], for a speed-conditioned policy.
            further: [..., L, N] float, `further_size` numbers per position, for a policy with ``further_inputs``.
            calibration: [..., 8] float, for a policy with that input.

        Returns:
            [..., L] float32 (float64 for a float64 policy).
        """
        dtype = self.head.weight.dtype
        content = self._content(confidences.to(dtype), hidden, further, self._read(masked, valid))
        modulation = self._modulation(masked, time.to(dtype), speed, calibration)
        scale1, shift1, gate1, scale2, shift2, gate2 = modulation.chunk(6, dim=-1)
        z = self.attention_norm(content) * (1 + scale1) + shift1
        content = content + (1 + gate1) * self._attend(z, valid)
        z = self.feed_forward_norm(content) * (1 + scale2) + shift2
        content = content + (1 + gate2) * self.feed_forward(z)
        logits: Tensor = self.head(self.final_norm(content)).squeeze(-1)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _read(self, masked: Tensor, valid: Tensor | None) -> Tensor | None:
        """[..., L] bool, where confidences and hidden states are read (None: everywhere)."""
        if self.config.reads_revealed:
            return valid
        return masked if valid is None else masked & valid

    def _content(
        self, confidences: Tensor, hidden: Tensor | None, further: Tensor | None, read: Tensor | None
    ) -> Tensor:
        """[..., L, K], [..., L, D] and [..., L, N] -> [..., L, H]. What is not read counts as zero."""
        if confidences.shape[-1] != self.config.top_k:
            raise ValueError(f"`confidences` must be [..., L, {self.config.top_k}], got {list(confidences.shape)}")
        if (hidden is None) != (self.hidden_projection is None):
            raise ValueError(f"`hidden` goes with `hidden_input_size`, which is {self.config.hidden_input_size}")
        if (0 if further is None else further.shape[-1]) != self.config.further_size:
            raise ValueError(f"`further` goes with `further_inputs`, {self.config.further_size} numbers per position")
        if read is not None:  # a NaN beyond a row's end would pass through a zero attention weight
            confidences = confidences.masked_fill(~read[..., None], 0.0)
        content: Tensor = self.confidence_projection(confidences)
        if hidden is not None and self.hidden_projection is not None:
            hidden = hidden.to(content.dtype) if read is None else hidden.masked_fill(~read[..., None], 0.0)
            content = content + self.hidden_projection(hidden.to(confidences.dtype))
        if further is not None and self.further_projection is not None:
            further = further.to(content.dtype) if read is None else further.masked_fill(~read[..., None], 0.0)
            content = content + self.further_projection(further.to(content.dtype))
        return content

    def _modulation(self, masked: Tensor, time: Tensor, speed: Tensor | None, calibration: Tensor | None) -> Tensor:
        """[..., L] and [...] -> [..., L, 6 * H]. The two mask bits of a row have one each, which all places share."""
        if (speed is None) != (self.speed_mlp is None):
            raise ValueError(f"`speed` goes with `speed_conditioned`, which is {self.config.speed_conditioned}")
        shared: Tensor = self.time_mlp(time_features(time, self.config.time_size))
        if speed is not None and self.speed_mlp is not None:
            # Centred, so that both ends of the dial have the same size whatever range of alpha they stand for.
            shared = shared + self.speed_mlp(2 * speed.to(time.dtype)[..., None] - 1)
        if (calibration is None) != (self.calibration_projection is None):
            raise ValueError(f"`calibration` goes with `further_inputs`, which are {self.config.further_inputs}")
        if calibration is not None and self.calibration_projection is not None:
            shared = shared + self.calibration_projection(calibration.to(time.dtype))
        decided, undecided = self.modulation(self.mask_embedding.weight + shared[..., None, :]).split(1, dim=-2)
        return torch.where(masked[..., None], undecided, decided)

    def _attend(self, z: Tensor, valid: Tensor | None) -> Tensor:
        """Bidirectional attention among valid positions: [..., L, H] -> [..., L, H]."""

        def heads(x: Tensor) -> Tensor:  # [..., L, H] -> [..., heads, L, H / heads]
            return x.reshape(*x.shape[:-1], self.config.num_heads, -1).transpose(-2, -3)

        mask = None
        if valid is not None:  # a row without any valid position attends to all: finite, and nobody reads it
            mask = (valid | ~valid.any(-1, keepdim=True))[..., None, None, :]
        query, key = rotate(torch.stack([heads(self.query(z)), heads(self.key(z))]), self.config.rope_theta)
        mixed = F.scaled_dot_product_attention(query, key, heads(self.value(z)), attn_mask=mask)
        output: Tensor = self.attention_output(mixed.transpose(-2, -3).flatten(-2))
        return output
