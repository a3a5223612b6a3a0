# The same commands for people and CI. On a fresh machine: Python ≥ 3.11, git and make; everything else is set up here.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(COVERAGE)  # COVERAGE=--cov counts the branches reached
PARALLEL := -n auto --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help setup demo lab test test-slow test-browser test-cluster test-processors mutants lint format types check bench lock clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## a virtual environment with the pinned packages

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.9"
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	touch $(READY)

demo: $(READY)  ## train plain D-FINE and DEIM on the embedded set (CPU), compare them, run notebook 01
	$(BIN)/deim-lab demo --runs runs

lab: $(READY)  ## JupyterLab on the loopback, at notebook 01
	$(BIN)/jupyter lab --ServerApp.ip=127.0.0.1 notebooks/01_dense_o2o.ipynb

test: $(READY)  ## unit tests, parity, each notebook once, one pass in a browser
	$(PYTEST) $(PARALLEL) -m "not slow and not cluster"

test-slow: $(READY)  ## the tests of more than ten seconds each, without browser
	$(PYTEST) $(PARALLEL) -m "slow and not browser and not cluster"

test-browser: $(READY)  ## every test that drives a browser
	$(PYTEST) -m "browser and not cluster"

test-cluster: $(READY)  ## sweeps under Ray and Slurm, alone: Ray gives up on a busy machine
	$(PYTEST) -m cluster

test-processors: $(READY)  ## the numeric tests at every vector width that this processor has
	$(BIN)/python tests/support/processors.py

mutants: $(READY)  ## mutation testing at low priority, resumable; MUTANTS="losses/terms.py --sample 20" for less
	nice -n 15 $(BIN)/python tests/support/mutants.py $(MUTANTS)

lint: $(READY)  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)  ## format the code (notebooks are left as they are)
	$(BIN)/ruff format .

types: $(READY)  ## mypy: package, benchmarks, tests
	$(BIN)/python -m mypy

check: lint types test test-slow test-browser test-cluster test-processors  ## all that CI runs

bench: $(READY)  ## speed, as ratios measured side by side
	for file in benchmarks/*.py; do $(BIN)/python $$file || exit 1; done

lock: $(READY)  ## pin anew what is tested
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --no-header --no-annotate --upgrade -o requirements.lock

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
