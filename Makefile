# rayqueue: everything a developer runs. Needs make, bash and Python 3.10 or newer; the rest goes into .venv.
#
#   make demo      the main job on real data, start to finish
#   make test      all tests but slow ones   make test-slow  the slow ones
#   make lint      ruff                      make format     let ruff mend what it can
#   make types     mypy on the built wheel   make wheel      sdist and wheel into dist/
#   make bench     the benchmarks            make soak       longer property, crash and simulation runs
#   make chaos     faults on a real Ray cluster, SEED=, MINUTES= or ROUNDS= (docs/testing.md)
#   make clean     what was built            make distclean  .venv too
#
# PYTHON=python3.12 chooses an interpreter, VENV=dir another place; ARGS="..." is passed on to the program.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin

# A stamp stands for "the project is installed, with these extras"; it is made again when pyproject.toml changes.
DEV := $(VENV)/.installed-dev
BENCH := $(VENV)/.installed-bench

.PHONY: help demo test test-slow soak chaos lint format types wheel bench clean distclean

help:
	@sed -n 's/^#   //p' Makefile

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	  echo "rayqueue needs Python 3.10 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo missing)." >&2; \
	  echo "Install one, or name it: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "This Python cannot make virtual environments. On Debian or Ubuntu: sudo apt install python3-venv" >&2; exit 1; }
	@echo "Making the virtual environment $(VENV)"
	$(PYTHON) -m venv $(VENV)

$(DEV): pyproject.toml | $(BIN)/python
	@echo "Installing rayqueue with its extras demo and dev (once; some minutes)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo,dev]'
	@touch $@

$(BENCH): $(DEV)
	@echo "Installing the extra bench (once)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@

demo: $(DEV)
	$(BIN)/rayqueue demo $(ARGS)

test: $(DEV)
	$(BIN)/python -m pytest $(ARGS)

test-slow: $(DEV)
	$(BIN)/python -m pytest -m slow $(ARGS)

# RAYQUEUE_SOAK multiplies the number of examples and crashes, SEEDS is the number of simulated schedules, from SEED on;
# a failure prints what is needed to run it again.
SEED ?= 1
SEEDS ?= 5000
soak: $(DEV)
	RAYQUEUE_SOAK=$${RAYQUEUE_SOAK:-20} $(BIN)/python -m pytest --timeout 3600 -m "slow or not slow" tests/unit $(ARGS)
	$(BIN)/python -m tests.simulation $(SEED) --count $(SEEDS)
	$(BIN)/python -m tests.simulation.partitions $(SEED) --count $(SEEDS) --jobs 0

# Faults are drawn for MINUTES, or ROUNDS times; as root, ARGS="--disk 64" adds a disk that fills up.
MINUTES ?= 10
chaos: $(DEV)
	$(BIN)/python -m tests.chaos $(SEED) $(if $(ROUNDS),--rounds $(ROUNDS),--seconds $$(($(MINUTES) * 60))) $(ARGS)

lint: $(DEV)
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --no-cache --check .

format: $(DEV)
	$(BIN)/ruff check --no-cache --fix .
	$(BIN)/ruff format --no-cache .

wheel: $(DEV)
	rm -rf dist
	$(BIN)/python -m build --outdir dist . > /dev/null
	@ls -l dist

# On an ordinary install: checkers do not see the finder of an editable one, and rayqueue.actors lies elsewhere here.
types: wheel
	rm -rf build/types
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target build/types dist/*.whl
	cd build/types && $(abspath $(BIN))/mypy --config-file ../../pyproject.toml --cache-dir ../mypy -p rayqueue

bench: $(BENCH)
	$(BIN)/python -m benchmarks $(ARGS)

clean:
	rm -rf build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name .venv -prune -o \( -name __pycache__ -o -name '*.egg-info' \) -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
