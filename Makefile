# `make demo` and `make test` set everything up on a bare machine with Python 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= .ci/constraints.txt
BIN := $(VENV)/bin
WORKERS ?= 2
ENGINES ?= .venv-engines
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test test-newest test-lowest slow engines lint types clean

# torch comes first and pinned: other ranges pull gigabytes of CUDA on a machine that has no use for them
$(VENV)/installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) torch
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable ".[dev]"
	touch $@

demo: $(VENV)/installed
	$(BIN)/hf-unmask demo

# a file's tests stay together, with what they share
test: $(VENV)/installed
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

# The window of transformers that pyproject.toml promises: the pins are its newest version, this is its oldest.
test-newest: test

test-lowest:
	$(MAKE) test VENV=.venv-lowest CONSTRAINTS=.ci/constraints-lowest.txt

slow: $(VENV)/installed
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "slow and not engines"

# SGLang's own dependencies are a CUDA build of torch and an older transformers: it comes without them, into a place of
# its own, and serves on CPU
$(ENGINES)/installed: pyproject.toml .ci/constraints-lowest.txt .ci/engines.txt
	$(PYTHON) -m venv $(ENGINES)
	$(ENGINES)/bin/python -m pip install --quiet --constraint .ci/constraints-lowest.txt torch
	$(ENGINES)/bin/python -m pip install --quiet --constraint .ci/constraints-lowest.txt --editable . pytest -r .ci/engines.txt
	$(ENGINES)/bin/python -m pip install --quiet --no-deps sglang==0.5.23
	touch $@

# by hand: some twenty servers, one after the other, a minute or more each; K=... picks some
engines: $(ENGINES)/installed
	OMP_NUM_THREADS=1 $(ENGINES)/bin/python -m pytest -m engines tests/integrations/test_sglang_server.py -k "$(K)"
	cat runs/engines.md

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .venv-lowest $(ENGINES) build dist *.egg-info
