"""Offline, one thread, fixed seeds; tiny real models shared by a session."""

from __future__ import annotations

import gc
import os

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from models import BUILDERS

torch.set_num_threads(1)
gc.disable()  # until everything is imported; see below


def pytest_collection_finish():
    """What was imported stays: going through it again and again would be a twentieth of the suite."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _fixed_seed():
    torch.manual_seed(0)


@pytest.fixture
def library_logging():
    """For tests of commands, which silence transformers; other tests must not notice."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    yield
    logging.set_verbosity(level)
    logging.enable_progress_bar()


@pytest.fixture(scope="session")
def model():
    """EuroBERT in float32."""
    return BUILDERS["eurobert"]()


@pytest.fixture(scope="session")
def model64():
    """EuroBERT in float64, where results are exact."""
    return BUILDERS["eurobert"](torch.float64)


@pytest.fixture(scope="session")
def models64():
    return {name: build(torch.float64) for name, build in BUILDERS.items()}
