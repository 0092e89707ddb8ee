"""Settings of the trainer."""

from __future__ import annotations

from hf_unmask.trainers import UnmaskingGRPOConfig


def config(**settings):
    return UnmaskingGRPOConfig("unused", use_cpu=True, **settings)
