# Two commands on a fresh machine: `make demo` and `make test`. Everything lives in .venv and runs/.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export HYDRA_FULL_ERROR ?= 0
export HF_HUB_OFFLINE ?= 1
export WANDB_MODE ?= offline
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help setup demo test test-fast lint format wheel-test clean

help:  ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.installed: requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

setup: $(VENV)/.installed-dev  ## create .venv with everything that tests need

demo: $(VENV)/.installed  ## run the main job: supernet, profiling, surrogates, search, report (about 8 minutes)
	$(BIN)/paretolm demo run_dir=runs/demo

test: $(VENV)/.installed-dev  ## all tests but those that need a GPU or the internet
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --durations=15 --durations-min=10 -m "not gpu and not network"

test-fast: $(VENV)/.installed-dev  ## the quick tests only
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not gpu and not network and not slow"

lint: $(VENV)/.installed-dev  ## style, types of the torch-free modules, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheel-test: $(VENV)/.installed-dev  ## install the wheel in a clean environment and use it from another folder
	PYTHON=$(PYTHON) BUILD_PYTHON=$(CURDIR)/$(BIN)/python bash tests/wheel_test.sh

clean:  ## remove environments and caches, keep runs/
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
