"""Offline, one thread, fixed seeds; tiny real models shared by a session.

With pytest-xdist the process that hands out the tests reads this file too, so nothing heavy is imported here.
"""

from __future__ import annotations

import gc
import os
import shutil
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = HOME = tempfile.mkdtemp(prefix="hf-home-")  # no cache of the user's, nor of another process
os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start too; several add up in an order that varies

import pytest

gc.disable()  # until everything is imported; see below


def pytest_collection_finish():
    """What was imported stays: going through it again and again would be a twentieth of the suite."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure():
    shutil.rmtree(HOME)


@pytest.fixture(autouse=True)
def _fixed_seed():
    import torch

    # `torch.manual_seed` writes down the stack once for every kind of device that is not there
    torch.default_generator.manual_seed(0)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(0)


@pytest.fixture
def library_logging():
    """For tests of commands, which silence transformers; other tests must not notice."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    yield
    logging.set_verbosity(level)
    logging.enable_progress_bar()


@pytest.fixture(scope="session")
def builders():
    from models import BUILDERS

    return BUILDERS


@pytest.fixture(scope="session")
def model(builders):
    """EuroBERT in float32."""
    return builders["eurobert"]()


@pytest.fixture(scope="session")
def model64(models64):
    """EuroBERT in float64, where results are exact."""
    return models64["eurobert"]


@pytest.fixture(scope="session")
def models64(builders):
    import torch

    return {name: build(torch.float64) for name, build in builders.items()}


@pytest.fixture(scope="session")
def tiny():
    """The embedded model, attached, and its tokenizer."""
    from hf_unmask.tiny import load_tiny

    return load_tiny()


@pytest.fixture(scope="module")
def hub():
    """A Hub on the loopback device."""
    from loopback_hub import loopback_hub

    with loopback_hub() as hub:
        yield hub
